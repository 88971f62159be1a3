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


def held_out(drawn: DataFrame, validation: DataFrame, test: DataFrame) -> dict[str, float]:
    """Return the three shares of draws from a catalog of 20 items, without training events."""
    found = held_out_negatives(drawn, frame([]), validation, test, 20)
    return {name: value for name, value in found.items() if name in NAMES}


def test_by_hand() -> None:
    """Of ten draws, user 1 got the test item 7 three times and user 2 the validation item 4 once; 9 is another user's test item."""
    drawn = DataFrame({"user": [1, 1, 2, 2], "item": [7, 9, 4, 7], "count": [3, 4, 1, 2]})
    found = held_out(drawn, frame([(1, 5), (2, 4)]), frame([(1, 7), (2, 9)]))
    assert found == dict(zip(NAMES, (0.4, 0.3, 0.1), strict=True))


def test_the_share_of_uniform_draws_by_hand() -> None:
    """Of N = 10 items, user 1 has 2 training items and 2 held out: 2 / 8. User 2 has 5 training items, one of them held out too, and
    another held-out item: 1 / 5. User 3 has no training item and none held out. The draws are 6, 3 and 1.
    """
    drawn = DataFrame({"user": [1, 1, 2, 3], "item": [7, 9, 4, 7], "count": [2, 4, 3, 1]})
    train = frame([(1, 1), (1, 2), (1, 2), (2, 1), (2, 2), (2, 3), (2, 6), (2, 7), (4, 1)])
    found = held_out_negatives(drawn, train, frame([(1, 5), (2, 4)]), frame([(1, 7), (2, 7)]), 10)
    assert found["negatives_uniform_share"] == pytest.approx((6 * 2 / 8 + 3 * 1 / 5) / 10)
    assert found["negatives_counted"] == 10


def test_a_user_with_every_item_in_training_has_no_uniform_draw() -> None:
    found = held_out_negatives(frame([(1, 1)]).assign(count=1), frame([(1, 1), (1, 2)]), frame([(1, 1)]), frame([(1, 2)]), 2)
    assert found["negatives_uniform_share"] == 0


def test_rows_without_a_user_are_in_no_share() -> None:
    """Eight of ten draws name no user (user 0). Of the other two, one is a held-out item."""
    drawn = DataFrame({"user": [0, 1, 1], "item": [7, 7, 8], "count": [8, 1, 1]})
    found = held_out_negatives(drawn, frame([]), frame([(1, 5)]), frame([(1, 7)]), 20)
    assert found["negatives_without_user_share"] == pytest.approx(0.8)
    assert found["negatives_heldout_share"] == 0.5
    assert found["negatives_counted"] == 2
    unknown = held_out_negatives(drawn[:1], frame([]), frame([(1, 5)]), frame([(1, 7)]), 20)
    assert unknown == {"negatives_without_user_share": 1.0}


def test_an_item_that_is_held_out_twice_counts_once_in_the_total() -> None:
    drawn = DataFrame({"user": [1, 1], "item": [7, 8], "count": [1, 1]})
    assert held_out(drawn, frame([(1, 7)]), frame([(1, 7)])) == dict.fromkeys(NAMES, 0.5)


def test_no_draws_have_no_share() -> None:
    assert held_out(DataFrame({"user": [], "item": [], "count": []}, dtype="int64"), frame([(1, 1)]), frame([(1, 2)])) == {}


@given(st.dictionaries(st.tuples(st.integers(1, 3), st.integers(1, 9)), st.integers(1, 5), min_size=1), PAIRS, PAIRS)
def test_equal_to_a_loop(counts: dict[tuple[int, int], int], validation: list[tuple[int, int]], test: list[tuple[int, int]]) -> None:
    drawn = frame(list(counts)).assign(count=list(counts.values()))
    found = held_out(drawn, frame(validation), frame(test))
    total = sum(counts.values())
    for name, parts in zip(NAMES, (validation + test, test, validation), strict=True):
        assert found[name] == pytest.approx(sum(count for pair, count in counts.items() if pair in parts) / total)


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


PAIR_FILE = {"align.objective.candidates.class": "genrec.preference.candidates.pair_file:Pairs"}


def from_file(name: str, **metrics: float) -> Row:
    """Return a row that was aligned by pairs.csv."""
    spreads = {f"negatives_{key}": Spread(value, None) for key, value in metrics.items()}
    return row(name, None)._replace(metrics=spreads, configuration={**PAIR_FILE}, file_names={"align": ("pairs.csv",)})


def test_the_share_of_a_file_that_names_no_user_is_not_known() -> None:
    unknown = from_file("pairs", without_user_share=1.0)
    (note,) = held_out_notes([unknown])
    assert note == "Drawn negatives that were the user's own held-out items: pairs not known: the rows of pairs.csv name no user."
    (note,) = held_out_notes([row("uniform", 0.0017), unknown])
    assert "uniform 0.17 % (0.13 % test, 0.04 % validation); pairs not known: the rows of pairs.csv name no user. Held-out" in note
    some = from_file("some", without_user_share=0.25, heldout_share=0.01, test_share=0.01, validation_share=0.0)
    (note,) = held_out_notes([some])
    assert "some 1.00 % (1.00 % test, 0.00 % validation); some not known for 25.00 % of its negatives" in note
    assert "not excluded" not in note, "a file has the negatives that it has"


def test_the_draws_of_an_own_objective_are_named_as_not_counted() -> None:
    own = row("memory", 0.0)._replace(metrics={}, configuration={"align.objective.class": "mine:MovingBeta"})
    (note,) = held_out_notes([own])
    assert note == "Drawn negatives that were the user's own held-out items: memory not counted: the draws of MovingBeta, if any."
    parts = [{"class": "genrec.objectives.supervised:Supervised"}, {"class": "mine:MovingBeta"}]
    part = {"align-2.objective.class": "genrec.objectives.rounds:Rounds", "align-2.objective.objectives": parts}
    (note,) = held_out_notes([row("uniform", 0.0017), row("rounds", 0.002)._replace(configuration=part)])
    assert "; rounds 0.20 % (" in note
    assert "validation); rounds not counted: the draws of MovingBeta, if any. Held-out items" in note
    assert held_out_notes([own._replace(configuration={"sft.objective.class": "mine:Own"})]) == []


def far(**changed: float) -> Row:
    """Return a row with 1,000 draws, of which uniform ones would have 2 % held-out items."""
    shares = {"heldout_share": 0.11, "test_share": 0.06, "validation_share": 0.05, "uniform_share": 0.02, "counted": 1000.0}
    return from_file("far", **(shares | changed))._replace(configuration={})


def test_far_more_held_out_items_than_uniform_draws_have_give_a_warning() -> None:
    """11 % is more than 5 times 2 %. 10 % is not, nor does it count with 19 held-out draws. A share of validation items is a leak."""
    _, warning = held_out_notes([far()])
    assert warning.startswith("far: the share of held-out items among its negatives is 11.00 %, 6 times the 2.00 % of uniform draws")
    assert "ranks high" in warning
    _, warning = held_out_notes([far(test_share=0.005, validation_share=0.105)])
    assert "does not read context.validation" in warning
    _, warning = held_out_notes([far()._replace(configuration={**PAIR_FILE})])
    assert "Remove the users' held-out items from pairs.csv" in warning
    _, warning = held_out_notes([far(uniform_share=0.0)])
    assert "and uniform draws would have none" in warning
    assert len(held_out_notes([far(heldout_share=0.10)])) == 1
    assert len(held_out_notes([far(counted=180.0)])) == 1, "0.11 * 180 = 19.8 draws of held-out items"
    assert len(held_out_notes([row("earlier", 0.5)])) == 1, "without the share of uniform draws, as versions before wrote it"


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
        parts_of = (corpus.part(part) for part in ("train", "validation", "test"))
        found[type(sampler).__name__] = held_out_negatives(table, *parts_of, corpus.item_count)
    train = corpus.part("train")
    per_user = train.groupby("user")["item"].nunique()
    share = (2 / (corpus.item_count - per_user)).to_numpy()
    examples_of = (train.groupby("user").size() - 1).to_numpy()
    expected, draws = float((share * examples_of).sum() / examples_of.sum()), 3 * len(entries)
    uniform = found["Uniform"]["negatives_heldout_share"]
    assert abs(uniform - expected) < 4 * (expected / draws) ** 0.5
    assert found["Uniform"]["negatives_test_share"] + found["Uniform"]["negatives_validation_share"] == pytest.approx(uniform)
    assert found["Uniform"]["negatives_uniform_share"] == pytest.approx(expected)
    assert uniform == pytest.approx(0.0017, abs=0.00015)
    assert found["Popularity"]["negatives_heldout_share"] == pytest.approx(0.0040, abs=0.0003)
