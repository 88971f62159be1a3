"""Examples and windows: one example per prefix, no future item in a history, padding on the left."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from genrec.data.corpus import Corpus
from genrec.data.examples import Examples, Padding, Windows, epoch_order, examples, windows
from genrec.data.splits import Part
from genrec.errors import InputError, UsageError


def corpus(sequences: list[list[int]], held: list[tuple[int, int]] | None = None) -> Corpus:
    """Return a corpus in which user u has the items sequences[u-1]; the last held[u-1] are (validation, test), by default one each."""
    end = np.cumsum([len(items) for items in sequences])
    validation, test = np.array([(1, 1)] * len(sequences) if held is None else held).T
    bounds = np.stack([np.append(0, end[:-1]), end - test - validation, end - test, end], axis=1)
    item = np.concatenate(sequences).astype(np.int32)
    return Corpus(Path(), item, np.arange(len(item)), None, bounds, {"items": int(item.max())})


SEQUENCES = [[1, 2, 3, 4, 5], [6, 7, 8]]


def whole(entries: Examples) -> list[tuple[int, list[int], int]]:
    batch = entries.batch(torch.arange(len(entries)))
    return [(int(u), h.tolist(), int(t)) for u, h, t in zip(*batch, strict=True)]


def test_training_has_one_example_per_prefix() -> None:
    # user 1 trains on 1, 2, 3; user 2 has only 6, which gives no example
    assert whole(examples(corpus(SEQUENCES), "train", 20)) == [(1, [0, 1], 2), (1, [1, 2], 3)]


def test_validation_and_test_histories() -> None:
    assert whole(examples(corpus(SEQUENCES), "validation", 20)) == [(1, [1, 2, 3], 4), (2, [0, 0, 6], 7)]
    assert whole(examples(corpus(SEQUENCES), "test", 20)) == [(1, [1, 2, 3, 4], 5), (2, [0, 0, 6, 7], 8)]
    assert whole(examples(corpus(SEQUENCES), "test", 1)) == [(1, [4], 5), (2, [7], 8)]


def test_a_batch_is_as_long_as_its_longest_history() -> None:
    entries = examples(corpus(SEQUENCES), "test", 20)
    batch = entries.batch(torch.tensor([1]))
    assert batch.history.tolist() == [[6, 7]]
    assert all(part.dtype == torch.int64 for part in batch)
    none = entries.batch(torch.tensor([], dtype=torch.int64))
    assert none.history.shape == (0, 0)


def test_select_keeps_the_requested_order() -> None:
    entries = examples(corpus(SEQUENCES), "test", 20)
    chosen = entries.select(torch.tensor([1, 0, 1]))
    assert len(chosen) == 3
    assert chosen.batch(torch.arange(3)).target.tolist() == [8, 5, 8]
    assert chosen.select(torch.tensor([1])).batch(torch.arange(1)).target.tolist() == [5]


def test_a_split_in_time_gives_one_target_per_user_with_a_history() -> None:
    # user 1 has two test events, and only the first is a target; user 2 has no validation event; user 3 has no history
    made = corpus([[1, 2, 3, 4], [5, 6], [7, 8]], [(1, 2), (0, 1), (0, 2)])
    assert whole(examples(made, "test", 20)) == [(1, [1, 2], 3), (2, [0, 5], 6)]
    assert whole(examples(made, "validation", 20)) == [(1, [1], 2)]
    with pytest.raises(InputError, match="'train' holds no example"):
        examples(made, "train", 20)


def test_settings_are_checked() -> None:
    with pytest.raises(UsageError, match="history_length"):
        examples(corpus(SEQUENCES), "train", 0)
    with pytest.raises(UsageError, match="a part is one of"):
        examples(corpus(SEQUENCES), "dev", 1)  # type: ignore[arg-type]


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=12), min_size=1, max_size=8),
    st.integers(1, 14),
    st.sampled_from(("train", "validation", "test")),
    st.randoms(use_true_random=False),
)
def test_batches_equal_slices(sequences: list[list[int]], length: int, part: Part, random: object) -> None:
    held = {"train": 2, "validation": 1, "test": 0}[part]
    expected = []
    for user, items in enumerate(sequences, 1):
        seen = items[: len(items) - held]
        places = range(1, len(seen)) if part == "train" else [len(seen) - 1]
        expected += [(user, seen[max(0, place - length) : place], seen[place]) for place in places]
    entries = examples(corpus(sequences), part, length)
    assert len(entries) == len(expected)
    order = list(range(len(entries)))
    random.shuffle(order)  # type: ignore[attr-defined]
    batch = entries.batch(torch.tensor(order))
    assert batch.history.shape[1] == max(len(history) for _, history, _ in expected)
    for row, place in enumerate(order):
        user, history, target = expected[place]
        assert (int(batch.user[row]), int(batch.target[row])) == (user, target)
        assert batch.history[row].tolist() == [0] * (batch.history.shape[1] - len(history)) + history


@given(st.lists(st.integers(4, 12), min_size=1, max_size=8))
def test_no_training_history_holds_an_item_of_the_future(lengths: list[int]) -> None:
    ends = np.cumsum(lengths)
    sequences = [list(range(end - length + 1, end + 1)) for end, length in zip(ends, lengths, strict=True)]  # increasing items
    batch = (entries := examples(corpus(sequences), "train", 50)).batch(torch.arange(len(entries)))
    assert bool((batch.history < batch.target[:, None]).all())
    held_out = torch.tensor(np.concatenate([ends, ends - 1]))
    assert not torch.isin(batch.history, held_out).any()
    assert not torch.isin(batch.target, held_out).any()


def test_epoch_order_depends_on_seed_and_epoch_only() -> None:
    first = epoch_order(100, seed=1, epoch=0)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert torch.equal(first, epoch_order(100, seed=1, epoch=0))
    assert torch.equal(state, torch.get_rng_state())  # the global state is unchanged
    assert torch.equal(first.sort().values, torch.arange(100))
    assert not torch.equal(first, epoch_order(100, seed=1, epoch=1))
    assert not torch.equal(first, epoch_order(100, seed=2, epoch=0))


def test_a_short_sequence_is_one_window() -> None:
    """Training events are 1, 2, 3 and 6: the first user has the items 1, 2 with the targets 2, 3; the second has no target."""
    cut = windows(corpus(SEQUENCES), 4)
    assert len(cut) == 1
    batch = cut.batch(torch.tensor([0]))
    assert (batch.user.tolist(), batch.history.tolist(), batch.target.tolist()) == ([1], [[1, 2]], [[2, 3]])
    assert all(part.dtype == torch.int64 for part in batch)


def test_a_long_sequence_is_cut_into_windows_that_overlap_by_half() -> None:
    """Training events 1..8 have 7 targets. In windows of 4 with a stride of 2 these are the items 1-4, 3-6 and the rest, 4-7."""
    cut = windows(corpus([list(range(1, 11)), [11, 12, 13, 14]]), 4)
    batch = cut.batch(torch.arange(len(cut)))
    assert batch.user.tolist() == [1, 1, 1, 2]
    assert batch.history.tolist() == [[1, 2, 3, 4], [3, 4, 5, 6], [4, 5, 6, 7], [0, 0, 0, 11]]
    assert batch.target.tolist() == [[2, 3, 4, 5], [0, 0, 6, 7], [0, 0, 0, 8], [0, 0, 0, 12]]
    assert cut.batch(torch.tensor([3])).history.tolist() == [[11]]  # as long as the longest window of the batch
    assert cut.batch(torch.tensor([], dtype=torch.int64)).history.shape == (0, 0)


def test_repeated_padding_fills_a_window() -> None:
    """Items 1, 2 with targets 2, 3 in a window of 7: a 0 separates repeats and has no target, and the leftmost repeat is cut."""
    made = corpus([[1, 2, 3, 4, 5], list(range(6, 17))])
    batch = windows(made, 7, "repeat").batch(torch.arange(2))
    assert batch.history[0].tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert batch.target[0].tolist() == [3, 0, 2, 3, 0, 2, 3]
    assert batch.history[1].tolist() == list(range(6, 13))  # long enough: no padding
    assert batch.target[1].tolist() == list(range(7, 14))
    alone = windows(made, 7, "repeat").batch(torch.tensor([0]))
    assert torch.equal(alone.history, batch.history[:1])  # padding does not depend on the batch


def test_repeated_padding_needs_no_event_after_the_training_events() -> None:
    """As after a split by time: items 1, 2, 3 with targets 2, 3 are all events, so the 0 between repeats has no event after it."""
    one = torch.tensor([1])
    made = Windows(torch.tensor([1, 2, 3]), one, torch.tensor([0]), torch.tensor([2]), one, 7, "repeat", allowed=torch.ones(3).bool())
    batch = made.batch(torch.tensor([0]))
    assert batch.history.tolist() == [[2, 0, 1, 2, 0, 1, 2]]
    assert batch.target.tolist() == [[3, 0, 2, 3, 0, 2, 3]]


def prefixes(cut: Windows, order: list[int]) -> list[tuple[int, tuple[int, ...], int]]:
    """Return every counted target with its history in the window: (user, history, target)."""
    user, history, target = cut.batch(torch.tensor(order))
    found = []
    for row, place in (target > 0).nonzero().tolist():
        before = history[row, : place + 1].tolist()
        while 0 in before:  # padding, or the separator of repeats
            before = before[before.index(0) + 1 :]
        found.append((int(user[row]), tuple(before), int(target[row, place])))
    return found


@given(
    st.lists(st.integers(3, 30), min_size=1, max_size=6),
    st.integers(1, 9),
    st.sampled_from(("zero", "repeat")),
    st.randoms(use_true_random=False),
)
def test_every_training_target_counts_once(lengths: list[int], length: int, padding: Padding, random: object) -> None:
    """Brute force: each prefix occurs once, whole if it fits into the window, else with more than half a window of items."""
    ends = np.cumsum([0, *lengths])
    sequences = [list(range(begin + 1, end + 1)) for begin, end in itertools.pairwise(ends)]
    expected = {(user, items[place]): items[:place] for user, items in enumerate(sequences, 1) for place in range(1, len(items) - 2)}
    if not expected:
        with pytest.raises(InputError, match="no user has two training events"):
            windows(corpus(sequences), length, padding)
        return
    cut = windows(corpus(sequences), length, padding)
    order = list(range(len(cut)))
    random.shuffle(order)  # type: ignore[attr-defined]
    found = prefixes(cut, order)
    if padding == "repeat":
        whole = set(found)
        found = [entry for entry in whole if not any(entry[2] == other[2] and len(other[1]) > len(entry[1]) for other in whole)]
    assert sorted((user, target) for user, _, target in found) == sorted(expected)
    for user, before, target in found:
        history = expected[user, target]
        assert list(before) == history[len(history) - len(before) :]
        assert len(before) >= min(len(history), length // 2 + 1)
        assert len(before) <= length


def test_windows_check_their_settings() -> None:
    with pytest.raises(UsageError, match="history_length"):
        windows(corpus(SEQUENCES), 0)
    with pytest.raises(UsageError, match="padding is 'zero' or 'repeat'"):
        windows(corpus(SEQUENCES), 3, "same")  # type: ignore[arg-type]
