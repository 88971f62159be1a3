"""Metrics as torchmetrics classes: by hand, against torchmetrics' own, in two processes, and inside a LightningModule."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import pytorch_lightning as lightning
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import Metric, MetricCollection
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMAP,
    RetrievalMRR,
    RetrievalNormalizedDCG,
    RetrievalPrecision,
    RetrievalRecall,
)

from genrec.errors import InputError, UsageError
from genrec.evaluation import metrics
from genrec.evaluation.torchmetrics import MRR, NDCG, AveragePopularity, Coverage, Gini, Recall, rank_in_list

RANKING = ((Recall, metrics.recall), (NDCG, metrics.ndcg), (MRR, metrics.mrr))
RANKS = torch.tensor([1, 3, 0, 12])
LISTS = torch.tensor([[1, 2], [1, 3], [1, 2], [4, 2]])  # 4 users, n = 2, a catalog of 5


def test_by_hand() -> None:
    """Ranks 1, 3, missed and 12 at cut-off 10: recall 2/4, NDCG (1 + 1/2) / 4, MRR (1 + 1/3) / 4."""
    for metric, expected in ((Recall(10), 0.5), (NDCG(10), 0.375), (MRR(10), 1 / 3)):
        metric.update(RANKS[:3])
        metric.update(RANKS[3:])
        assert isinstance(metric, Metric)
        assert metric.compute().dtype == torch.float64
        assert metric.compute().item() == pytest.approx(expected, abs=1e-7)


def test_a_user_counts_once_and_a_row_without_a_user_always() -> None:
    """Users 7, 8, 7, 7: recall@1 is 1, 0, 1, 1, so 3/4 over rows and 1/2 over users. With another row of user 8: (1 + 1/2) / 2."""
    rows, users = torch.tensor([1, 4, 1, 1]), torch.tensor([7, 8, 7, 7])
    without, by_user = Recall(1), Recall(1)
    without.update(rows)
    by_user.update(rows, users)
    assert (without.compute().item(), by_user.compute().item()) == (0.75, 0.5)
    by_user.update(torch.tensor([1]), torch.tensor([8]))
    assert by_user.compute().item() == 0.75


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=40))
def test_neither_batches_nor_repeated_users_change_the_mean(rows: list[tuple[int, int, int]]) -> None:
    """Row i is user i, with a rank, that occurs in so many places, in so many of five batches."""
    batches: list[list[tuple[int, int]]] = [[] for _ in range(5)]
    for user, (rank, copies, begin) in enumerate(rows):
        for copy in range(copies):
            batches[(begin + copy) % 5].append((rank, user))
    ranks = torch.tensor([rank for rank, _, _ in rows])
    for kind, function in RANKING:
        metric = kind(10)
        for batch in batches:
            metric.update(*torch.tensor(batch, dtype=torch.int64).reshape(-1, 2).unbind(1))
        assert metric.compute().item() == pytest.approx(function(ranks, 10).double().mean().item(), abs=1e-12)


def scored(users: int, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return distinct scores above 0, float32 [U, M], the targets' columns, and their ranks among the candidates, int64 [U]."""
    random = torch.Generator().manual_seed(0)
    scores = torch.stack([torch.randperm(candidates, generator=random) + 1 for _ in range(users)]) / candidates
    target = torch.randint(candidates, (users,), generator=random)
    own = scores.gather(1, target.unsqueeze(1))
    return scores, target, 1 + (scores > own).sum(1)


def theirs(metric: Metric, scores: Tensor, target: Tensor) -> float:
    """Return what a retrieval metric of torchmetrics makes of one target per user."""
    relevant = torch.zeros_like(scores, dtype=torch.int64).scatter(1, target.unsqueeze(1), 1)
    user = torch.arange(len(scores)).unsqueeze(1).expand_as(scores)
    metric.update(scores, relevant, user)
    return float(metric.compute())


@pytest.mark.parametrize("n", [1, 5, 10, 30])
def test_equal_to_torchmetrics_where_scores_are_positive(n: int) -> None:
    scores, target, rank = scored(200, 30)
    pairs = ((Recall, RetrievalHitRate), (NDCG, RetrievalNormalizedDCG), (MRR, RetrievalMRR))
    for ours, other in pairs:
        metric = ours(n)
        metric.update(rank)
        assert metric.compute().item() == pytest.approx(theirs(other(top_k=n), scores, target), abs=1e-6), ours


def test_torchmetrics_mrr_misses_targets_with_scores_below_zero() -> None:
    """The same ranking in log-probabilities: their MRR is 0, since no score is above 0. Ours depends on the rank alone."""
    scores, target, rank = scored(50, 30)
    ours = MRR(10)
    ours.update(rank)
    assert theirs(RetrievalMRR(top_k=10), scores, target) == pytest.approx(ours.compute().item(), abs=1e-6)
    assert theirs(RetrievalMRR(top_k=10), scores.log() - 1, target) == 0 < ours.compute().item()


@pytest.mark.parametrize("kind", [RetrievalMAP, RetrievalPrecision, RetrievalRecall])
def test_other_metrics_of_torchmetrics_miss_them_too(kind: type[Metric]) -> None:
    scores, target, _ = scored(50, 30)
    assert theirs(kind(top_k=10), scores.log() - 1, target) == 0 < theirs(kind(top_k=10), scores, target)


@pytest.mark.parametrize("kind", [RetrievalHitRate, RetrievalNormalizedDCG])
def test_hit_rate_and_ndcg_of_torchmetrics_take_any_scores(kind: type[Metric]) -> None:
    scores, target, _ = scored(50, 30)
    expected = theirs(kind(top_k=10), scores, target)
    assert theirs(kind(top_k=10), scores.log() - 1, target) == pytest.approx(expected, abs=1e-6)


def test_ranks_from_lists() -> None:
    items = torch.tensor([[4, 2, 9], [4, 2, 9], [7, 0, 0], [3, 3, 1]])
    target = torch.tensor([2, 5, 7, 3])
    assert rank_in_list(items, target).tolist() == [2, 0, 1, 1]
    assert rank_in_list(items[:, :0], target).tolist() == [0, 0, 0, 0]
    metric = NDCG(3)
    metric.update(items=items, target=target)
    metric.update(items=items[:1, :2], target=target[:1])
    assert metric.compute().item() == pytest.approx(metrics.ndcg(torch.tensor([2, 0, 1, 1, 2]), 3).double().mean().item())


def test_lists_by_hand() -> None:
    """Items 1, 2, 3 and 4 of 5 are listed 3, 3, 1 and 1 times. The list of user 0 is longer than n, and is given twice."""
    popularity = torch.tensor([0, 10, 2, 4, 6, 0])
    found = [Coverage(2, 5), Gini(2, 5), AveragePopularity(2, popularity)]
    for metric in found:
        metric.update(torch.tensor([[1, 2, 5]]), torch.tensor([0]))
        metric.update(LISTS, torch.arange(4))
    assert found[0].compute().item() == 0.8
    assert found[1].compute().item() == pytest.approx(metrics.gini(LISTS, 5))
    assert found[2].compute().item() == pytest.approx((3 * 10 + 3 * 2 + 4 + 6) / 8)


def test_short_and_empty_lists_are_padded() -> None:
    """One item of four slots: coverage counts it, and the mean popularity is over filled slots."""
    coverage, popular = Coverage(2, 5), AveragePopularity(2, torch.tensor([0, 10, 2, 4, 6, 8]))
    for metric in (coverage, popular):
        metric.update(torch.tensor([[5]]))
        metric.update(torch.zeros(1, 0, dtype=torch.int64))
    assert (coverage.compute().item(), popular.compute().item()) == (0.2, 8.0)


def test_of_two_lists_the_first_counts() -> None:
    metric = Coverage(2, 5)
    metric.update(torch.tensor([[1, 2], [3, 4]]), torch.tensor([1, 0]))
    metric.update(torch.tensor([[5, 5]]), torch.tensor([1]))
    assert metric.compute().item() == 0.8


def test_a_collection_shares_the_rows() -> None:
    """A collection keeps one copy of the rows for all ranking metrics, and gives each metric the arguments that it takes."""
    collection = MetricCollection({"recall": Recall(1), "ndcg": NDCG(10), "coverage": Coverage(2, 5)})
    for rows in (slice(0, 3), slice(3, 4)):
        collection.update(items=LISTS[rows], target=torch.tensor([1, 3, 9, 2])[rows], user=torch.arange(4)[rows])
    found = {name: value.item() for name, value in collection.compute().items()}
    ndcg = (1 + 2 / torch.tensor(3.0).log2().item()) / 4  # ranks 1, 2, missed and 2
    assert found == {"recall": 0.25, "ndcg": pytest.approx(ndcg), "coverage": 0.8}
    assert ["ndcg", "recall"] in [sorted(group) for group in collection.compute_groups.values()]


def test_forward_returns_the_value_of_the_batch() -> None:
    metric = Recall(1)
    assert metric(torch.tensor([1, 2]), torch.tensor([0, 1])).item() == 0.5
    assert metric(torch.tensor([1]), torch.tensor([2])).item() == 1.0
    assert metric.compute().item() == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either rank, or items and target; got none of them"),
        ({"rank": RANKS, "items": LISTS, "target": RANKS}, "got items, rank, target"),
        ({"items": LISTS}, "got items"),
    ],
)
def test_ranks_and_lists_exclude_each_other(arguments: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recall(10).update(**arguments)


@pytest.mark.parametrize(
    ("metric", "arguments", "message"),
    [
        (Recall(10), (RANKS.float(),), "ranks must be integers"),
        (Recall(10), (-RANKS,), "ranks must be 1-based"),
        (Recall(10), (LISTS,), r"ranks must be int64 \[B\], got shape \[4, 2\]"),
        (Recall(10), (RANKS, RANKS[:3]), r"users must be int64 \[4\], 0 or more, got torch.int64 \[3\], the lowest 0"),
        (Recall(10), (RANKS, -RANKS), "the lowest -12"),
        (NDCG(10), (None, None, LISTS, RANKS), "a target must be an item, 1 or more, got 0"),
        (NDCG(10), (None, None, LISTS, RANKS[:2]), r"items must be \[B, m\] and target \[B\], got \[4, 2\] and \[2\]"),
        (Coverage(2, 3), (LISTS,), r"must lie in 0\.\.3, got 1\.\.4"),
        (Gini(2, 5), (RANKS,), r"lists must be int64 \[B, m\]"),
    ],
)
def test_wrong_rows_are_refused(metric: Metric, arguments: tuple[Tensor | None, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric.update(*arguments)


def test_a_cut_off_below_one_is_refused() -> None:
    for make in (lambda: Recall(0), lambda: NDCG(0), lambda: MRR(0), lambda: Coverage(0, 5)):
        with pytest.raises(UsageError, match="the cut-off n must be at least 1, got 0"):
            make()


def test_no_rows_and_mixed_rows_are_refused() -> None:
    metric = Recall(10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns too
        with pytest.raises(InputError, match="there are no users to average"):
            metric.compute()
    metric.update(RANKS)
    metric.update(RANKS, torch.arange(4))
    with pytest.raises(InputError, match="4 of 8 rows have no user"):
        metric.compute()


# Users 0 .. 4 for two processes, as a DistributedSampler deals them: user 0 pads the second shard. Batches of 2 and 1.
SHARDS = [[(0, 1), (2, 3), (4, 2)], [(1, 0), (3, 12), (0, 1)]]  # (user, rank)
EMPTY = [[(0, 1), (1, 3)], []]  # the second process has no row


def in_process(number: int, folder: str) -> None:
    """Compute the metrics of a shard in one of two processes, and write the results of both cases and the rows left afterwards."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=number, world_size=2)
    found: list[dict[str, float]] = []
    for shards in (SHARDS, EMPTY):
        rows = torch.tensor(shards[number], dtype=torch.int64).reshape(-1, 2)
        made = {"recall": Recall(1), "ndcg": NDCG(10), "mrr": MRR(10), "rows": Recall(1), "coverage": Coverage(2, 5)}
        for metric in made.values():
            metric.to("cpu")  # as Lightning does; torchmetrics then forgets a dtype that was set before
        for user, rank in (part.unbind(1) for part in rows.split(2) if len(part)):
            for name in ("recall", "ndcg", "mrr"):
                made[name].update(rank, user)
            made["rows"].update(rank)
            made["coverage"].update(LISTS[user.clamp(max=3)], user)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a process without rows is warned
            found.append({name: metric.compute().item() for name, metric in made.items()})
    Path(folder, f"{number}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


def test_two_processes_with_padded_and_uneven_shards(tmp_path: Path) -> None:
    """Over the five users: recall@1 1/5 (2/6 over rows), as in one process. Both processes get the result.

    Forks have the libraries of this process; metrics of five users use no threads, which a fork would lack.
    """
    torch.multiprocessing.start_processes(in_process, (str(tmp_path),), nprocs=2, start_method="fork")
    here, there = (json.loads((tmp_path / f"{number}.json").read_text()) for number in (0, 1))
    assert here == there
    ranks = torch.tensor([1, 0, 3, 12, 2])
    expected = {
        function.__name__: function(ranks, n).double().mean().item() for (_, function), n in zip(RANKING, (1, 10, 10), strict=True)
    }
    assert here[0] == pytest.approx(expected | {"rows": 2 / 6, "coverage": 0.8}, abs=1e-12)
    assert here[1] == {"recall": 0.5, "ndcg": 0.75, "mrr": pytest.approx((1 + 1 / 3) / 2), "rows": 0.5, "coverage": 0.6}


class Ranked(lightning.LightningModule):
    """A module of one weight. Its validation batches hold users and ranks, and 0 instead of rank 1 after the first epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.recall, self.ndcg = Recall(1), NDCG(10)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return (self.weight - 1).square()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        user, rank = batch
        rank = torch.where(rank == 1, 0, rank) if self.current_epoch else rank
        self.recall.update(rank, user)
        self.ndcg(rank, user)
        self.log("recall@1", self.recall)
        self.log("ndcg@10", self.ndcg, on_epoch=True)
        self.log("mean of means", metrics.recall(rank, 1).mean(), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Recorded(lightning.Callback):
    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.epochs.append({name: value.item() for name, value in trainer.callback_metrics.items()})


def test_a_lightning_module_logs_the_mean_over_users_of_each_epoch(tmp_path: Path) -> None:
    """Ranks 1, 1, 2 in batches of 2 and 1: recall@1 is 2/3, and the mean of the batches' means 1/2. In epoch 2 nothing is left."""
    rows = TensorDataset(torch.tensor([4, 5, 6]), torch.tensor([1, 1, 2]))
    recorded = Recorded()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path, callbacks=[recorded],
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the number of workers
        trainer.fit(Ranked(), DataLoader(rows, batch_size=3), DataLoader(rows, batch_size=2))
    second = 1 / torch.tensor(3.0).log2().item()  # NDCG of rank 2
    assert recorded.epochs == [
        pytest.approx({"recall@1": 2 / 3, "ndcg@10": (2 + second) / 3, "mean of means": 0.5}),
        pytest.approx({"recall@1": 0, "ndcg@10": second / 3, "mean of means": 0}),
    ]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_a_gpu() -> None:
    for make in (lambda: NDCG(10), lambda: Recall(1)):
        here, there = make(), make().to("cuda")
        for users in (None, torch.tensor([0, 1, 1, 2])):
            here.reset()
            there.reset()
            here.update(RANKS, users)
            there.update(RANKS.cuda(), None if users is None else users.cuda())
            assert there.compute().device.type == "cuda"
            assert there.compute().item() == pytest.approx(here.compute().item(), abs=1e-7)
    gini = Gini(2, 5).to("cuda")
    gini.update(LISTS.cuda(), torch.arange(4).cuda())
    assert gini.compute().item() == pytest.approx(metrics.gini(LISTS, 5))
