"""Stage 4: the policies, which write the next item's Semantic ID: TIGER's encoder-decoder, and a decoder alone."""

from genrec.model.gpt import Gpt, GptPolicy
from genrec.model.tiger import Tiger, TigerPolicy

__all__ = ["Gpt", "GptPolicy", "Tiger", "TigerPolicy"]
