"""The checks of filters: what `refuse` raises is told, and the context is guarded; `tests/preference/test_filters.py` has the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from torch import Tensor

from genrec.testing import ContractError, check_filter
from genrec.types import SamplerContext, SequenceBatch


@dataclass(frozen=True)
class Odd:
    """Refuses odd items, and does something to the context besides."""

    action: Callable[[SamplerContext], object]
    late: bool = False  # when it is asked, and not when it is built

    def refuse(self, context: SamplerContext) -> Callable[[SequenceBatch, Tensor], Tensor]:
        if not self.late:
            self.action(context)

        def refuses(batch: SequenceBatch, candidates: Tensor) -> Tensor:
            if self.late:
                self.action(context)
            return candidates % 2 == 1

        return refuses


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
def test_a_filter_leaves_the_context_alone(action: Callable[[SamplerContext], object], message: str, late: bool) -> None:
    with pytest.raises(ContractError, match=rf"^Odd: {message}"):
        check_filter(Odd(action, late))


def test_one_that_does_nothing_else_passes() -> None:
    check_filter(Odd(lambda _: None))
