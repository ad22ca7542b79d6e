from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED
from italic.core.errors import RewardError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Spent
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Sampling, Until
from italic.core.spec import build_model, build_reward
from italic.laws.finite import entropy, total_variation
from italic.laws.statistics import chi_square
from italic.models.toy import ToyModel, truncate
from italic.rewards.toy import ToyReward

MODEL = ToyModel(letters=3, length=4, seed=2)
PROMPT = Prompt("p", text="once")
SAMPLINGS = {
    "plain": Sampling(),
    "hot": Sampling(temperature=1.7),
    "cold": Sampling(temperature=0.6, max_tokens=3),
    "top-k": Sampling(top_k=2),
    "top-p": Sampling(top_p=0.8),
    "min-p": Sampling(min_p=0.3),
    "stop": Sampling(stop=("b", "ac", "cc")),
    "all": Sampling(max_tokens=4, temperature=0.8, top_k=3, top_p=0.9, min_p=0.05, stop=("ab",)),
}


def start(n, sampling=SAMPLINGS["plain"], prompt=PROMPT, model=MODEL, key=1):
    return model.start(prompt, Key(key).seeds(n), sampling)


def extend(drafts, until=FINISH, model=MODEL):
    return model.extend([Extend(drafts, until)])[0].drafts


def rows_of(drafts):
    columns = (drafts.texts, drafts.tokens, drafts.logprobs, drafts.reason, drafts.chars)
    return [(x, t.tolist(), p.tolist(), str(r), int(c)) for x, t, p, r, c in zip(*columns, strict=True)]


@pytest.mark.parametrize("name", SAMPLINGS)
def test_samples_follow_the_law(name):
    texts, law = MODEL.law(PROMPT, SAMPLINGS[name])
    assert law.sum() == pytest.approx(1)
    assert len(set(texts)) == len(texts)
    drafts = extend(start(20_000, SAMPLINGS[name]))
    assert drafts.done.all()
    seen = Counter(drafts.texts)
    assert seen.keys() <= set(texts)
    assert chi_square(np.array([seen[t] for t in texts]), law).p_value > 1e-4


def test_the_law_of_another_prompt_is_rejected():
    texts, law = MODEL.law(Prompt("q", text="twice"), Sampling())
    seen = Counter(extend(start(20_000)).texts)
    assert chi_square(np.array([seen[t] for t in texts]), law).p_value < 1e-12


@pytest.mark.parametrize("name", [n for n, s in SAMPLINGS.items() if not s.stop])
def test_logprobs_add_up_to_the_law(name):
    sampling = SAMPLINGS[name]
    law = dict(zip(*MODEL.law(PROMPT, sampling), strict=True))
    drafts = extend(start(300, sampling))
    for text, logprobs in zip(drafts.texts, drafts.logprobs, strict=True):
        assert np.exp(logprobs.sum()) == pytest.approx(law[text], rel=1e-5)


def test_greedy():
    greedy = Sampling(temperature=0)
    drafts = extend(start(5, greedy))
    assert len(set(drafts.texts)) == 1
    assert MODEL.law(PROMPT, greedy)[0] == drafts.texts[:1]
    assert not any(logprobs.any() for logprobs in drafts.logprobs)


def naive_law(logits, s):
    """One row of `truncate`, token by token."""
    weights = {t: np.exp((x - max(logits)) / s.temperature) for t, x in enumerate(logits)}
    ordered = sorted(weights, key=lambda t: -weights[t])
    if s.top_k:
        ordered = ordered[: s.top_k]
    total, kept, mass = sum(weights[t] for t in ordered), [], 0.0
    for t in ordered:
        if mass < s.top_p * total * (1 - 1e-12):
            kept.append(t)
        mass += weights[t]
    kept = [t for t in kept if weights[t] >= s.min_p * weights[ordered[0]]]
    total = sum(weights[t] for t in kept)
    return [weights[t] / total if t in kept else 0.0 for t in range(len(logits))]


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=6, unique=True),
    st.builds(
        Sampling,
        temperature=st.floats(0.2, 3),
        top_k=st.integers(0, 7),
        top_p=st.floats(0.01, 1),
        min_p=st.floats(0, 1),
    ),
)
def test_truncation(logits, sampling):
    if np.min(np.diff(np.sort(logits)), initial=1) > 1e-6:
        assert truncate(np.array([logits]), sampling)[0] == pytest.approx(naive_law(logits, sampling), abs=1e-9)


def test_prompts():
    law = MODEL.law(PROMPT, Sampling())[1]
    same = MODEL.law(Prompt("other id", text="once"), Sampling())[1]
    chat = MODEL.law(Prompt("c", messages=({"role": "user", "content": "once"},)), Sampling())[1]
    assert np.array_equal(law, same)
    assert total_variation(law, chat) > 0.1
    assert total_variation(law, replace(MODEL, seed=3).law(PROMPT, Sampling())[1]) > 0.1


def test_a_longer_model_begins_alike():
    table = MODEL.table(np.array([9], np.int32), Sampling()).probabilities
    longer = replace(MODEL, length=6).table(np.array([9], np.int32), Sampling()).probabilities
    inner = (MODEL.nodes - 1) // MODEL.letters
    assert np.array_equal(table[:inner], longer[:inner])
    assert np.all(table[inner:, -1] == 1)


@pytest.mark.parametrize("name", SAMPLINGS)
def test_going_on_is_as_going_through(name):
    whole = rows_of(extend(start(50, SAMPLINGS[name])))
    drafts = start(50, SAMPLINGS[name])
    while not drafts.done.all():
        longer = extend(drafts, Until(steps=1))
        assert np.array_equal(longer.steps, drafts.steps + ~drafts.done)
        drafts = longer
    assert rows_of(drafts) == whole
    assert rows_of(extend(extend(start(50, SAMPLINGS[name])).cut(2))) == whole
    assert rows_of(extend(start(50, SAMPLINGS[name]), Until(steps=tuple(range(1, 51))))[4:]) == whole[4:]


def test_each_row_is_on_its_own():
    whole = rows_of(extend(start(40)))
    assert [rows_of(extend(start(40)[[i]]))[0] for i in range(40)] == whole
    jobs = [Extend(start(40)[i : i + 10]) for i in (30, 0, 20, 10)] + [Extend(start(3, prompt=Prompt("q", text="no")))]
    answers = [rows_of(g.drafts) for g in MODEL.extend(jobs)]
    assert answers[1] + answers[3] + answers[2] + answers[0] == whole
    assert answers[4] == rows_of(extend(start(3, prompt=Prompt("q", text="no"))))


@pytest.mark.parametrize(("threshold", "least"), [(0.9, 1), (1.1, 1), (1.1, 2), (0.0, 3), (9.0, 1)])
def test_entropy_ends_an_extension(threshold, least):
    drafts = start(60)
    prefixes = {text: node for node, text in enumerate(MODEL.prefixes())}
    probabilities = MODEL.table(drafts.prompt_tokens, Sampling()).probabilities
    end = extend(drafts)
    seen = 0
    while not drafts.done.all():
        longer = extend(drafts, Until(entropy=threshold, min_steps=least))
        for row in np.flatnonzero(~drafts.done):
            text, before, after = end.texts[row], int(drafts.steps[row]), int(longer.steps[row])
            surprising = [entropy(probabilities[prefixes[text[:k]]]) >= threshold for k in range(len(text) + 1)]
            expected = next((k for k in range(before + least, len(text) + 1) if surprising[k]), end.steps[row])
            assert after == expected
            assert longer.done[row] == (after == end.steps[row])
            seen += not longer.done[row]
        drafts = longer
    assert rows_of(drafts) == rows_of(end)
    assert (seen > 0) == (threshold < 9)


def test_entropy_is_of_the_untruncated_model():
    for sampling in (Sampling(temperature=0.3), Sampling(top_k=1)):
        until = Until(entropy=1.0)
        plain, other = MODEL.table(start(1).prompt_tokens, Sampling()), MODEL.table(start(1).prompt_tokens, sampling)
        assert np.array_equal(plain.entropy, other.entropy)
        assert extend(start(9, sampling), until).steps.min() >= 1


def test_why_a_row_is_done():
    sampling = Sampling(max_tokens=3, stop=("ba", "c"))
    drafts = extend(start(500, sampling))
    assert set(drafts.reason) == {END, STOP, LENGTH}
    for text, tokens, reason in zip(drafts.texts, drafts.tokens, drafts.reason, strict=True):
        full = MODEL.codec.decode(drafts.prompt_tokens, tokens)
        assert "ba" not in text
        assert "c" not in text
        assert (reason == STOP) == (full.endswith(("ba", "c")))
        assert (reason == END) == (tokens[-1] == MODEL.letters)
        assert full.startswith(text)
        if reason == LENGTH:
            assert len(tokens) == 3
    assert not drafts.cut(1).done[drafts.steps > 1].any()


def test_what_was_spent():
    job = Extend(start(30))
    alone = MODEL.extend([job])[0].spent
    pair = MODEL.extend([job, Extend(extend(start(4))), Extend(start(8), Until(steps=1))])
    assert alone.tokens == alone.positions == extend(start(30)).steps.sum()
    assert alone.calls == extend(start(30)).steps.max()
    assert [g.spent.tokens for g in pair] == [alone.tokens, 0, 8]
    assert sum(g.spent.calls for g in pair) == alone.calls
    assert MODEL.extend([]) == []


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 20), st.integers(0, 80), st.integers(0, 999))
def test_a_session_answers_as_extend_does(sizes, rows, tokens, seed):
    """Jobs that join at any time, with any bound on the rows, get `extend`'s answers; a bound on tokens is kept."""
    rng = np.random.default_rng(seed)
    jobs = [
        Extend(start(n, SAMPLINGS["stop" if i % 2 else "plain"], key=i), Until(steps=rng.choice([None, 1, 2, 3])))
        for i, n in enumerate(sizes)
    ]
    model = replace(MODEL, rows=rows)
    budget = tokens if tokens <= 60 else None
    session, answers, submitted = model.open(), {}, 0
    while submitted < len(jobs) or session.busy:
        for _ in range(rng.integers(4)):
            if submitted < len(jobs):
                session.submit(submitted, jobs[submitted])
                submitted += 1
        before = session.generated
        for ticket, grown in session.step(None if budget is None else budget - session.generated):
            assert ticket not in answers
            answers[ticket] = grown
        assert session.generated <= (np.inf if budget is None else budget)
        assert session.generated - before <= sum(sizes)
    assert answers.keys() == set(range(len(jobs)))
    assert session.generated == sum(g.spent.tokens for g in answers.values())
    for ticket, job in enumerate(jobs):
        grown, whole = answers[ticket], MODEL.extend([job])[0].drafts
        assert grown.spent.tokens == grown.drafts.steps.sum()
        if grown.stopped:
            assert budget is not None
            assert rows_of(grown.drafts) == rows_of(whole.cut(grown.drafts.steps))
        else:
            assert rows_of(grown.drafts) == rows_of(whole)


def test_the_newest_jobs_are_stopped_first():
    session = replace(MODEL, rows=6).open()
    for ticket in range(3):
        session.submit(ticket, Extend(start(3, key=ticket)))
    assert session.busy
    assert not session.hungry
    session.step(None)
    answers = dict(session.step(4))
    assert answers[1].stopped
    assert answers[2].stopped
    assert 0 not in answers
    assert (answers[1].drafts.steps <= 1).all()
    assert answers[2].drafts.steps.sum() == 0
    assert session.hungry
    while session.busy:
        for ticket, grown in session.step(None):
            assert (ticket, grown.stopped) == (0, False)
    assert session.calls == extend(start(3, key=0)).steps.max()


def test_finished_drafts_are_answered_at_once():
    session = MODEL.open()
    session.submit(7, Extend(extend(start(2))))
    ((ticket, grown),) = session.step(0)
    assert (ticket, grown.stopped, session.calls) == (7, False, 0)


@pytest.mark.parametrize(
    "values", [{"letters": 0}, {"letters": 27}, {"length": 0}, {"length": 40}, {"spread": -1}, {"rows": 0}]
)
def test_models_that_cannot_be(values):
    with pytest.raises(UsageError, match="toy model") as refusal:
        ToyModel(**values)
    assert refusal.value.hint.startswith("Give")


def features(drafts, model=MODEL):
    return model.embed([drafts])[0].features


def test_features_tell_every_prefix_apart_and_give_its_law():
    """The logits are `spread` times the first features: checked against the table, node by node."""
    for model in (MODEL, replace(MODEL, spread=0)):
        drafts = extend(start(4000, model=model), model=model)
        drafts = drafts.concat(*(drafts.cut(k) for k in range(model.length + 1)))
        seen = {}
        for text, tokens, row in zip(drafts.texts, drafts.tokens, features(drafts, model), strict=True):
            state = text, tokens.tolist()[-1:] == [model.letters]
            assert seen.setdefault(state, row.tobytes()) == row.tobytes()
        assert len(set(seen.values())) == len(seen) > model.nodes
    table = MODEL.table(start(1).prompt_tokens, Sampling())
    nodes = {text: node for node, text in enumerate(MODEL.prefixes())}
    for text, row in zip(drafts.texts, features(drafts), strict=True):
        logits = MODEL.spread * row[: MODEL.letters + 1]
        if len(text) < MODEL.length:
            law = np.exp(logits) / np.exp(logits).sum()
            assert law == pytest.approx(table.probabilities[nodes[text]])


def test_features_count_the_letters_and_say_what_ended():
    drafts = extend(start(200))
    drafts = drafts.concat(drafts.cut(drafts.steps - 1))
    written, ended = features(drafts)[:, -2:].T
    assert written.tolist() == [len(text) / MODEL.length for text in drafts.texts]
    assert ended.tolist() == (drafts.reason == END).tolist()


def test_features_depend_on_prompt_seed_and_letters_alone():
    here = features(start(3))
    assert len(np.unique(here, axis=0)) == 1
    for sampling in SAMPLINGS.values():
        assert np.array_equal(features(start(3, sampling)), here)
    assert np.array_equal(features(start(3, prompt=Prompt("other id", text="once"))), here)
    assert not np.any(features(start(1, prompt=Prompt("q", text="twice")))[:, :-2] == here[:1, :-2])
    assert not np.any(features(start(1), replace(MODEL, seed=3))[:, :-2] == here[:1, :-2])
    assert np.array_equal(features(start(3), replace(MODEL, length=6))[:, :-2], here[:, :-2])


def test_what_embedding_costs():
    five, none, three = MODEL.embed([start(5), start(2)[[]], extend(start(3))])
    assert (five.spent, none.spent, three.spent) == (Spent(0, 5, 1), Spent(), Spent(0, 3, 1))
    assert none.features.shape == (0, MODEL.letters + 3)
    assert MODEL.embed([]) == []


def test_specs():
    assert build_model("toy:letters=3,length=4,seed=2") == MODEL
    assert build_model(MODEL.name) == MODEL
    assert build_reward("toy:seed=4,levels=3") == ToyReward(seed=4, levels=3)
    for reward in (ToyReward(seed=4, levels=3), ToyReward(seed=1, scale=2.5)):
        assert build_reward(reward.name) == reward


def test_rewards_are_normal_numbers():
    reward = ToyReward(seed=1, scale=2.0)
    values = np.array([reward.of("p", str(i)) for i in range(4000)])
    assert values.mean() == pytest.approx(0, abs=0.1)
    assert values.std() == pytest.approx(2, abs=0.1)
    assert reward.of("p", "1") == ToyReward(seed=1, scale=2.0).of("p", "1")
    assert reward.of("p", "1") != reward.of("q", "1")
    assert reward.of("p", "1") != ToyReward(seed=2, scale=2.0).of("p", "1")


def test_levels_are_equal_shares():
    reward = ToyReward(seed=1, levels=4)
    counts = np.array(list(Counter(reward.of("p", str(i)) for i in range(4000)).values()))
    assert chi_square(counts, np.full(4, 0.25)).p_value > 1e-4
    assert ToyReward(levels=1).of("p", "x") == 0


def test_scores():
    reward = ToyReward()
    drafts = extend(start(5)).concat(start(1))
    scored, other = reward.score([drafts, start(2)])
    assert scored.rewards.tolist() == [reward.of("once", text) for text in drafts.texts]
    assert not scored.missing.any()
    assert scored.tokens == sum(map(len, drafts.texts))
    assert len(other.rewards) == 2
    assert drafts.reason[-1] == UNFINISHED
    with pytest.raises(RewardError, match="texts only"):
        reward.score([object()])


@pytest.mark.parametrize("values", [{"levels": 0}, {"scale": 0}, {"scale": float("nan")}])
def test_rewards_that_cannot_be(values):
    with pytest.raises(UsageError, match="toy reward") as refusal:
        ToyReward(**values)
    assert refusal.value.hint.startswith("Give")


@pytest.mark.parametrize("name", SAMPLINGS)
def test_likelihoods_are_those_of_the_own_law(name):
    """Each token's log-probability and the entropy before it, whatever the sampling, from the logits themselves."""
    drafts = extend(start(60, SAMPLINGS[name]))
    weighed = MODEL.likelihood([drafts])[0]
    table = MODEL.table(drafts.prompt_tokens, drafts.sampling)
    for i, tokens in enumerate(drafts.tokens):
        node = 0
        for j, token in enumerate(tokens):
            logits = MODEL.spread * table.normal[node] + np.where(
                np.arange(4) < 3, 0.0 if j < MODEL.length else -np.inf, 0
            )
            law = np.exp(logits) / np.exp(logits).sum()
            assert weighed.logprobs[i, j] == pytest.approx(np.log(law[token]), abs=1e-12)
            assert weighed.entropies[i, j] == pytest.approx(entropy(law), abs=1e-12)
            node = MODEL.letters * node + 1 + token
        assert np.isnan(weighed.logprobs[i, len(tokens) :]).all()
        assert np.isnan(weighed.entropies[i, len(tokens) :]).all()
    assert weighed.logprobs.shape == weighed.entropies.shape == (60, drafts.steps.max())
    assert weighed.spent == Spent(positions=int(drafts.steps.sum()), calls=1)


def test_likelihoods_add_up_to_the_law():
    texts, law = MODEL.law(PROMPT, Sampling())
    drafts = extend(start(300))
    sums = np.nansum(MODEL.likelihood([drafts])[0].logprobs, axis=1)
    assert np.exp(sums) == pytest.approx([law[texts.index(text)] for text in drafts.texts])


def test_likelihoods_of_nothing():
    empty = MODEL.likelihood([start(3), start(0), start(2)])
    assert [w.logprobs.shape for w in empty] == [(3, 0), (0, 0), (2, 0)]
    assert all(w.spent == Spent() for w in empty)
    foreign = replace(extend(start(1)), ids=np.array([[0, 1, 2, 0, 1]], dtype=np.int32), steps=np.array([5]))
    assert MODEL.likelihood([foreign])[0].logprobs[0, 4] == -np.inf, "no letter is left at full length"


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("name", SAMPLINGS)
def test_the_likeliest_tokens(name, k):
    drafts = extend(start(40, SAMPLINGS[name]), Until(steps=tuple(1 + i % 5 for i in range(40))))
    fanned = MODEL.likeliest([(drafts, k)])[0]
    table = MODEL.table(drafts.prompt_tokens, drafts.sampling)
    expected = []
    for i in np.flatnonzero(~drafts.done):
        node = MODEL.node(drafts.ids[[i]])[0]
        ranked = sorted((t for t in range(4) if table.own[node, t] > 0), key=lambda t: -table.own[node, t])[:k]
        expected += [(i, t, np.float32(np.log(table.own[node, t]))) for t in ranked]
    assert fanned.parents.tolist() == [i for i, *_ in expected]
    assert [t[-1] for t in fanned.drafts.tokens] == [t for _, t, _ in expected]
    assert [p[-1] for p in fanned.drafts.logprobs] == [p for *_, p in expected]
    n = int(np.sum(~drafts.done))
    assert fanned.spent == Spent(tokens=n, positions=n, calls=min(n, 1))


@pytest.mark.parametrize("name", SAMPLINGS)
def test_a_child_ends_as_a_drawn_row_does(name):
    drafts = start(1, SAMPLINGS[name])
    seen = Counter()
    while len(drafts):
        fanned = MODEL.likeliest([(drafts, 4)])[0]
        going = drafts[np.repeat(np.arange(len(drafts)), 40)].reseed(Key(int(drafts.steps[0])).seeds(40 * len(drafts)))
        drawn = extend(going, Until(steps=1))
        drawn = {tuple(t.tolist()): row for t, row in zip(drawn.tokens, rows_of(drawn), strict=True)}
        for i, (tokens, row) in enumerate(zip(fanned.drafts.tokens, rows_of(fanned.drafts), strict=True)):
            wanted = drawn.get(tuple(tokens.tolist()), row)
            assert (row[0], row[3:]) == (wanted[0], wanted[3:])
            seen[fanned.drafts.reason[i]] += tuple(tokens.tolist()) in drawn
        drafts = fanned.drafts[np.flatnonzero(~fanned.drafts.done)]
    ends = {END, UNFINISHED} | ({STOP} if drafts.sampling.stop else set())
    assert {reason for reason, count in seen.items() if count} >= ends
    assert name not in ("cold", "all") or seen[LENGTH]


def test_equal_tokens_are_ranked_by_their_number():
    flat = replace(MODEL, spread=0.0)
    fanned = flat.likeliest([(start(2, model=flat), 3)])[0]
    assert [t.tolist() for t in fanned.drafts.tokens] == [[0], [1], [2]] * 2
    assert np.array_equal(fanned.drafts.seeds, start(2).seeds[[0, 0, 0, 1, 1, 1]])


def test_no_row_is_unfinished():
    none = MODEL.likeliest([(extend(start(3)), 2), (start(0), 2)])
    assert [len(f.drafts) for f in none] == [len(f.parents) for f in none] == [0, 0]
    assert all(f.spent == Spent() for f in none)
