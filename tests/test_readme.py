"""What the README says works: its sampler keeps the contract, its commands and files exist."""

from __future__ import annotations

import gzip
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from genrec import loading, pipeline
from genrec.__main__ import _parser, main
from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Experiment, Optimization, Tokenize, Validation
from genrec.model import Tiger
from genrec.overrides import override
from genrec.preference.draw_contract import check_draw
from genrec.randomness import generator
from genrec.testing import Cyclic, batches_of, sampler_context
from genrec.tokenizer import RQKMeans
from genrec.types import ItemEncoder

PROJECT = Path(__file__).parents[1]
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readmes_sampler_is_short_and_keeps_its_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written beside an experiment that uses it, as the README says; checked, planned, and drawn from."""
    sampler = next(block for block in python_blocks() if "class SimilarPopularity" in block)
    experiment = next(block for block in python_blocks() if "def similar" in block)
    assert len([line for line in sampler.splitlines() if line.strip()]) <= 25
    (tmp_path / "mine.py").write_text(sampler)
    (tmp_path / "mine_experiment.py").write_text(experiment)
    (tmp_path / "quickstart.py").write_text((PROJECT / "experiments" / "quickstart.py").read_text())
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["check", str(tmp_path / "mine.py:SimilarPopularity")]) == 0
    assert "SimilarPopularity(window=50) keeps its contract" in capsys.readouterr().out
    (found,) = override(loading.load(str(tmp_path / "mine_experiment.py:similar")), ["--align.negatives.window", "20"])
    assert found.align is not None
    context = sampler_context()
    for batch in batches_of(context):
        check_draw(batch, found.align.negatives.build(context)(batch, 3, generator(0)), 3, context)


def test_the_readmes_source_is_short_and_keeps_its_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written outside the package as the README says; checked, described, fetched from a mirror, and run."""
    source = next(block for block in python_blocks() if "class Plays" in block)
    experiment = next(block for block in python_blocks() if "def plays" in block)
    assert len([line for line in source.splitlines() if line.strip()]) <= 25
    (tmp_path / "plays.py").write_text(source)
    (tmp_path / "plays_experiment.py").write_text(experiment)
    lines = [f"{user}\t0{track}\tÉ {track}\t{1_600_000_000 + 9 * user + track}" for user in range(30) for track in range(6)]
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "plays.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("GENREC_MIRROR", str(tmp_path / "mirror"))
    assert main(["check", str(tmp_path / "plays.py:Plays")]) == 0
    assert "keeps its contract" in capsys.readouterr().out
    for arguments in ([], ["--source.path", str(tmp_path / "mirror" / "plays.tsv.gz")]):
        assert main(["data", str(tmp_path / "plays_experiment.py:plays"), "--offline", *arguments]) == 0
        assert "30 users, 6 items, 180 interactions" in capsys.readouterr().out
    assert len(list((tmp_path / "data" / "artifacts" / "data").glob("[!.]*"))) == 1  # the same content, wherever it lies


@pytest.mark.parametrize("command", sorted(set(re.findall(r"genrec (?:run|data) (experiments/(?!mine|plays)\S+)", README))))
def test_the_readmes_experiments_exist(command: str) -> None:
    assert loading.load(str(PROJECT / command))


def test_the_readme_names_every_command() -> None:
    actions = [action for action in _parser()._actions if action.choices]
    assert {f"`genrec {name}" in README for name in actions[0].choices or ()} == {True}


def test_links_lead_somewhere() -> None:
    for page in ("README.md", "genrec/README.md", "data/README.md", "experiments/results.md"):
        text = (PROJECT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(((?!https?://|#)[^)]+)\)", text):
            assert ((PROJECT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_readmes_catalog_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's function on a tiny world: the policy recommends items that came after its training."""
    monkeypatch.setenv("GENREC_HOME", str(tmp_path / "data"))
    code = next(block for block in python_blocks() if "def grown" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    experiment = Experiment(
        name="tiny",
        source=Cyclic(),
        embed=TfidfSvd(dim=8),
        tokenize=Tokenize(RQKMeans(num_levels=2, codebook_size=4)),
        policy=Tiger(d_model=16, d_ff=16, num_heads=2, d_kv=8, num_encoder_layers=1, num_decoder_layers=1, num_beams=50),
        sft=SFT(
            optimization=Optimization(max_steps=2, batch_size=8, learning_rate=3e-4, warmup_steps=1_000, weight_decay=0.035),
            validation=Validation(every=2, patience=15),
        ),
    )
    vectors = load_file(pipeline.run(experiment, last="embed")["embed"].folder / "vectors.safetensors")["vectors"]
    policy = names["grown"](experiment, vectors[:3] + 1e-3)
    assert policy.semantic_ids.items == len(vectors) + 3
    assert policy.semantic_ids.collided == 0
    n = min(50, len(vectors) + 3)
    assert policy.recommend(torch.tensor([[0, 1, 2]]), n).items.max() > len(vectors)


def test_the_readmes_encoders_can_be_made() -> None:
    code = next(block for block in python_blocks() if "text_and_taste" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert all(isinstance(names[name], ItemEncoder) for name in ("text_and_taste", "sentences", "published"))


def test_the_readmes_policies_can_be_made() -> None:
    code = next(block for block in python_blocks() if "rival = Experiment" in block)
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    for name in ("causal", "rival"):
        assert [step.stage for step in pipeline.plan(names[name])][-2:] == ["sft", "evaluate"]
