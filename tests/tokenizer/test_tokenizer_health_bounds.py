"""The health of Semantic IDs in every run: its line, the warnings beyond the bounds, and the curve of an RQ-VAE's training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from worlds import cyclic

from genrec import pipeline
from genrec.__main__ import main
from genrec.experiment import Experiment
from genrec.tokenizer import RQVAE, RandomCodes, RQKMeans, Tokenize, tokenize
from genrec.tokenizer.autoencoder import Losses
from genrec.tokenizer.epoch_figures import EpochFigures
from genrec.tokenizer.health_bounds import health_warnings
from genrec.tokenizer.health_report import run_line, say_health
from genrec.tokenizer.tokenized_files import save_tokenized
from genrec.types import TrainedQuantizer

SHORT_RQVAE = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(16,), latent_dim=4, epochs=2, batch_size=64)


def vectors_of(count: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)


def figures(**changes: Any) -> dict[str, Any]:
    """Return the figures of 120 items with Semantic IDs of 3 x 8 codes, with some of them changed."""
    return tokenize(vectors_of(120, 2), Tokenize(RQKMeans()), warn=False).health | changes


def test_the_line_has_sizes_collisions_usage_perplexity_and_error() -> None:
    """30 of 120 items are 25 %; 8, 6 and 7 of 8 codes are 100, 75 and 88 %."""
    levels = [{"level": n, "size": 8, "used": used, "perplexity": 6.4} for n, used in enumerate((8, 6, 7), start=1)]
    made = figures(encoded_levels=levels, collided_before_separation=30, collided=0, reconstruction=0.41)
    assert run_line(made) == (
        "tokenize: 3 levels of 8 codes, 120 items, 25.0% share their codes (0.0% with the further code appended to tell them apart), "
        "usage 100 / 75 / 88 %, perplexity 6 / 6 / 6, reconstruction error 0.410 of the variance"
    )
    changed = {"encoded_levels": [levels[0], levels[1] | {"size": 12}], "collided": 6, "reconstruction": None}
    other = run_line(made | changed | {"levels": made["levels"][:3]})  # no code was appended
    assert "2 levels of 8 x 12 codes" in other
    assert "25.0% share their codes (5.0% after separation), usage 100 / 50 %" in other
    assert other.endswith("reconstruction error undefined for these codes")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"collided_before_separation_unequal": 61},
            r"50\.8% of the items got the codes of an item with another vector, more",
        ),
        ({"reconstruction": 0.76}, r"the reconstruction error is 76\.0% of the variance of the vectors, more than 75%"),
        ({"collided": 6, "collisions": "keep"}, r"6 of 120 items share their Semantic ID .*'keep'"),
        ({"min_usage": 1.1}, r"level 1 uses 8 of 8 codes \(100\.0%\), less than the 110\.0% of Tokenize\.min_usage"),
    ],
)
def test_each_figure_beyond_its_bound_gives_a_warning(changes: dict[str, Any], message: str) -> None:
    assert health_warnings(figures()) == []
    within = {"collided_before_separation_unequal": 60, "reconstruction": 0.75}  # exactly at the bounds
    assert health_warnings(figures(**within)) == []
    found = health_warnings(figures(**changes))
    assert any(pd.Series(found).str.contains(message))


def test_equal_vectors_and_listed_codes_do_not_count() -> None:
    """Half of the vectors are equal: nothing can tell them apart. Random codes have no reconstruction error."""
    vectors = vectors_of(120, 2)
    vectors[:80] = vectors[0]
    made = tokenize(vectors, Tokenize(RQKMeans(codebook_size=32)), warn=False).health
    assert made["collided_before_separation"] >= 80
    assert not any("another vector" in message for message in health_warnings(made))
    assert not any("reconstruction" in message for message in health_warnings(tokenize(vectors, Tokenize(RandomCodes())).health))


def test_an_rqvae_of_two_epochs_is_reported_and_a_good_fit_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An RQ-VAE of two epochs reconstructs next to nothing; its line and its warnings are printed from the stored figures."""
    for name, quantizer in (("bad", SHORT_RQVAE), ("good", RQKMeans(num_levels=4))):
        (tmp_path / name).mkdir()
        save_tokenized(tokenize(vectors_of(120), Tokenize(quantizer, min_usage=0), warn=False), tmp_path / name)
    say_health(tmp_path / "bad")
    bad = capsys.readouterr().err.splitlines()
    assert bad[0].startswith("tokenize: 2 levels of 8 codes, 120 items, ")
    assert any("tokenize: warning: the reconstruction error is" in line for line in bad[1:])
    assert any("tokenize: warning:" in line and "got the codes of an item with another vector" in line for line in bad[1:])
    say_health(tmp_path / "good")
    (good,) = capsys.readouterr().err.splitlines()
    assert good.startswith("tokenize: 4 levels of 8 codes, 120 items, ")


def test_tokenize_warns_unless_the_caller_reports(recwarn: pytest.WarningsRecorder) -> None:
    specification = Tokenize(SHORT_RQVAE, min_usage=0)
    tokenize(vectors_of(120), specification, warn=False)
    assert not [each for each in recwarn if "reconstruction error" in str(each.message)]
    with pytest.warns(UserWarning, match="the reconstruction error is"):
        tokenize(vectors_of(120), specification)


def experiment() -> Experiment:
    return replace(cyclic(), tokenize=Tokenize(quantizer=SHORT_RQVAE, min_usage=0))


def test_every_run_prints_the_health_once_also_of_a_reused_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    printed = []
    for _ in range(2):
        done: set[str] = set()
        for row in (experiment(), replace(experiment(), name="other")):  # two rows that share the artifact
            pipeline.run(row, refreshed=done, last="tokenize")
        printed.append([line for line in capsys.readouterr().err.splitlines() if line.startswith("tokenize: ")])
    assert printed[0] == printed[1]
    assert sum("levels of 8 codes, 40 items" in line for line in printed[0]) == 1
    assert sum("warning: the reconstruction error" in line for line in printed[0]) == 1


def test_the_curves_of_an_rqvae_are_stored_with_its_semantic_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    folder = pipeline.run(experiment(), last="tokenize")["tokenize"].folder
    table = pd.read_parquet(folder / "curves.parquet")
    assert list(table.columns) == ["epoch", "loss", "reconstruction", "usage_level_1", "usage_level_2", "collided"]
    assert table["epoch"].tolist() == [1, 2]
    assert table.notna().all(axis=None)


def test_figures_of_an_epoch_by_hand() -> None:
    """Two batches of 2 and 1 items: loss (2 * 3 + 1 * 6) / 3 = 4; error (2 * 1 + 1 * 4) / 3 = 2, half of a variance of 4.

    Level 1 uses the codes 0 and 1 of 4, level 2 the code 2 alone; the first and the last item have the same codes.
    """
    epoch = EpochFigures()
    for loss, error, codes in ((3.0, 1.0, [[0, 2], [1, 2]]), (6.0, 4.0, [[0, 2]])):
        entries = torch.zeros(2, len(codes), 3)
        epoch.add(Losses(torch.tensor(loss), torch.tensor(codes), entries, torch.tensor(error), entries, entries[0]))
    used = epoch.used(4)
    assert used.tolist() == [[True, True, False, False], [False, False, True, False]]
    assert epoch.row(7, used, 4.0) == {
        "epoch": 7,
        "loss": 4.0,
        "reconstruction": 0.5,
        "usage_level_1": 0.5,
        "usage_level_2": 0.25,
        "collided": pytest.approx(2 / 3),
    }


def test_the_curves_fall_with_the_training_and_a_restored_quantizer_has_none() -> None:
    quantizer = replace(SHORT_RQVAE, epochs=60)
    fitted = quantizer.fit(vectors_of(200), torch.Generator().manual_seed(0))
    assert isinstance(fitted, TrainedQuantizer)
    rows = fitted.training_curves()
    assert [row["epoch"] for row in rows] == list(range(1, 61))
    assert rows[-1]["reconstruction"] < 0.7 * rows[0]["reconstruction"]
    assert rows[0]["reconstruction"] == pytest.approx(1, abs=0.2)  # an untrained decoder reconstructs nothing
    assert quantizer.restore(fitted.state()).training_curves() == []


def test_the_commands_draw_the_curve_of_an_rqvae(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`genrec tokenize` draws it beside the picture of the Semantic IDs, `genrec run` once per artifact."""
    (tmp_path / "mine.py").write_text(
        "from test_tokenizer_health_bounds import experiment\n\n\ndef vae():\n    return experiment()\n", encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GENREC_HOME", raising=False)
    assert main(["tokenize", "mine.py:vae"]) == 0
    pictures = [line.split("picture: ")[1] for line in capsys.readouterr().out.splitlines() if "picture: " in line]
    assert [picture.endswith("-training.png") for picture in pictures] == [False, True]
    assert all((tmp_path / picture).stat().st_size > 0 for picture in pictures)
    for drawn in (True, False):
        assert main(["run", "mine.py:vae", "--sft.optimization.max-steps", "1", "--name", "short"]) == 0
        said = capsys.readouterr().err
        assert any(": tokenize " in line and "training curves drawn in" in line for line in said.splitlines()) == drawn
        assert said.count("tokenize: 2 levels of 8 codes, 40 items") == 1
    assert len(list((tmp_path / "data" / "reports").glob("short-seed-0-tokenize-*.png"))) == 1
