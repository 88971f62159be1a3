"""Histories with inputs beside the items, for policies that ask for them: the user, and the time and the rating of each event.

A policy asks by its specification (`InputSpecification`). The `history` of batches, and the one that its methods get, is then an
`EventHistory` in place of the tensor of items. Type checkers see a Tensor in both cases. `SequenceBatch.items` and `WindowBatch.items`
are the items, whichever it is.

Nothing of the target is in a history, and nothing of the moment of the prediction: an input is a function of the user and of events
that have an item in the history. A place without an item has no inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, cast, get_args, runtime_checkable

from genrec.errors import UsageError, given

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from genrec.semantic_ids import SemanticIds
    from genrec.types.policy import Policy

HistoryInput = Literal["user", "time", "rating"]
HISTORY_INPUTS: tuple[HistoryInput, ...] = get_args(HistoryInput)


@runtime_checkable
class InputSpecification(Protocol):
    """The architecture of a policy (`genrec.types.PolicySpecification`) that may read more of a history than its items."""

    def history_inputs(self) -> tuple[HistoryInput, ...]:
        """Return the inputs that the policy reads, of "user", "time" and "rating"; () for items alone.

        With at least one of them, every method of the policy that takes a history gets an `EventHistory` with these inputs.
        """
        ...

    def build(self, semantic_ids: SemanticIds) -> Policy:
        """Return an untrained policy; see `genrec.types.PolicySpecification`."""
        ...


@dataclass(frozen=True, eq=False)
class EventHistory:
    """Histories of B users with up to T events each, and the inputs that the policy asks for; the others are None.

    It has those methods of a tensor that act on whole rows and places, so it is cut, moved and repeated like one. Operations on items
    need `items`.
    """

    items: Tensor  # int64 [B, T]  oldest first, left-padded with 0
    user: Tensor | None = None  # int64 [B]  hash of the user's id in the data set, 0 or more
    time: Tensor | None = None  # int64 [B, T]  seconds since 1970; 0 where there is no item
    rating: Tensor | None = None  # float32 [B, T]  NaN where the event has no rating, and where there is no item

    def __post_init__(self) -> None:
        shape = tuple(self.items.shape)
        for name, expected in (("user", shape[:1]), ("time", shape), ("rating", shape)):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != expected:
                raise ValueError(f"EventHistory.{name} must have the shape {list(expected)}, got {list(value.shape)}")

    @property
    def inputs(self) -> tuple[HistoryInput, ...]:
        """The names of the inputs that it has."""
        return tuple(name for name in HISTORY_INPUTS if getattr(self, name) is not None)

    @property
    def shape(self) -> torch.Size:
        """The shape of `items`."""
        return self.items.shape

    @property
    def device(self) -> torch.device:
        """The device of all tensors."""
        return self.items.device

    def __len__(self) -> int:
        return len(self.items)

    def numel(self) -> int:
        """Return B * T."""
        return self.items.numel()

    def __getitem__(self, key: Any) -> EventHistory:
        """Return rows (a slice, or a tensor of numbers or of bool), or rows and a slice of places: `history[rows, -5:]`."""
        rows, places = key if isinstance(key, tuple) else (key, slice(None))
        if isinstance(rows, int) or not isinstance(places, slice):
            raise TypeError(f"an EventHistory is indexed by rows and by a slice of places, got {key!r}; index its items instead")
        index = (rows, places)
        return self._each(lambda user: user[rows], lambda event: event[index])

    def at(self, rows: Tensor, places: Tensor) -> EventHistory:
        """Return the events at places int64 [X, S] of rows int64 [X], none where a place is negative."""
        index, absent = (rows.unsqueeze(1), places.clamp(min=0)), places < 0

        def events(event: Tensor) -> Tensor:
            return event[index].masked_fill(absent, float("nan") if event.is_floating_point() else 0)

        return self._each(lambda user: user[rows], events)

    def padded(self, width: int) -> EventHistory:
        """Return the histories with `width` places, at least T, by padding on the left."""
        missing = width - self.items.shape[1]

        def wider(event: Tensor) -> Tensor:
            none = float("nan") if event.is_floating_point() else 0
            return cast("Tensor", _torch().cat([event.new_full((len(event), missing), none), event], 1))

        return self._each(lambda user: user, wider) if missing else self

    def where(self, chosen: Tensor, other: EventHistory) -> EventHistory:
        """Return these histories in the rows of `chosen`, bool [B], and those of `other`, of the same shape, in the others."""
        own = {name: getattr(self, name) for name in ("items", *self.inputs)}
        rows = {name: chosen if each.ndim == 1 else chosen.unsqueeze(1) for name, each in own.items()}
        return EventHistory(**{name: _torch().where(rows[name], each, getattr(other, name)) for name, each in own.items()})

    def only(self, inputs: Sequence[HistoryInput]) -> EventHistory:
        """Return the histories with these inputs alone, which they must have."""
        return EventHistory(self.items, **{name: getattr(self, name) for name in inputs})

    def to(self, *args: Any, **kwargs: Any) -> EventHistory:
        """Move all tensors, as `Tensor.to(device)`."""
        return self._all(lambda each: each.to(*args, **kwargs))

    def cpu(self) -> EventHistory:
        """Move all tensors to the CPU."""
        return self._all(lambda each: each.cpu())

    def pin_memory(self) -> EventHistory:
        """Copy all tensors to pinned memory."""
        return self._all(lambda each: each.pin_memory())

    def clone(self) -> EventHistory:
        """Copy all tensors."""
        return self._all(lambda each: each.clone())

    def repeat_interleave(self, repeats: int, dim: int = 0) -> EventHistory:
        """Repeat each row; `dim` must be 0."""
        if dim != 0:
            raise ValueError(f"rows of an EventHistory are repeated along dimension 0, got {dim}")
        return self._all(lambda each: each.repeat_interleave(repeats, 0))

    def split(self, size: int, dim: int = 0) -> tuple[EventHistory, ...]:
        """Return parts of `size` rows; `torch.split` calls it. `dim` must be 0."""
        if dim != 0:
            raise ValueError(f"an EventHistory is split along dimension 0, got {dim}")
        return tuple(self[begin : begin + size] for begin in range(0, max(1, len(self)), size))

    def _all(self, change: Callable[[Tensor], Tensor]) -> EventHistory:
        return self._each(change, change)

    def _each(self, of_user: Callable[[Tensor], Tensor], of_event: Callable[[Tensor], Tensor]) -> EventHistory:
        user, time, rating = (
            None if value is None else change(value)
            for value, change in ((self.user, of_user), (self.time, of_event), (self.rating, of_event))
        )
        return EventHistory(of_event(self.items), user, time, rating)

    def __eq__(self, other: object) -> bool:
        raise TypeError("an EventHistory has no values to compare; compare its items: batch.items == 0")

    __hash__ = object.__hash__

    def __iter__(self) -> NoReturn:
        raise TypeError("an EventHistory is no sequence of rows; iterate over its items, or take rows by history[rows]")

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a history with inputs (genrec.types.EventHistory) has no {name!r}; its items, int64 [B, T], are history.items, and "
            "batch.items of any batch"
        )


def items_of(history: Tensor | EventHistory) -> Tensor:
    """Return the items of histories, int64 [B, T]."""
    return history.items if isinstance(history, EventHistory) else history


def padded(history: Tensor, width: int) -> Tensor:
    """Return histories with `width` places, at least T, by padding on the left: a Tensor, or an `EventHistory`."""
    if isinstance(history, EventHistory):
        return as_tensor(history.padded(width))
    return cast("Tensor", _torch().nn.functional.pad(history, (width - history.shape[1], 0)))


def joined_rows(parts: Sequence[Tensor]) -> Tensor:
    """Return the rows of several tensors or histories of the same width, one after the other."""
    first: object = parts[0]
    if not isinstance(first, EventHistory):
        return cast("Tensor", _torch().cat(list(parts)))
    columns = {name: _torch().cat([getattr(part, name) for part in parts]) for name in ("items", *first.inputs)}
    return as_tensor(EventHistory(**columns))


def chosen_rows(chosen: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the histories of `first` in the rows of `chosen`, bool [B], and those of `second`, of the same width, in the others."""
    if isinstance(first, EventHistory):
        assert isinstance(second, EventHistory)
        return as_tensor(first.where(chosen, second))
    return cast("Tensor", _torch().where(chosen.unsqueeze(1), first, second))


def without_events(history: Tensor, hidden: Tensor) -> Tensor:
    """Return histories without the events at places of `hidden`, bool [B, T]: the place has no item, and no inputs."""
    if not isinstance(history, EventHistory):
        return history.masked_fill(hidden, 0)
    torch = _torch()
    place = torch.arange(history.shape[1], device=history.device).expand(history.shape)
    return as_tensor(history.at(torch.arange(len(history), device=history.device), place.masked_fill(hidden, -1)))


def inputs_in(history: object) -> tuple[HistoryInput, ...]:
    """Return the names of the inputs that a history has; () for a tensor of items."""
    return history.inputs if isinstance(history, EventHistory) else ()


def as_tensor(history: EventHistory) -> Tensor:
    """Return the history itself. For type checkers the history of a batch is a Tensor; see the module."""
    return cast("Tensor", history)


def inputs_of(specification: object) -> tuple[HistoryInput, ...]:
    """Return the inputs that a policy asks for, in the order of `HISTORY_INPUTS`; () for items alone, and for a baseline.

    Raises UsageError if `history_inputs()` returns anything else than a tuple of their names.
    """
    if not isinstance(specification, InputSpecification) or isinstance(specification, type):
        return ()
    found: object = specification.history_inputs()
    if not isinstance(found, tuple) or not set(found) <= set(HISTORY_INPUTS) or len(set(found)) < len(found):
        raise UsageError(
            f"{type(specification).__name__}.history_inputs() must return a tuple of {in_words(HISTORY_INPUTS)}, each at most once, "
            f"such as ('user',), got {given(found)}"
        )
    return tuple(name for name in HISTORY_INPUTS if name in found)


def with_inputs(history: Tensor, inputs: Sequence[HistoryInput]) -> Tensor:
    """Return the history as a policy reads it that asks for `inputs`, from the history of one that asks for these and maybe more.

    Raises UsageError if one of them is missing.
    """
    if not inputs:
        return items_of(history)
    return as_tensor(checked_history(history, inputs, "the policy").only(inputs))


def checked_history(history: Tensor | EventHistory, inputs: Sequence[HistoryInput], policy: str) -> EventHistory:
    """Return the history of a policy that asks for inputs; `policy` is its name. Raises UsageError if it lacks one of them."""
    found = inputs_in(history)
    if not isinstance(history, EventHistory) or not set(inputs) <= set(found):
        raise UsageError(
            f"{policy} reads {in_words(inputs)} of a history beside its items, and got {in_words(found) if found else 'items alone'}; "
            "pass the history of a batch of this experiment unchanged, a genrec.types.EventHistory with these inputs"
        )
    return history


def in_words(inputs: Sequence[str]) -> str:
    """Return the names of inputs, such as 'user, time'; 'items alone' for none."""
    return ", ".join(inputs) if inputs else "items alone"


def _torch() -> Any:
    """Return torch, imported at the first use, so that importing the protocols is fast."""
    import torch

    return torch
