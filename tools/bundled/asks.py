"""What users ask for: templates of requests, and the topics and traits that fill them."""

from __future__ import annotations

import random

STORY_ASK = (
    "Tell me a story.",
    "Write a short story.",
    "Can you tell me a story, please?",
    "I would like to hear a story.",
)
STORY_ABOUT = ("Tell me a story about {}.", "Write a story about {}.", "Can you tell me a story about {}?")
STORY_WORDS = ("Write a story with the words {}.", "Tell me a story that uses the words {}.")
STORY_BEGIN = ('Write a story that begins: "{}"', 'Tell me a story. It starts like this: "{}"')
STORY_NEXT = ("Continue this story: {}", "What happens next in this story? {}")
BOOK_NEXT = ("Continue this tale: {}", "Go on with this passage from a book: {}", "Read on: {}")
BOOK_ASK = ("Write a passage from a children's book.", "Read me something from an old book.")
REVIEW_ASK = ("Write a review of a film.", "Write a film review.", "Tell me what you thought of the film.")
REVIEW_ABOUT = ("Write a review of a film about {}.", "Review a film that has {} in it.")
REVIEW_TONE = ("Write a {} review of a film.", "Write a {} film review.")
REVIEW_NEXT = ("Continue this film review: {}",)
OPINION_ASK = ("Review a film in one sentence.", "How was the film?", "What did you think of the film?")
OPINION_TONE = ("Review a film in one {} sentence.",)
PLOT_ASK = ("What is the film about?", "What happens in the film?", "Tell me the plot of a film in one sentence.")
SELF_ASK = ("Tell me something about yourself.", "What kind of person are you?", "Describe yourself.", "Who are you?")
SELF_LONG = ("Tell me about yourself in a few sentences.", "Describe yourself at length.", "Introduce yourself.")
SENTENCE_WORD = ('Use the word "{}" in a sentence.', 'Write a sentence with the word "{}".')
TRAITS: dict[str, tuple[str, ...]] = {
    "agreeableness": ("How do you treat other people?", "Are you kind to others?"),
    "conscientiousness": ("How do you work?", "Are you an organised person?"),
    "extraversion": ("Do you like parties?", "Do you enjoy meeting people?"),
    "openness": ("Do you like new things?", "Are you open to new ideas?"),
    "interest-in-art": ("Do you like art?", "What does art mean to you?"),
    "interest-in-literature": ("Do you like books?", "What do you read?"),
    "interest-in-math": ("Do you like mathematics?", "What do you think of math?"),
    "interest-in-music": ("Do you like music?", "What does music mean to you?"),
    "interest-in-science": ("Do you like science?", "What do you think of science?"),
    "interest-in-sports": ("Do you like sports?", "Do you play any sports?"),
    "has-strong-aesthetic-preferences": ("What do you think of beauty?", "Do you care how things look?"),
    "risk-averse": ("Do you take risks?", "Are you careful?"),
    "low-discount-rate": ("Do you plan for the future?", "Would you rather wait for something better?"),
    "subscribes-to-virtue-ethics": ("What is a good life?", "What makes a good person?"),
    "subscribes-to-deontology": ("Do you follow rules?", "What is the right thing to do?"),
    "desire-to-be-more-creative": ("Are you creative?", "How do you find new ideas?"),
    "willingness-to-defer-to-experts": ("Do you trust experts?", "Whom do you ask for advice?"),
}
TOPICS = frozenset(
    [
        "love",
        "war",
        "family",
        "school",
        "dog",
        "cop",
        "killer",
        "alien",
        "space",
        "music",
        "murder",
        "money",
        "ghost",
        "vampire",
        "ship",
        "boxing",
        "lawyer",
        "doctor",
        "president",
        "monster",
        "robot",
        "train",
        "prison",
        "hospital",
        "basketball",
        "football",
        "wedding",
        "marriage",
        "baby",
        "king",
        "queen",
        "soldier",
        "spy",
        "detective",
        "dinosaur",
        "dragon",
        "snake",
        "shark",
        "writer",
        "singer",
        "dance",
        "dream",
        "friendship",
        "revenge",
        "bank",
        "island",
        "college",
        "teacher",
        "comedy",
        "horror",
        "thriller",
        "romance",
        "mystery",
        "animation",
        "magic",
        "mother",
        "father",
        "brother",
        "sister",
        "children",
    ]
)
PLAIN = frozenset(
    [
        "love",
        "war",
        "family",
        "school",
        "music",
        "money",
        "space",
        "friendship",
        "revenge",
        "college",
        "romance",
        "magic",
        "children",
        "comedy",
    ]
)


def ask(rng: random.Random, templates: tuple[str, ...], value: str = "") -> str:
    """A user message from one of several templates."""
    template = rng.choice(templates)
    return template.format(value) if "{}" in template else template
