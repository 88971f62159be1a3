"""Small experiments for tests: the cyclic world, a policy that learns it in seconds, and a project with a file of experiments."""

from __future__ import annotations

from pathlib import Path

import pytest
from preference_stages import stage

from genrec.embeddings import TfidfSvd
from genrec.experiment import SFT, Evaluate, Experiment, Optimization, Tokenize, Validation
from genrec.model import Tiger
from genrec.preference.losses import Anchored, SoftmaxDPO
from genrec.testing import Cyclic
from genrec.tokenizer import RQKMeans

TINY = Tiger(
    d_model=32, d_ff=64, num_heads=2, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, history="items", num_beams=20
)


def cyclic(steps: int = 60, align_steps: int = 0, seed: int = 0) -> Experiment:
    """Return an experiment with SFT (and S-DPO, if `align_steps` is not 0) on 40 items in a cycle."""
    return Experiment(
        name="cyclic",
        source=Cyclic(num_items=40, num_users=100, length=10),
        embed=TfidfSvd(dim=16, min_df=1),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=2, codebook_size=8)),
        policy=TINY,
        sft=SFT(
            optimization=Optimization(max_steps=steps, batch_size=64, learning_rate=5e-3, warmup_steps=20, weight_decay=0.035),
            validation=Validation(every=40, patience=15),
        ),
        align=stage(
            loss=Anchored(SoftmaxDPO()),
            optimization=Optimization(max_steps=align_steps, batch_size=32, learning_rate=1e-4, warmup_steps=50),
            validation=Validation(every=20),
        )
        if align_steps
        else None,
        history_length=5,
        evaluate=Evaluate(cutoffs=(1, 5, 10)),
        seed=seed,
    )


def own_project(folder: Path, monkeypatch: pytest.MonkeyPatch, experiments: str) -> Path:
    """Make a folder with `mine.py` and a data folder of its own the current one, and return it."""
    (folder / "mine.py").write_text(experiments)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("GENREC_HOME", raising=False)
    return folder
