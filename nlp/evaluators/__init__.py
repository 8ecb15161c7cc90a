"""Evaluators of language models and of what they write, see `training.evaluation`."""
