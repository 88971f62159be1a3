"""Data sets: sources, splits, and the corpus that all later stages read."""
