"""Stage 3: vectors become Semantic IDs."""
