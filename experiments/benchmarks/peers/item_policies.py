"""SASRec, GRU4Rec and SASRec with gBCE or sampled softmax on MovieLens-100K, each beside an independent implementation.

    python experiments/benchmarks/peers/item_policies.py --environments FOLDER       # downloads ml-100k.zip unless --path names it
    python experiments/benchmarks/peers/item_policies.py --environments FOLDER --rows gru4rec --seeds 0

The script makes a Python environment for each peer in FOLDER, outside the repository, and installs the peer there: RecBole for SASRec
and GRU4Rec with the softmax over all items, RecTools for SASRec with gBCE and with sampled softmax. Both sides get the same events,
the last two of each user held out, histories of the last 20 items, sizes, dropout, batch size, epochs and learning rate, and rank the
whole catalog for the same users and targets, seen items kept. A user's value is the mean over seeds; a row agrees if the
difference of the means over users is at most two standard errors of the paired differences.

| row | peer | targets | kept | differences that remain |
|---|---|---|---|---|
| sasrec | RecBole | one per prefix | best epoch on validation | the peer's blocks are norm(x + f(x)), its embeddings are not scaled |
| gru4rec | RecBole | one per prefix | best epoch on validation | the peer has no bias in its gates |
| gsasrec, sampled | RecTools | all of a window | last epoch | the peer normalizes queries only, draws negatives from all items |

Weights, order, dropout and negatives are drawn differently everywhere. The output is JSON: a line for each row, and `--out` writes it
to a file, with the versions of both sides. `--losses` compares values and gradients of the losses with sampled negatives with
RecTools' on the same random scores, in float64, without a training.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import export
import numpy as np

HISTORY = 20  # items of a history
TOP = 100  # items of a list; a target beyond them counts as missed
METRICS = ("ndcg@10", "recall@10")
ITEMS, NEGATIVES = 1000, 8  # of the comparison of losses
REQUIREMENTS = {"recbole": ["recbole==1.2.1"], "rectools": ["rectools[torch]==0.19.0"]}


@dataclass(frozen=True)
class Row:
    """The settings of a row, the same on both sides."""

    peer: str  # recbole or rectools
    model: str  # SASRec or GRU4Rec
    width: int = 32  # of the embeddings, and of SASRec's feed-forward layers
    hidden: int = 64  # width of GRU4Rec's state
    layers: int = 1
    heads: int = 1  # of SASRec
    dropout: float = 0.2
    batch: int = 512  # prefixes of a step, or windows
    epochs: int = 6
    learning_rate: float = 3e-3  # the peak
    loss: str = "softmax"  # softmax, gBCE or sampled_softmax
    negatives: int = 64  # of each target
    t: float = 0.75  # calibration of gBCE


ROWS = {
    "sasrec": Row("recbole", "SASRec"),
    "gru4rec": Row("recbole", "GRU4Rec"),
    "gsasrec": Row("rectools", "SASRec", batch=64, epochs=16, loss="gBCE"),
    "sampled": Row("rectools", "SASRec", batch=64, epochs=6, loss="sampled_softmax"),
}


def policy_of(row: Row) -> Any:
    """Return genrec's policy."""
    from genrec.baselines import GBCE, GRU4Rec, SampledSoftmax, SASRec

    if row.model == "GRU4Rec":
        return GRU4Rec(d_model=row.width, hidden_size=row.hidden, num_layers=row.layers, dropout=row.dropout)
    losses = {"softmax": None, "gBCE": GBCE(row.negatives, row.t), "sampled_softmax": SampledSoftmax(row.negatives)}
    return SASRec(
        d_model=row.width, d_ff=row.width, num_layers=row.layers, num_heads=row.heads, dropout=row.dropout, max_positions=HISTORY,
        loss=losses[row.loss],
    )  # fmt: skip


def experiment_of(name: str, row: Row, source: Any, examples: int) -> Any:
    """Return genrec's experiment for a training set of `examples` prefixes or windows."""
    from genrec.experiment import SFT, Evaluate, Experiment, Optimization, Validation
    from genrec.objectives import Supervised

    epoch_steps = -(-examples // row.batch)
    steps = row.epochs * epoch_steps
    optimization = Optimization(
        max_steps=steps, batch_size=row.batch, learning_rate=row.learning_rate, warmup_steps=steps // 20, max_grad_norm=1e9
    )
    is_best_kept = row.peer == "recbole"  # otherwise the only validation is that of the last step
    validation = Validation(every=epoch_steps if is_best_kept else steps, patience=row.epochs, users=0)
    return Experiment(
        name=f"peers-{name}",
        source=source,
        tokenize=None,
        policy=policy_of(row),
        history_length=HISTORY,
        sft=SFT(objective=Supervised(targets="one" if is_best_kept else "all"), optimization=optimization, validation=validation),
        evaluate=Evaluate(cutoffs=(1, 5, 10, TOP)),
    )


def write_windows(artifact: Path, folder: Path) -> None:
    """Write genrec's training windows as windows.tsv: window, item, time, weight; 1 = a target that this window counts, else 0."""
    import torch

    from genrec.data.corpus import Corpus
    from genrec.data.examples import windows

    cut = windows(Corpus.load(artifact), HISTORY)
    batch = cut.batch(torch.arange(len(cut)))
    lines = ["window\titem\ttime\tweight"]
    for number, (history, target) in enumerate(zip(batch.history.tolist(), batch.target.tolist(), strict=True)):
        items = [*history, target[-1]]
        weights = [0, *(int(item > 0) for item in target)]
        rows = [(item, weight) for item, weight in zip(items, weights, strict=True) if item]
        lines += [f"{number}\t{item}\t{place}\t{weight}" for place, (item, weight) in enumerate(rows)]
    (folder / "windows.tsv").write_text("\n".join(lines) + "\n")


def compare_losses(environments: Path, scratch: Path) -> dict[str, Any]:
    """Return, for each loss with sampled negatives, the largest difference of value and gradient from RecTools' on random scores."""
    import torch

    python = export.make_environment(environments / "rectools", REQUIREMENTS["rectools"])
    scores = 2 * torch.randn(50, 1 + NEGATIVES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.save(scratch / "scores.npy", scores.numpy())
    found: dict[str, Any] = {}
    for loss, t in (("gBCE", 0.0), ("gBCE", 0.75), ("gBCE", 1.0), ("sampled_softmax", 0.0)):
        ours = policy_of(Row("rectools", "SASRec", loss=loss, negatives=NEGATIVES, t=t)).loss
        leaf = scores.clone().requires_grad_()
        value = ours.item_loss(leaf[:, 0], leaf[:, 1:], ITEMS).mean()
        (gradient,) = torch.autograd.grad(value, [leaf])
        settings = {"loss": loss, "negatives": NEGATIVES, "t": t, "items": ITEMS}
        export.run_peer(python, "rectools_losses.py", scratch, scratch / "losses", settings)
        peer = torch.from_numpy(np.load(scratch / "losses" / "loss.npy"))
        found[f"{loss}, t = {t}" if loss == "gBCE" else loss] = {
            "ours": round(float(value.detach()), 6),
            "peer": round(float(peer[0]), 6),
            "largest_difference": float((torch.cat([value.view(1), gradient.flatten()]) - peer).abs().max().detach()),
        }
    return found


def settings_of(row: Row, seed: int) -> dict[str, Any]:
    """Return the settings that a peer's script reads."""
    return asdict(row) | {"seed": seed, "history": HISTORY, "top": TOP}


def compare_row(name: str, row: Row, source: Any, seeds: list[int], environments: Path, scratch: Path) -> dict[str, Any]:
    """Train both sides for every seed and return the comparison."""
    from genrec import pipeline
    from genrec.data.corpus import Corpus
    from genrec.data.examples import examples, windows

    artifact = pipeline.run(experiment_of(name, row, source, 1), last="data")["data"].folder
    data, corpus = export.write_parts(artifact, scratch / "data"), Corpus.load(artifact)
    write_windows(artifact, data)
    count = len(examples(corpus, "train", HISTORY) if row.peer == "recbole" else windows(corpus, HISTORY))
    experiment = experiment_of(name, row, source, count)
    python = export.make_environment(environments / row.peer, REQUIREMENTS[row.peer])
    ours, peer, versions = [], [], {}
    for seed in seeds:
        ours.append(export.own_ranks(pipeline.run(replace(experiment, seed=seed))["evaluate"].folder))
        ranks, versions = ranks_of_peer(python, row, data, scratch / f"{name}-{seed}", settings_of(row, seed))
        peer.append(ranks)
    metrics = {metric: rounded(export.compare(ours, peer, metric)) for metric in METRICS}
    return {"row": name, **asdict(row), "seeds": seeds, "peer_versions": versions, **metrics}


def ranks_of_peer(python: Path, row: Row, data: Path, out: Path, settings: dict[str, Any]) -> tuple[export.Ranks, dict[str, str]]:
    """Return the peer's ranks and versions; train it unless the folder holds the ranks of these settings."""
    record = out / "settings.json"
    if record.exists() and json.loads(record.read_text()) == settings:
        return export.read_ranks(out / "ranks.tsv"), json.loads((out / "versions.json").read_text())
    result = export.run_peer(python, f"{row.peer}_models.py", data, out, settings)
    record.write_text(json.dumps(settings))
    return result


def rounded(comparison: export.Comparison) -> dict[str, Any]:
    """Return a comparison with five decimals."""
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in comparison._asdict().items()}


def save(results: dict[str, Any], path: Path | None) -> None:
    """Write the results to a file, if there is one."""
    if path is not None:
        path.write_text(json.dumps(results, indent=1) + "\n")


def main() -> None:
    """Compare the rows and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--environments", type=Path, required=True, help="folder for the peers' Python environments")
    parser.add_argument("--path", type=Path, help="ml-100k.zip; downloaded if not given")
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--losses", action="store_true", help="compare the losses with sampled negatives on random scores too")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scratch", type=Path, help="folder for the peers' data and ranks, which are used again; default: temporary")
    parser.add_argument("--out", type=Path, help="JSON file of the results; rows that it has already and that are not run are kept")
    options = parser.parse_args()
    from genrec.data.sources import MovieLens
    from genrec.environment import versions

    source = MovieLens("100k", path=options.path)
    results = json.loads(options.out.read_text()) if options.out and options.out.exists() else {"rows": {}}
    results["versions"] = versions()
    if options.losses:
        with tempfile.TemporaryDirectory() as scratch:
            results["losses"] = compare_losses(options.environments, Path(scratch))
        print(json.dumps(results["losses"]), flush=True)
        save(results, options.out)
    for name in options.rows:
        with tempfile.TemporaryDirectory() as temporary:
            scratch = (options.scratch or Path(temporary)).resolve()
            result = compare_row(name, ROWS[name], source, options.seeds, options.environments, scratch)
        print(json.dumps(result), flush=True)
        results["rows"][name] = result
        save(results, options.out)


if __name__ == "__main__":
    sys.exit(main())
