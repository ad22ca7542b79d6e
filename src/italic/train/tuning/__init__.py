"""Tuning a model: KL-regularised RL on calibrated rewards, and its offline relatives. Imported on use."""
