"""Preferred items that were held-out items: shares by hand, the note below a table, and a proposer that prefers test items."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pandas import DataFrame
from worlds import cyclic

from genrec import pipeline
from genrec.data.corpus import Corpus
from genrec.evaluation.compare import Row, Spread, compare
from genrec.evaluation.comparison import comparison_report
from genrec.evaluation.comparison.held_out_preferred import held_out_preferred, held_out_preferred_notes
from genrec.objectives import Preference
from genrec.preference.losses import SoftmaxDPO
from genrec.run_files import outcomes
from genrec.types import Candidates, ObjectiveContext, Proposals, SequenceBatch

NAMES = tuple(f"preferred_items_{name}_share" for name in ("heldout", "test", "validation"))


def frame(*pairs: tuple[int, int]) -> DataFrame:
    return DataFrame(np.array(pairs, dtype=np.int64).reshape(-1, 2), columns=["user", "item"])


def shares(preferred: DataFrame, train: DataFrame, validation: DataFrame, test: DataFrame) -> dict[str, float]:
    return held_out_preferred(preferred, train, validation, test)


def test_by_hand() -> None:
    """Of ten preferred items user 1 got the test item 7 three times and user 2 the validation item 4 once.

    Item 9 is the test item of user 2 alone, and item 5 of user 1 is a training item too, so that it may be a logged target.
    """
    preferred = DataFrame({"user": [1, 1, 1, 2], "item": [5, 7, 9, 4], "count": [4, 3, 2, 1]})
    found = shares(preferred, frame((1, 5)), frame((1, 5), (2, 4)), frame((1, 7), (2, 9)))
    assert found == dict(zip(NAMES, (0.4, 0.3, 0.1), strict=True)) | {"preferred_items_counted": 10}


def test_an_item_that_is_held_out_twice_counts_once_in_the_total() -> None:
    found = shares(frame((1, 7), (1, 8)).assign(count=1), frame(), frame((1, 7)), frame((1, 7)))
    assert [found[name] for name in NAMES] == [0.5, 0.5, 0.5]


def test_rows_without_a_user_are_in_no_share() -> None:
    preferred = DataFrame({"user": [0, 1], "item": [7, 7], "count": [3, 1]})
    found = shares(preferred, frame(), frame(), frame((1, 7)))
    assert (found[NAMES[0]], found["preferred_items_counted"], found["preferred_items_without_user_share"]) == (1.0, 1, 0.75)
    assert shares(preferred[:1], frame(), frame(), frame((1, 7))) == {"preferred_items_without_user_share": 1.0}
    assert shares(preferred[:0], frame(), frame(), frame((1, 7))) == {}


def row(name: str, *values: float, **more: float) -> Row:
    metrics = dict(zip(NAMES, values, strict=False)) | {f"preferred_items_{key}": value for key, value in more.items()}
    return Row(name, (0,), {}, {key: Spread(value, None) for key, value in metrics.items()}, 0.1, None, None, {})


def test_the_note_names_each_row() -> None:
    (note,) = held_out_preferred_notes([row("sft"), row("mine", 0.03, 0.02, 0.01), row("none", 0.0, 0.0, 0.0)])
    start = "Preferred items that were the user's own held-out items: mine 3.00 % (2.00 % test, 1.00 % validation); none 0.00 % ("
    assert note.startswith(start)
    assert note.endswith("check that yours reads no held-out event.")
    (note,) = held_out_preferred_notes([row("none", 0.0, 0.0, 0.0)])
    assert note.endswith("none 0.00 % (0.00 % test, 0.00 % validation).")
    assert held_out_preferred_notes([row("sft")]) == []
    (note,) = held_out_preferred_notes([row("own", without_user_share=1.0)])
    assert note.endswith("own not known: examples of its proposer name no user.")
    (note,) = held_out_preferred_notes([row("own", 0.1, 0.1, 0.0, without_user_share=0.25)])
    assert "; own not known for 25.00 % of its preferred items: examples" in note
    (note,) = held_out_preferred_notes([row(f"row-{place}", 0.01 * place, 0.0, 0.0) for place in range(1, 10)])
    assert "1.00 % (row-1) to 9.00 % (row-9) in 9 rows; genrec show NAME prints that of a row." in note


@dataclass(frozen=True)
class PrefersTheTest:
    """A proposer that reads the test items by itself, from the data artifact below `home`, and prefers them to the target."""

    home: str

    def build_proposals(self, context: ObjectiveContext) -> Proposals:
        (folder,) = (Path(self.home) / "artifacts" / "data").glob("[!.]*")
        test = Corpus.load(folder).part("test")
        of_user = torch.zeros(int(test["user"].max()) + 1, dtype=torch.int64)
        of_user[torch.tensor(test["user"].to_numpy("int64"))] = torch.tensor(test["item"].to_numpy("int64"))

        def propose(rows: SequenceBatch, step: int) -> Candidates:
            items = torch.stack([of_user[rows.user], rows.target], 1)
            return Candidates(items, torch.tensor([True, False]) | (items[:, :1] != items[:, 1:]))

        return Proposals(on_host=propose)


def test_a_proposer_that_prefers_test_items_is_seen_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training reads no held-out item; the stored counts are compared by evaluation. Rows without counts have no share."""
    from genrec.run_experiments import run

    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    plain = replace(cyclic(steps=20, align_steps=4), name="plain")
    mine = replace(
        plain, name="mine", align=replace(plain.alignments[0], objective=Preference(SoftmaxDPO(), PrefersTheTest(str(tmp_path))))
    )
    run([plain, mine])
    made = pipeline.run(mine)
    preferred = pd.read_parquet(made["align"].folder / "preferred_items.parquet")
    assert preferred["count"].sum() == 4 * 32
    held_out = Corpus.load(made["data"].folder).part("test")
    assert len(preferred.merge(held_out, on=["user", "item"])) == len(preferred)
    metrics: dict[str, Any] = json.loads((made["evaluate"].folder / "metrics.json").read_text())
    assert [metrics[name] for name in NAMES] == [1.0, 1.0, 0.0]
    assert metrics["preferred_items_counted"] == 128
    text = comparison_report.markdown(compare(outcomes(["plain", "mine"]), resamples=20))
    assert "held-out items: mine 100.00 % (100.00 % test, 0.00 % validation). Such a row trains toward the items" in text
    assert "preferred_items" not in text
    assert not (pipeline.run(plain)["align"].folder / "preferred_items.parquet").is_file()
