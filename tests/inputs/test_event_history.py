"""`EventHistory`: cut, moved and repeated like a tensor, and every other use of it is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from genrec.errors import UsageError
from genrec.item_rows import prefixes
from genrec.types import EventHistory, SequenceBatch
from genrec.types.event_history import (
    checked_history,
    chosen_rows,
    inputs_of,
    items_of,
    joined_rows,
    padded,
    with_inputs,
    without_events,
)

NAN = float("nan")
HAND = EventHistory(
    torch.tensor([[0, 5, 6], [7, 8, 9]]),
    torch.tensor([11, 12]),
    torch.tensor([[0, 50, 60], [70, 80, 90]]),
    torch.tensor([[NAN, 5.0, NAN], [1.0, 2.0, 3.0]]),
)


def columns(history: Any) -> list[list[Any]]:
    """Return items, users, times and ratings as lists, with None for NaN."""
    rating = [[None if each != each else each for each in row] for row in history.rating.tolist()]
    return [history.items.tolist(), history.user.tolist(), history.time.tolist(), rating]


@st.composite
def histories(draw: st.DrawFn) -> EventHistory:
    """Left-padded histories; the inputs of an event are functions of its number, so that each can be recognized."""
    lengths = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    width = max(1, *lengths)
    number = torch.arange(1, len(lengths) * width + 1).view(len(lengths), width)
    items = number.masked_fill(torch.arange(width) < width - torch.tensor(lengths)[:, None], 0)
    return of_items(items, torch.arange(len(lengths)) + 1000)


def of_items(items: Tensor, user: Tensor) -> EventHistory:
    return EventHistory(items, user, items * 10, torch.where(items > 0, items / 2, NAN))


def is_consistent(history: EventHistory) -> bool:
    expected = of_items(history.items, torch.zeros(len(history)))
    assert history.time is not None
    assert history.rating is not None
    return torch.equal(history.time, items_of(expected.time)) and torch.equal(  # type: ignore[arg-type]
        history.rating.nan_to_num(-1),
        expected.rating.nan_to_num(-1),  # type: ignore[union-attr]
    )


def test_prefixes_by_hand() -> None:
    """The prefix of row 0 up to place 1 is [0, 0, 5], that of row 1 up to place 1 is [0, 7, 8]: inputs move with their events."""
    found = prefixes(HAND, torch.tensor([[0, 1], [1, 1]]))  # type: ignore[arg-type]
    assert columns(found) == [
        [[0, 0, 5], [0, 7, 8]],
        [11, 12],
        [[0, 0, 50], [0, 70, 80]],
        [[None, None, 5.0], [None, 1.0, 2.0]],
    ]


def test_padding_hiding_and_joining_by_hand() -> None:
    wide = padded(HAND[1:], 4)  # type: ignore[arg-type]
    assert columns(wide) == [[[0, 7, 8, 9]], [12], [[0, 70, 80, 90]], [[None, 1.0, 2.0, 3.0]]]
    hidden = without_events(wide, torch.tensor([[False, False, True, False]]))
    assert columns(hidden) == [[[0, 7, 0, 9]], [12], [[0, 70, 0, 90]], [[None, 1.0, None, 3.0]]]
    both = joined_rows([wide, hidden])
    assert both.items.tolist() == [[0, 7, 8, 9], [0, 7, 0, 9]]  # type: ignore[operator]
    assert columns(chosen_rows(torch.tensor([False]), wide, hidden)) == columns(hidden)


@given(histories(), st.data())
def test_rows_and_places_are_those_of_each_tensor(history: EventHistory, data: st.DataObject) -> None:
    count, width = history.shape
    rows = torch.tensor(data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=5)))
    last = data.draw(st.integers(1, width))
    for found in (history[rows, -last:], history[rows][:, width - last :]):
        assert torch.equal(found.items, history.items[rows, -last:])
        assert is_consistent(found)
        assert torch.equal(items_of(found.user), items_of(history.user)[rows])  # type: ignore[arg-type]
    mask = torch.arange(count) % 2 == 0
    assert torch.equal(history[mask].items, history.items[mask])
    assert torch.equal(torch.cat([part.items for part in torch.split(history, 2)]), history.items)  # type: ignore[arg-type]
    assert torch.equal(history.repeat_interleave(3, 0).items, history.items.repeat_interleave(3, 0))


@given(histories(), st.data())
def test_prefixes_and_padding_keep_each_event_with_its_inputs(history: EventHistory, data: st.DataObject) -> None:
    count, width = history.shape
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, width - 1))
    places = torch.tensor(data.draw(st.lists(pairs, min_size=1, max_size=6)))
    found: Any = prefixes(history, places)  # type: ignore[arg-type]
    assert torch.equal(found.items, prefixes(history.items, places))
    assert is_consistent(found)
    assert torch.equal(found.user, history.user[places[:, 0]])  # type: ignore[index]
    wide = history.padded(width + data.draw(st.integers(0, 3)))
    assert torch.equal(wide.items[:, -width:], history.items)
    assert is_consistent(wide)


def test_batches_are_moved_and_cut_without_knowing_of_inputs() -> None:
    """The way in which samplers, evaluation and alignment cut batches works for both kinds of histories."""
    batch = SequenceBatch(torch.tensor([1, 2]), HAND, torch.tensor([3, 4]))  # type: ignore[arg-type]
    cut = SequenceBatch(*(column[1:].cpu() for column in batch))
    assert columns(cut.history) == [[[7, 8, 9]], [12], [[70, 80, 90]], [[1.0, 2.0, 3.0]]]
    assert cut.items.tolist() == [[7, 8, 9]]
    assert SequenceBatch(torch.tensor([1]), torch.tensor([[5]]), torch.tensor([2])).items.tolist() == [[5]]


@pytest.mark.parametrize(
    "use",
    [
        lambda history: history == 0,
        lambda history: history != 0,
        lambda history: history > 0,
        lambda history: history.masked_fill(torch.tensor(True), 0),
        lambda history: torch.cat([history, history]),
        lambda history: torch.arange(10)[history],
        lambda history: torch.nn.functional.pad(history, (1, 0)),
        lambda history: list(history),
        lambda history: history[0],
        lambda history: history[:, 1],
        lambda history: history.split(1, 1),
        lambda history: history.repeat_interleave(2, 1),
        lambda history: history + 1,
    ],
)
def test_operations_on_items_are_errors(use: Any) -> None:
    """No operation takes the items alone and drops the inputs."""
    with pytest.raises((TypeError, AttributeError, ValueError, IndexError)):
        use(HAND)


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match=r"EventHistory.time must have the shape \[2, 3\], got \[2, 2\]"):
        EventHistory(torch.ones(2, 3, dtype=torch.int64), time=torch.ones(2, 2))


class Asks:
    """A specification that returns what a test gives."""

    def __init__(self, found: object) -> None:
        self.found = found

    def history_inputs(self) -> Any:
        return self.found

    def build(self, semantic_ids: Any) -> Any:
        raise AssertionError


def test_inputs_of_a_specification() -> None:
    assert inputs_of(Asks(("rating", "user"))) == ("user", "rating")
    assert inputs_of(Asks(())) == inputs_of(object()) == ()
    for wrong in (["user"], ("age",), ("user", "user"), None, "user"):
        with pytest.raises(UsageError, match=r"Asks.history_inputs\(\) must return a tuple of user, time, rating"):
            inputs_of(Asks(wrong))


def test_a_history_without_an_input_is_refused() -> None:
    with pytest.raises(UsageError, match="Mine reads user, time of a history beside its items, and got user"):
        checked_history(HAND[:, :].only(("user",)), ("user", "time"), "Mine")
    with pytest.raises(UsageError, match="got items alone"):
        with_inputs(HAND.items, ("user",))
    assert with_inputs(HAND, ()) is HAND.items  # type: ignore[arg-type]
    assert with_inputs(HAND, ("time",)).inputs == ("time",)  # type: ignore[attr-defined, arg-type]
