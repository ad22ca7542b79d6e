"""Conformance suites for methods, models and rewards: run them on your own."""
