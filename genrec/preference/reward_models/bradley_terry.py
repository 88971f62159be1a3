"""A reward model that is trained on pairs of the training data, as a reward."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pandas import DataFrame
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.errors import InputError, UsageError, given
from genrec.plugin_source import components, named_objects
from genrec.preference.candidates import InvalidIds, Pairs, Rollouts, Sampled, TopItems
from genrec.preference.draw_counts import DrawCounts
from genrec.preference.negatives import ModelBeams, Uniform
from genrec.preference.negatives.capabilities import policy_refreshes
from genrec.preference.range_checks import check_range
from genrec.preference.rating_requirements import check_labels
from genrec.preference.reward_models.pair_losses import bradley_terry, center_penalty, plackett_luce
from genrec.preference.reward_models.reward_network import (
    RewardFigures,
    RewardNetwork,
    batches,
    figures_of,
    held_out_rows,
    rate,
    standardize,
)
from genrec.preference.reward_models.training_pairs import EXAMPLES, READS_POLICY, PairRows, TrainingPairs
from genrec.preference.rewards.reward_tables import mask_padding
from genrec.progress import say
from genrec.randomness import seed_of
from genrec.semantic_ids import SemanticIds
from genrec.store import write_json
from genrec.types import (
    CheckedContext,
    CheckedHeldOut,
    CodeProposer,
    NegativeSampler,
    Proposer,
    Rating,
    SamplerContext,
    SequenceBatch,
)
from genrec.types.specification import check_at_least, check_types

WEIGHTS, FIGURES, PREFERRED = "reward_model.safetensors", "reward_model.json", "preferred_items.parquet"  # files of the artifact
LAST = 100  # steps whose mean loss is reported


@dataclass(frozen=True, kw_only=True)
class BradleyTerry:
    """A reward model r(history, item), trained so that preferred items have higher rewards than rejected ones.

    The loss of a row with a preferred item w and rejected items k is the mean over its pairs of `-log sigmoid(r_w - r_k)` (Bradley and
    Terry 1952; Ouyang et al. 2022, arXiv 2203.02155, Eq. 1), or with loss "softmax" that of the first place among all candidates
    (Plackett and Luce); plus `center` times the mean of `(r_w + r_k)^2`. r is a head of two layers on a state of the history and the
    item's vector. The papers use a language model in its place; here the model is small and reads no policy.

    Which pairs, `pairs` and `feedback` say:

        Sampled(Uniform(), 3)                             items that the user took over items that the user did not take
        Sampled(DislikedItems(), 1), feedback "liked"     liked over disliked items of the same user (needs a split with labels)
        Pairs("pairs.csv")                                the rows of a file

    All of them are training events: validation and test are not read. The pairs of a share of the users are held out of the training
    of the model. It is refused if fewer than `min_accuracy` of these are in the right order. Accuracy and the rank correlation with
    popularity are in `reward_model.json` of the artifact, in the log and below tables.

    In an experiment the model is a stage `reward` with an artifact of its own, which all rows and seeds with equal settings, data and
    item vectors share. Elsewhere `rate` trains it. Rewards have mean 0 and deviation 1 over the catalog.
    """

    pairs: Proposer = field(
        default_factory=lambda: Sampled(Uniform(), 3)
    )  # who proposes: the preferred item first, then rejected ones
    feedback: Literal["all", "liked", "not disliked"] = "not disliked"  # preferred items by their labels; a file brings its own
    loss: Literal["pairs", "softmax"] = "pairs"  # the mean over pairs, or the first place among all candidates of a row
    center: float = 0.01  # weight of the mean of (r_w + r_k)^2, 0 or more
    dim: int = 32  # width of the network, at least 1
    history_length: int = 20  # most recent items that the model reads, at least 1; a row gives no more than its own history_length
    steps: int = 1000  # steps of the training, at least 1; the rows are shuffled anew after each pass
    batch_size: int = 256  # rows of a step, at least 1
    learning_rate: float = 2e-3  # of AdamW at the start, above 0; it falls linearly to 0
    weight_decay: float = 0.05  # of AdamW, 0 or more
    held_out: float = 0.1  # share of the users with pairs that the model is not trained on, in (0, 1)
    min_accuracy: float = 0.55  # least share of held-out pairs in the right order, in [0, 1)
    seed: int = 0  # of weights, order, rejected items and held-out users; all seeds of a row share the model

    def __post_init__(self) -> None:
        check_types(self, "BradleyTerry")
        check_at_least(self, "BradleyTerry", 1, "dim", "history_length", "steps", "batch_size")
        check_at_least(self, "BradleyTerry", 0, "seed")
        for name in ("center", "weight_decay"):
            check_range(self, name, 0)
        check_range(self, "learning_rate", 0, above=True)
        check_range(self, "held_out", 0, 1, above=True)
        check_range(self, "min_accuracy", 0, 1)
        if isinstance(self.pairs, type) or not isinstance(self.pairs, Proposer):
            raise UsageError(f"BradleyTerry.pairs must be a proposer, such as {EXAMPLES}, got {given(self.pairs)}")
        if isinstance(self.pairs, CodeProposer) and self.pairs.proposes_codes():
            raise UsageError(f"BradleyTerry.pairs must propose items, got {self.pairs!r}; use {EXAMPLES}")

    def check(self, experiment: Any) -> None:
        """Raise UsageError if the experiment has another reward model too, or no labels, or if the pairs read a policy."""
        if not isinstance(self.pairs, Pairs):
            check_labels(self, self.feedback, experiment)
        self._check_reads_no_policy()
        models = [(path, each) for path, each in named_objects(experiment) if isinstance(each, BradleyTerry)]
        others = [path for path, each in models if each != self]
        if others:
            raise UsageError(
                f"{experiment.name}: an experiment has one reward model, but {others[0]} differs from that of {models[0][0]}; give "
                "them equal settings"
            )

    def _check_reads_no_policy(self) -> None:
        samplers = [each for each in components(self.pairs) if isinstance(each, NegativeSampler)]
        reading = [each for each in samplers if isinstance(each, ModelBeams) or policy_refreshes(each)]
        if isinstance(self.pairs, TopItems | Rollouts | InvalidIds) or reading:
            raise UsageError(READS_POLICY.format(self.pairs))

    def rate(self, context: SamplerContext) -> Rating:
        """Return the rating by the model of the stage `reward`, or without that stage by one that is trained on the context."""
        network = self._build(context)
        if context.reward_model is None:
            self._fit(network, context)
        else:
            network.load_state_dict(load_file(context.reward_model / WEIGHTS))
        network.eval().requires_grad_(False)

        def rate_items(batch: SequenceBatch, items: Tensor) -> Tensor:
            network.to(items.device)
            rewards = rate(network, batch.items[:, -self.history_length :].to(items.device), items)
            return mask_padding(rewards, items)

        return Rating(rate=rate_items)

    def save_model(self, context: SamplerContext, held_out: DataFrame, folder: Path) -> RewardFigures:
        """Train the model and write it with its figures. Raises InputError if its accuracy is below `min_accuracy`.

        `held_out` has the events of validation and test, to refuse a file of pairs that prefers one of them.
        """
        for each in (self.pairs, *components(self.pairs)):
            if isinstance(each, CheckedContext):
                each.check_context(context)
            if isinstance(each, CheckedHeldOut):
                each.check_held_out(context, held_out)
        network = self._build(context)
        # the preferred item of these is a training event, or the file's, which was checked
        preferred = None if isinstance(self.pairs, Sampled | Pairs) else DrawCounts(context.item_count)
        figures = self._fit(network, context, preferred)
        if preferred is not None:
            preferred.table().to_parquet(folder / PREFERRED, index=False)
        save_file(network.state_dict(), folder / WEIGHTS)
        write_json(folder / FIGURES, figures._asdict())
        say(
            f"reward model: {100 * figures.accuracy:.1f} % of {figures.pairs:,} held-out pairs in the right order "
            f"({100 * figures.popularity_accuracy:.1f} % by popularity alone); rank correlation with popularity "
            f"{figures.popularity_correlation:.2f}"
        )
        return figures

    def _build(self, context: SamplerContext) -> RewardNetwork:
        """Return the network with its initial weights, on the CPU."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed, "weights of a reward model"))
            return RewardNetwork(context.vectors.cpu(), self.dim)

    def _fit(self, network: RewardNetwork, context: SamplerContext, preferred: DrawCounts | None = None) -> RewardFigures:
        """Train the network, count its preferred items in `preferred` and return its figures.

        Items are compared by number: Semantic IDs are a matter of policies.
        """
        codes = torch.arange(context.item_count).unsqueeze(1)
        context = context._replace(semantic_ids=SemanticIds(codes, (context.item_count,)), policy=None)
        pairs = TrainingPairs(
            self.pairs, context, self.feedback, self.history_length, self.held_out, self.seed, self.batch_size
        )  # fmt: skip
        if not len(pairs.train) or not len(pairs.held_out):
            raise InputError(
                f"BradleyTerry.pairs {self.pairs!r} gives {len(pairs.train)} rows to train on and {len(pairs.held_out)} held-out ones "
                f"(a share of {self.held_out:g} of the users); it needs both, so take other pairs or another held_out"
            )
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        losses, count = list[float](), 0
        with torch.random.fork_rng(devices=[]):
            for step, index in zip(range(self.steps), batches(pairs.train, self.batch_size, self.seed), strict=False):
                rows = pairs.rows(index, step)
                if not bool(rows.mask.any()):
                    continue
                if preferred is not None:
                    preferred.update(rows.user, rows.chosen.masked_fill(~rows.mask.any(1), 0).unsqueeze(1))
                torch.manual_seed(seed_of(self.seed, "dropout of a reward model", step))
                optimizer.param_groups[0]["lr"] = self.learning_rate * (1 - step / self.steps)
                optimizer.zero_grad()
                loss = self._loss(network.train(), rows)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                losses, count = [*losses[1 - LAST :], float(loss.detach())], count + int(rows.mask.sum())
        held_out = held_out_rows(pairs, self.seed)
        standardize(network, held_out, context.item_count)
        figures = figures_of(network, held_out, context.popularity, count, sum(losses) / max(len(losses), 1))
        self._check(figures)
        return figures

    def _loss(self, network: RewardNetwork, rows: PairRows) -> Tensor:
        """Return the mean loss over the rows with a pair, weighted by the rows of the proposer."""
        rewards, mask = network(rows.history, torch.cat([rows.chosen.unsqueeze(1), rows.rejected], 1)), rows.mask
        kind = bradley_terry if self.loss == "pairs" else plackett_luce
        each = kind(rewards[:, 0], rewards[:, 1:], mask)
        if self.center:
            each = each + self.center * center_penalty(rewards[:, 0], rewards[:, 1:], mask)
        weight = mask.any(1).float() if rows.weight is None else mask.any(1) * rows.weight
        return (weight * each).sum() / weight.sum()

    def _check(self, figures: RewardFigures) -> None:
        """Raise InputError if the model is worse than required on held-out pairs."""
        if not figures.pairs or figures.accuracy < self.min_accuracy:
            raise InputError(
                f"BradleyTerry: the reward model has {100 * figures.accuracy:.1f} % of {figures.pairs:,} held-out pairs in the right "
                f"order, expected at least {100 * self.min_accuracy:g} % (min_accuracy), after a training on {figures.train_pairs:,};"
                f" popularity alone has {100 * figures.popularity_accuracy:.1f} %. A policy would learn its errors: give it more "
                "or clearer pairs (pairs, feedback), other item vectors (embed) or more steps"
            )


def figures_in(folder: Path) -> RewardFigures:
    """Return the figures of the reward model of an artifact."""
    return RewardFigures(**json.loads((folder / FIGURES).read_text(encoding="utf-8")))
