"""Stage 5, alignment: the SFT policy learns to prefer the positive over drawn negatives; its frozen copy is the reference.

    examples ──► batch ──► negatives ──► policy and reference score ──► loss, rewards ──► step
                 by step   drawn, checked,   1 + K candidates of one        of each example
                           counted           encoded history

Negatives are drawn, checked and counted on the host, ahead of the step, so that no step of a GPU waits for it; those of a sampler
that reads the policy, and rewards that a loss asks for, are made in the step, since they depend on weights. Policy and reference run
without dropout, so that the first loss of a round is exactly ln(1 + K) (before an anchor): `check_start` asserts it.

In rounds (`Align.rounds`) the reference is the policy of the round's beginning, after the round's steps of SFT where there are any.
Frozen weights that change while training are in the checkpoint, beside the policy's own.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from genrec.data.examples import Examples
from genrec.errors import UsageError
from genrec.model.unconstrained_sampling import unconstrained_statistics
from genrec.preference.draw_contract import DrawContract
from genrec.preference.losses import ContinuedSFT, check_start, find_requirement
from genrec.preference.negative_statistics import NegativeStatistics, Summary
from genrec.preference.negatives.capabilities import at, capabilities
from genrec.progress import say
from genrec.randomness import generator
from genrec.training import plugin_errors
from genrec.training.curve_warnings import FallingPositives
from genrec.training.curves import OnRow
from genrec.training.loop import Outcome, Validate, train
from genrec.training.preference_logs import preference_logs
from genrec.training.recipes import Align
from genrec.types import ConstrainedPolicy, LogProbs, Policy, Reward, SamplerContext, SequenceBatch

FEW = 0.5  # share of examples without a negative above which the run says so
PROBED = 256  # training examples that every validation looks at: see `Alignment.seen`


class OnHost:
    """What stays where it was made when its batch goes to a device, so that reading it waits for nothing; no tuple, no dataclass."""

    def __init__(self, batch: SequenceBatch, negatives: Tensor | None) -> None:
        self.batch, self.negatives = batch, negatives


class Pairs(NamedTuple):
    """What a step of alignment takes."""

    batch: SequenceBatch
    negatives: Tensor | None  # int64 [B, K]  None: to be drawn in the step
    host: OnHost


class Round(NamedTuple):
    """Where a step is in its round."""

    supervised: bool  # whether this is a step of the round's SFT
    begins: bool  # whether it is the first step of preferences, before which the reference becomes the policy


def round_of(recipe: Align, step: int) -> Round:
    """Rounds are of equal length."""
    place = step % (recipe.optimization.max_steps // recipe.rounds)
    return Round(place < recipe.round_sft_steps, place == recipe.round_sft_steps)


def log_probs(levels: Tensor, negatives: int | None = None, rewards: Tensor | None = None) -> LogProbs:
    """Level log-probabilities float32 [B, 1 + K (+ 1), L] of the positive, K negatives (and a mismatched item) -> LogProbs.

    `negatives` is K; None: all but the positive.
    """
    total = levels.sum(-1)
    count = total.shape[1] - 1 if negatives is None else negatives
    mismatched = total[:, 1 + count] if total.shape[1] > 1 + count else None
    return LogProbs(total[:, 0], total[:, 1 : 1 + count], levels.shape[-1], mismatched, rewards)


class Drawing:
    """Negatives of a step: drawn as the sampler says, checked."""

    def __init__(self, recipe: Align, context: SamplerContext, an_epoch: int, seed: int) -> None:
        self.recipe, self.an_epoch, self.seed = recipe, an_epoch, seed
        with plugin_errors.of(recipe.negatives, "while it was built"):
            self.draw = recipe.negatives.build(context)
        self.capabilities = capabilities(self.draw)
        self.contract = DrawContract(context, self.capabilities.offers_history)
        unit = an_epoch if self.capabilities.refresh_unit == "epochs" else 1
        self.refresh_every = unit * (self.capabilities.refresh_every or 0)

    def __call__(self, batch: SequenceBatch, step: int) -> Tensor:
        """int64 [B, K]."""
        key = ("negatives", "epoch", step // self.an_epoch) if self.capabilities.by_example else ("negatives", step)
        with plugin_errors.of(self.recipe.negatives, f"while it drew for step {step}"):
            negatives = at(self.draw, step / self.recipe.optimization.max_steps)(
                batch, self.recipe.num_negatives, generator(self.seed, *key)
            )
        self.contract.check(batch, negatives, self.recipe.num_negatives)
        return negatives


class Alignment:
    """The objective of a training, and what it keeps: the reference, the policy that is sampled from, what was drawn."""

    def __init__(self, policy: Policy, context: SamplerContext, recipe: Align, seed: int, an_epoch: int) -> None:
        module_of(policy).eval()
        self.policy, self.recipe = policy, recipe
        self.reference, self.sampled = frozen(policy), frozen(policy)
        self.drawing = Drawing(recipe, context._replace(policy=self.sampled), an_epoch, seed)
        reward = find_requirement(recipe.loss, "reward")
        if reward is not None and not isinstance(reward, Reward):
            raise UsageError(f"align.loss: what a loss names as its reward must be a genrec.types.Reward, got {reward!r}")
        with plugin_errors.of(recipe.loss, "while its reward was built"):
            self.rate = None if reward is None else reward.rate(context._replace(policy=self.reference))
        self.mismatches = bool(find_requirement(recipe.loss, "mismatched"))
        self.drawn = NegativeStatistics(context)
        self.counters = dict(self.drawn.totals)
        self._keep()

    @property
    def in_step(self) -> bool:
        """Whether negatives are drawn in the step."""
        return self.drawing.capabilities.refresh_every is not None or self.rate is not None

    def _keep(self) -> None:
        """Frozen weights that change while training, for the checkpoint."""
        if self.recipe.rounds > 1 or self.recipe.round_sft_steps or self.drawing.refresh_every:
            for name, policy in (("reference", self.reference), ("sampled", self.sampled)):
                self.counters |= {f"{name}.{key}": value for key, value in module_of(policy).state_dict().items()}

    def prepare(self, batch: SequenceBatch, step: int) -> Pairs:
        """On the host, ahead of the step."""
        negatives = None if self.in_step or round_of(self.recipe, step).supervised else self.drawing(batch, step)
        return Pairs(batch, negatives, OnHost(batch, negatives))

    def refresh(self, step: int) -> None:
        """Bring the reference up to date where a round begins, and what is sampled from as the sampler says, or with the reference."""
        begins, every = round_of(self.recipe, step).begins, self.drawing.refresh_every
        if begins:
            module_of(self.reference).load_state_dict(module_of(self.policy).state_dict())
        if step % every == 0 if every else begins:
            module_of(self.sampled).load_state_dict(module_of(self.policy).state_dict())

    def __call__(self, batch: Pairs, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a step, and what is logged beside it."""
        _, history, target = batch.batch
        host = batch.host
        self._follow(target.device)
        self.refresh(step)
        now = round_of(self.recipe, step)
        if now.supervised:
            levels = self._score(self.policy, history, target.unsqueeze(1))
            ours = log_probs(levels, 0)
            loss = ContinuedSFT()(ours, ours).loss.mean()
            return loss, {"sft_loss": loss.detach()}
        on_host, negatives = host.negatives, batch.negatives
        if negatives is None:
            on_host = self.drawing(host.batch, step)
            negatives = on_host.to(target.device)
        assert on_host is not None
        logs = self.drawn.update(host.batch, on_host)
        candidates = torch.cat([target.unsqueeze(1), negatives], 1)
        with plugin_errors.of(self.recipe.loss, f"while its reward rated items in step {step}"):
            rewards = None if self.rate is None else self.rate(batch.batch, candidates)
        if self.mismatches:
            other = mismatched(host.batch, self.drawing.contract)
            candidates = torch.cat([candidates, other.to(candidates.device).unsqueeze(1)], 1)
        levels = self._score(self.policy, history, candidates)
        with torch.no_grad():
            reference_levels = self._score(self.reference, history, candidates)
        ours, theirs = (log_probs(each, negatives.shape[1], rewards) for each in (levels, reference_levels))
        if now.begins:
            check_start(ours, theirs)
        with plugin_errors.of(self.recipe.loss, f"in step {step}"):
            terms = self.recipe.loss(ours, theirs)
        if now.begins:
            plugin_errors.check_terms(self.recipe.loss, terms, ours)
        shown = slice(0, 1 + negatives.shape[1])
        return terms.loss.mean(), preference_logs(terms, levels[:, shown].detach(), reference_levels[:, shown], negatives) | logs

    def _score(self, policy: Policy, history: Tensor, items: Tensor) -> Tensor:
        """float32 [B, M, L], normalized as the recipe says."""
        if self.recipe.normalize == "codes":
            return policy.level_log_prob(history, items)
        return cast(ConstrainedPolicy, policy).constrained_level_log_prob(history, items)

    def _follow(self, device: torch.device) -> None:
        """Take the frozen policies to the device of the one in training."""
        if next(module_of(self.reference).parameters()).device != device:
            for each in (self.reference, self.sampled):
                module_of(each).to(device)
            self._keep()

    @torch.no_grad()
    def seen(self, probed: SequenceBatch, seed: int) -> dict[str, float]:
        """Of some examples, always the same: the positive's log-probability, which thus compares with that at step 0 whatever the
        reference is by now; and what the policy would write freely: its entropy, KL to the reference, share of valid Semantic IDs.
        """
        device = next(module_of(self.policy).parameters()).device
        self._follow(device)
        history, target = probed.history.to(device), probed.target.to(device)
        chosen = self._score(self.policy, history, target.unsqueeze(1)).sum(-1).mean()
        return {"chosen_log_prob": float(chosen)} | unconstrained_statistics(
            self.policy, self.reference, history, 1, generator(seed, "probe")
        )


def align(
    policy: Policy, examples: Examples, context: SamplerContext, recipe: Align, seed: int, folder: Path,
    validate: Validate, on_row: OnRow | None = None,
) -> tuple[Outcome, Summary]:  # fmt: skip
    """Train the SFT policy in place; `folder` holds the checkpoint, `validate` gives metrics on validation, `on_row` sees every row.

    Returns the outcome and a summary of the negatives that were drawn.
    """
    if recipe.normalize == "children" and not isinstance(policy, ConstrainedPolicy):
        raise UsageError(
            f"align.normalize children needs a policy with constrained_level_log_prob (genrec.types.ConstrainedPolicy), got "
            f"{type(policy).__name__}; set align.normalize codes"
        )
    objective = Alignment(policy, context, recipe, seed, -(-len(examples) // recipe.optimization.batch_size))
    probed = examples.batch(torch.randperm(len(examples), generator=generator(0, "probed examples"))[:PROBED])

    def validated() -> dict[str, float]:
        return {**validate(), **objective.seen(probed, seed)}

    outcome = train(
        module_of(policy), objective, examples, recipe, seed, folder, validated, "alignment", objective.counters, objective.prepare,
        on_row, [FallingPositives()],
    )  # fmt: skip
    summary = objective.drawn.summary()
    _say_shortfall(summary)
    return outcome, summary


def _say_shortfall(summary: Summary) -> None:
    """Where most examples had nothing to be compared with, alignment was mostly its anchor."""
    examples, without = cast(int, summary["examples"]), cast(int, summary["examples_without_negatives"])
    if without > FEW * examples:
        say(
            f"alignment: {without} of {examples} examples got no negative, which leaves them the anchor alone, if there is one; let "
            "the sampler draw from more, or refuse less"
        )


def mismatched(batch: SequenceBatch, contract: DrawContract) -> Tensor:
    """For each history the next example's positive, int64 [B], 0 where it has the Semantic ID of its own: KTO's baseline."""
    other = batch.target.roll(1)
    same = contract.exclusions.shares_semantic_id(batch, other.unsqueeze(1)).squeeze(1)
    return other.masked_fill(same, 0)


def frozen(policy: Policy) -> Policy:
    """A copy that is not trained."""
    return cast(Policy, copy.deepcopy(module_of(policy)).requires_grad_(False).eval())


def module_of(policy: Policy) -> nn.Module:
    """A policy is an nn.Module, which a protocol cannot say."""
    return cast(nn.Module, policy)
