"""Requested negatives that a sampler did not find: shares by hand, the note below a table, and a run of a sampler with few items."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from preference_stages import stage
from worlds import cyclic

from genrec import pipeline
from genrec.evaluation.compare import Row, Spread
from genrec.evaluation.comparison.missing_negatives import MAX_LISTED, missing_negatives_notes, missing_share
from genrec.experiment import SFT, Align, Optimization
from genrec.objectives import Preference, Supervised
from genrec.preference.candidates import TopItems
from genrec.preference.exclusions import Exclusions
from genrec.types import Draw, SamplerContext, SequenceBatch

SHARE = "negatives_missing_share"


def test_the_share_is_the_largest_of_a_chain() -> None:
    assert missing_share([{"shortfall_share": 0.0}, {"shortfall_share": 0.25}]) == {SHARE: 0.25}
    assert missing_share([{"shortfall_share": None}]) == missing_share([]) == {}


def row(name: str, share: float | None, objective: str = "genrec.objectives.preferences:Preference") -> Row:
    metrics = {} if share is None else {SHARE: Spread(share, None)}
    return Row(name, (0,), {"align.objective.class": objective}, metrics, 0.1, None, None, {})


def test_the_note_lists_the_rows_with_more_than_a_twentieth() -> None:
    (note,) = missing_negatives_notes([row("sft", None), row("few", 0.3), row("enough", 0.05), row("fewer", 0.062)])
    assert note.startswith("Requested negatives that the sampler did not find: few 30.0 %; fewer 6.2 %. Their places are masked")
    assert missing_negatives_notes([row("sft", None), row("enough", 0.05)]) == []
    assert missing_negatives_notes([row("control", 0.3, "genrec.objectives.supervised:Supervised")]) == []
    (note,) = missing_negatives_notes([row(f"row-{number}", 0.1 + number / 100) for number in range(MAX_LISTED + 2)])
    assert "row-9 19.0 %; row-8 18.0 %" in note
    assert "row-2 12.0 %; 2 more rows have a smaller share. Their places" in note


@dataclass(frozen=True)
class One:
    """One negative for each example."""

    def build(self, context: SamplerContext) -> Draw:
        def draw(batch: SequenceBatch, num_negatives: int, generator: torch.Generator) -> torch.Tensor:
            every = torch.arange(1, context.item_count + 1).expand(len(batch.target), -1)
            found = Exclusions(context).take_allowed(batch, every, num_negatives)
            return found.masked_fill(torch.arange(num_negatives) > 0, 0)

        return Draw(draw=draw)


@pytest.mark.parametrize(
    ("align", "share"),
    [
        (stage(negatives=One(), num_negatives=4), {SHARE: 0.75}),
        (Align(Preference(candidates=TopItems(size=4))), {}),
        (Align(Supervised()), {}),
    ],
    ids=["sampler", "no sampler", "no preference"],
)
def test_a_run_stores_the_share_of_a_sampler(
    align: Align, share: dict[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    short: Any = Optimization(max_steps=2, batch_size=16, learning_rate=1e-3)
    experiment = replace(cyclic(), sft=SFT(optimization=short), align=replace(align, optimization=short))
    metrics = json.loads((pipeline.run(experiment)["evaluate"].folder / "metrics.json").read_text())
    assert {name: value for name, value in metrics.items() if name == SHARE} == share
