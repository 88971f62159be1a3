"""Stage 2: items become vectors."""
