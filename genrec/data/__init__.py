"""Stage 1: a source's raw tables become a corpus: filtered, numbered, split, served in batches."""
