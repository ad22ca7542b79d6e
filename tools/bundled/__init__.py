"""How the bundled models are made: data, tokenizer, language model, reward models and prompt sets."""
