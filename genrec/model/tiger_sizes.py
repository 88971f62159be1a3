"""The sizes of a TIGER policy by the number of items, for those that a specification leaves open."""

from __future__ import annotations

from typing import NamedTuple

SMALL_CATALOG = 2_048  # items; a smaller catalog gets the small sizes


class Sizes(NamedTuple):
    """The sizes of a policy, with the names of the fields of `genrec.model.Tiger`."""

    d_model: int
    d_ff: int
    num_heads: int
    d_kv: int
    num_encoder_layers: int
    num_decoder_layers: int


PAPER = Sizes(d_model=128, d_ff=1024, num_heads=6, d_kv=64, num_encoder_layers=4, num_decoder_layers=4)
SMALL = Sizes(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2)  # about a tenth of the time


def sizes_for(specification: object, items: int) -> Sizes:
    """Return the sizes for a catalog: the specification's fields of these names, where None is the paper's size, or a small one."""
    default = PAPER if items >= SMALL_CATALOG else SMALL
    given = (getattr(specification, name) for name in Sizes._fields)
    return Sizes(*(usual if size is None else size for size, usual in zip(given, default, strict=True)))
