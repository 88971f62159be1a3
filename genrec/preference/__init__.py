"""Stage 5: preference losses, the negatives they are given, and rewards."""
