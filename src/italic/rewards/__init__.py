"""Rewards: one module a kind. The registry finds a kind by its module's name."""
