"""Stage 4: the policy, which writes the next item's Semantic ID."""
