"""genrec: generative recommendation with Semantic IDs, from raw interactions to a table that compares SFT with DPO and S-DPO."""

__version__ = "0.1.0"
