"""Running methods: drivers, the account, budgets, the score cache, the record of a run."""
