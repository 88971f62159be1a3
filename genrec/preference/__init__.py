"""Stage 5: preference losses, and the negatives they are given."""
