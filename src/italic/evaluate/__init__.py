"""Judging methods: how often one beats another at the same budget, and what budget makes them equal."""
