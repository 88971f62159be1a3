"""Bounds of the health of Semantic IDs, and the warnings about figures beyond them.

The bounds are fixed, so that a warning means the same for every run. `Tokenize.min_usage` alone is a setting.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from genrec.tokenizer.health import collapse

MIN_USAGE = 0.5  # usage bound of artifacts that do not record `Tokenize.min_usage`
MAX_COLLIDED = 0.5  # share of items: above it, most items are told apart by arbitrary numbers instead of by their codes
MAX_ERROR = 0.75  # share of the variance: above it, the codes explain less of the vectors than they leave out by three to one


def health_warnings(figures: dict[str, Any]) -> list[str]:
    """Return a message for each figure of `genrec.tokenizer.health.health` beyond its bound."""
    return [*filter(None, collapse(figures, figures.get("min_usage", MIN_USAGE))), *_shared(figures), *_beyond(figures)]


def _shared(figures: dict[str, Any]) -> Iterator[str]:
    """Yield a message about items that share their final Semantic ID."""
    if figures["collided"]:
        yield (
            f"{figures['collided']} of {figures['items']} items share their Semantic ID with another item "
            f"(Tokenize.collisions = {figures.get('collisions')!r}); 'append' and 'reassign' give every item a different one"
        )


def _beyond(figures: dict[str, Any]) -> Iterator[str]:
    """Yield messages about codes that tell too few items apart, and about a large reconstruction error.

    Items of equal vectors are left out, because no quantizer can tell them apart.
    """
    collided, error = figures["collided_before_separation_unequal"] / figures["items"], figures["reconstruction"]
    advice = "use more codes or levels (codebook_size, num_levels), or train the quantizer for longer (RQVAE.epochs)"
    if collided > MAX_COLLIDED:
        yield (
            f"{collided:.1%} of the items got the codes of an item with another vector, more than {MAX_COLLIDED:.0%}: the codes tell "
            f"most items apart only by the level or code that separates collisions, which has no meaning; {advice}"
        )
    if error is not None and error > MAX_ERROR:
        yield (
            f"the reconstruction error is {error:.1%} of the variance of the vectors, more than {MAX_ERROR:.0%}: the codes say little "
            f"about the items; {advice}"
        )
