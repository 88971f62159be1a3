"""Stage 6: ranks, metrics, and what they are worth beside each other."""
