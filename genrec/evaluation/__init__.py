"""Evaluation: ranks of held-out items, metrics, and statistical comparison of runs."""
