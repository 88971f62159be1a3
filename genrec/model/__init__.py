"""Stage 4: the policy, which writes the next item's Semantic ID."""

from genrec.model.tiger import Tiger, TigerPolicy

__all__ = ["Tiger", "TigerPolicy"]
