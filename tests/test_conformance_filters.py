"""check_filter: exceptions of `refuse` are named and the context is watched; see also `tests/preference/test_filters.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch import Tensor

from genrec.testing import ContractError, check_filter
from genrec.types import SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Odd:
    """Rejects odd items, and runs an action on the context."""

    action: Callable[[SamplerContext], object]
    late: bool = False  # True: the action runs on each call; False: in `refuse`

    def refuse(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        if not self.late:
            self.action(context)

        def rejects(batch: SequenceBatch, candidates: Tensor) -> Tensor:
            if self.late:
                self.action(context)
            return candidates % 2 == 1

        return rejects


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda context: context.vectors.zero_(), r"context\.vectors was modified"),
        (lambda context: context.popularity.add_(1), r"context\.popularity was modified"),
        (lambda context: context.semantic_ids.codes.zero_(), r"context\.semantic_ids was modified"),
        (lambda context: context.policy.train(), r"context\.policy was left in another mode"),
        (lambda context: {}["x"], r"(refuse\(context\)|a call with candidates \[64, 61\]) raised KeyError\('x'\)"),
    ],
)
def test_a_filter_must_not_change_the_context(action: Callable[[SamplerContext], object], message: str, late: bool) -> None:
    with pytest.raises(ContractError, match=rf"^Odd: {message}"):
        check_filter(Odd(action, late))


def test_a_filter_without_side_effects_passes() -> None:
    check_filter(Odd(lambda _: None))
