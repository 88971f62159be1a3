"""Negatives that were held-out items: shares by hand, against a loop, the note below a table, and ML-100K."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from genrec.evaluation.compare import Row, Spread
from genrec.evaluation.comparison.held_out_negatives import held_out_negatives, held_out_notes

NAMES = ("negatives_heldout_share", "negatives_test_share", "negatives_validation_share")
PAIRS = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 5)), max_size=12)


def frame(pairs: list[tuple[int, int]]) -> DataFrame:
    return DataFrame(np.array(pairs, dtype=np.int64).reshape(-1, 2), columns=["user", "item"])


def test_by_hand() -> None:
    """Of ten draws, user 1 got the test item 7 three times and user 2 the validation item 4 once; 9 is another user's test item."""
    drawn = DataFrame({"user": [1, 1, 2, 2], "item": [7, 9, 4, 7], "count": [3, 4, 1, 2]})
    found = held_out_negatives(drawn, frame([(1, 5), (2, 4)]), frame([(1, 7), (2, 9)]))
    assert found == dict(zip(NAMES, (0.4, 0.3, 0.1), strict=True))


def test_an_item_that_is_held_out_twice_counts_once_in_the_total() -> None:
    drawn = DataFrame({"user": [1, 1], "item": [7, 8], "count": [1, 1]})
    assert held_out_negatives(drawn, frame([(1, 7)]), frame([(1, 7)])) == dict.fromkeys(NAMES, 0.5)


def test_no_draws_have_no_share() -> None:
    assert held_out_negatives(DataFrame({"user": [], "item": [], "count": []}, dtype="int64"), frame([(1, 1)]), frame([(1, 2)])) == {}


@given(st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 9)), st.integers(1, 5), min_size=1), PAIRS, PAIRS)
def test_equal_to_a_loop(counts: dict[tuple[int, int], int], validation: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    drawn = frame(list(counts)).assign(count=list(counts.values()))
    found = held_out_negatives(drawn, frame(validation), frame(test))
    total = sum(counts.values())
    for name, held_out in zip(NAMES, (validation + test, test, validation), strict=True):
        assert found[name] == pytest.approx(sum(count for pair, count in counts.items() if pair in held_out) / total)


def row(name: str, total: float | None) -> Row:
    metrics = (
        {}
        if total is None
        else dict(zip(NAMES, (Spread(total, None), Spread(0.75 * total, None), Spread(0.25 * total, None)), strict=True))
    )
    return Row(name, (0,), {}, metrics, 0.1, None, None, {})


def test_the_note_names_each_row() -> None:
    (note,) = held_out_notes([row("sft", None), row("uniform", 0.0017), row("hard", 0.0076)])
    assert "uniform 0.17 % (0.13 % test, 0.04 % validation); hard 0.76 % (0.57 % test, 0.19 % validation)" in note
    assert "sft" not in note
    assert held_out_notes([row("sft", None)]) == []


def test_the_note_explains_parts_that_add_up_to_more() -> None:
    """Of 1,000 draws 3 were of an item that is the test and a validation item, and 2 of another test item: 5, 5 and 3."""
    both = row("both", 0.005)._replace(
        metrics={name: Spread(value, None) for name, value in zip(NAMES, (0.005, 0.005, 0.003), strict=True)}
    )
    (note,) = held_out_notes([both, row("uniform", 0.0017)])
    assert "both 0.50 % (0.50 % test, 0.30 % validation)" in note
    assert "An item that is both a test and a validation item of its user is in both parts and once in the total." in note
    (note,) = held_out_notes([row("uniform", 0.0017)])
    assert "in both parts" not in note


def test_negatives_that_the_loss_does_not_use_are_left_out() -> None:
    unused = row("continued", 0.0021)._replace(
        configuration={
            "align.objective.class": "genrec.objectives.preferences:Preference",
            "align.objective.loss.class": "genrec.preference.losses.reference_free:ContinuedSFT",
        }
    )
    assert held_out_notes([unused]) == []
    (note,) = held_out_notes([unused, row("uniform", 0.0017)])
    assert "continued" not in note


def test_the_note_of_many_rows_has_the_range() -> None:
    (note,) = held_out_notes([row(f"row-{place}", 0.001 * place) for place in (5, 1, 9, 2, 3, 4, 6, 7, 8)])
    assert "0.10 % (row-1) to 0.90 % (row-9) in 9 rows" in note


@pytest.mark.realdata
def test_shares_on_movielens_100k(real_data: Path, tmp_path: Path) -> None:
    """One epoch over all training examples, 3 negatives each: uniform 0.17 %, popularity 0.40 %, and uniform by expectation.

    A user's two held-out items are 2 of the N - t items that may be drawn, t distinct training items. Over E training examples the
    expected share is the mean of 2 / (N - t) over the examples; E K draws give it within 4 standard errors.
    """
    from genrec.data.corpus_builder import prepare
    from genrec.data.examples import examples
    from genrec.data.sources import MovieLens
    from genrec.data.splits import LeaveOneOut
    from genrec.preference.draw_counts import DrawCounts
    from genrec.preference.negatives import Popularity, Uniform
    from genrec.randomness import generator
    from genrec.semantic_ids import SemanticIds
    from genrec.stage_inputs import sampler_context

    corpus = prepare(MovieLens("100k", path=real_data / "movielens" / "ml-100k.zip").load(tmp_path), LeaveOneOut())
    ids = SemanticIds(torch.arange(corpus.item_count).unsqueeze(1), (corpus.item_count,))
    context = sampler_context(corpus, torch.ones(corpus.item_count, 2), ids)
    entries = examples(corpus, "train", 20)
    found = {}
    for sampler in (Uniform(), Popularity()):
        counts, draw = DrawCounts(corpus.item_count), sampler.build(context).draw
        for number, index in enumerate(torch.arange(len(entries)).split(1024)):
            batch = entries.batch(index)
            counts.update(batch.user, draw(batch, 3, generator(0, "negatives", number)))
        table = counts.table()
        assert table["count"].sum() == 3 * len(entries)
        found[type(sampler).__name__] = held_out_negatives(table, corpus.part("validation"), corpus.part("test"))
    train = corpus.part("train")
    per_user = train.groupby("user")["item"].nunique()
    share = (2 / (corpus.item_count - per_user)).to_numpy()
    examples_of = (train.groupby("user").size() - 1).to_numpy()
    expected, draws = float((share * examples_of).sum() / examples_of.sum()), 3 * len(entries)
    uniform = found["Uniform"]["negatives_heldout_share"]
    assert abs(uniform - expected) < 4 * (expected / draws) ** 0.5
    assert found["Uniform"]["negatives_test_share"] + found["Uniform"]["negatives_validation_share"] == pytest.approx(uniform)
    assert uniform == pytest.approx(0.0017, abs=0.00015)
    assert found["Popularity"]["negatives_heldout_share"] == pytest.approx(0.0040, abs=0.0003)
