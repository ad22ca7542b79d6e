"""What an unfinished draft is worth, and how much a proposal must be worth: what stepwise methods are steered by."""
