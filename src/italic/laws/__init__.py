"""The mathematics on plain numbers: exact laws, bounds, statistics. No model, no randomness of its own."""
