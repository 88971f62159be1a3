"""Proposers: who proposes the candidates of a row. `Sampled` takes the logged item and the negatives of a sampler."""

from genrec.preference.candidates.sampled import Sampled

__all__ = ["Sampled"]
