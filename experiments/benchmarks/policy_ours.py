"""genrec's side of `policy.py`: policies through their public interface, trained as by genrec's training loop."""

from __future__ import annotations

import copy
import tempfile
from itertools import count as count_up
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from policy_shapes import Missing, Sizes, Step, autocast
from torch import Tensor

from genrec import model
from genrec.data.examples import Examples
from genrec.objectives.frozen_policy import FrozenCopy
from genrec.objectives.numbered_examples import NumberedExamples
from genrec.objectives.reference_cache import ReferenceCache
from genrec.objectives.rows import with_places
from genrec.objectives.scored_candidates import log_probs
from genrec.objectives.supervised import negative_log_likelihood
from genrec.precision import Resolved
from genrec.preference.candidates.row_scores import scores_of
from genrec.preference.losses import SoftmaxDPO
from genrec.semantic_ids import SemanticIds
from genrec.training.lightning_module import adamw
from genrec.training.loop import train
from genrec.training.recipes import SFT, Optimization, Validation
from genrec.types import ExactRecommender, SequenceBatch, SequencePolicy, TrainingStep, WindowBatch


def tiger(sizes: Sizes, beams: int, **choices: Any) -> Any:
    """Return a TIGER specification of these sizes, with relative positions only, like the peer; `choices` are further fields."""
    common = {"d_model": sizes.width, "d_ff": sizes.inner, "num_heads": sizes.heads, "d_kv": sizes.head_width}
    layers = {"num_encoder_layers": sizes.layers, "num_decoder_layers": sizes.layers}
    return model.Tiger(**common, **layers, dropout=sizes.dropout, recency_positions=0, num_beams=beams, **choices)


def gpt(sizes: Sizes, beams: int) -> Any:
    """Return a decoder-only specification with as many layers as TIGER's encoder and decoder together."""
    return model.Gpt(
        d_model=sizes.width, d_ff=sizes.inner, num_heads=sizes.heads, d_kv=sizes.head_width, num_layers=2 * sizes.layers,
        dropout=sizes.dropout, num_beams=beams,
    )  # fmt: skip


class Ours:
    """A policy of genrec and its benchmark steps."""

    def __init__(self, specification: Any, semantic_ids: SemanticIds, device: str, precision: str) -> None:
        torch.manual_seed(0)
        self.policy = specification.build(semantic_ids).to(device)
        self.causal = getattr(specification, "causal", False)
        self.device, self.precision = device, precision

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the training loop's optimizer."""
        trained = [each for each in self.policy.parameters() if each.requires_grad]
        return adamw(
            trained,
            learning_rate=3e-4,
            weight_decay=SFT().optimization.weight_decay,
        )

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Run the backward pass, clip gradients at 1 and take an optimizer step, as the training loop does."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def ready(self, batches: list[tuple[Tensor, Tensor]]) -> Any:
        """Return the batches on the device, repeated forever."""
        return cycle([tuple(tensor.to(self.device) for tensor in batch) for batch in batches])

    def training(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return a fine-tuning step on (history [B, T], target [B]): one target per history."""
        ready, optimizer = self.ready(batches), self.optimizer()
        self.policy.train()

        def step() -> int:
            history, target = next(ready)
            with autocast(self.device, self.precision):
                loss = negative_log_likelihood(self.policy, SequenceBatch(target, history, target))  # users are not used
            self.update(loss, optimizer)
            return len(history)

        return step

    def whole_loop(self, history: Tensor, target: Tensor, batch: int, steps: int) -> Step:
        """Return a run of genrec's training loop, with its start-up and an empty validation.

        Histories are int64 [E, T] without padding, targets [E].
        """
        if self.device != ("cuda" if torch.cuda.is_available() else "cpu"):
            raise Missing("the training loop always uses a GPU if there is one")
        count, length = history.shape
        begin = torch.arange(count) * (length + 1)
        flat = torch.cat([history, target.unsqueeze(1)], 1).flatten()
        examples = Examples(flat, torch.arange(1, count + 1), begin, begin + length, torch.arange(1, count + 1), length)
        precision: Resolved = "bf16-mixed" if self.precision == "bfloat16" else "32-true"
        recipe = SFT(
            optimization=Optimization(
                max_steps=steps, batch_size=batch, learning_rate=3e-4, warmup_steps=1_000, weight_decay=0.035, precision=precision
            ),
            validation=Validation(every=steps, patience=15),
        )
        score = ({"ndcg@10": float(number)} for number in count_up())  # improves at every validation, so that no warning is printed
        self.policy.train()

        def step() -> int:
            with tempfile.TemporaryDirectory() as folder:
                objective = TrainingStep(examples=examples, loss=self._likelihood)
                train(self.policy, objective, recipe, 0, 0, Path(folder) / "last", score.__next__, "loop")
            return steps * batch

        return step

    def _likelihood(self, batch: SequenceBatch, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return negative_log_likelihood(self.policy, batch), {}

    def windows(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return a fine-tuning step on (history [B, T], targets [B, T]): the item after every place, in one pass."""
        if not (self.causal and isinstance(self.policy, SequencePolicy)):
            raise Missing("it encodes every prefix separately")
        ready, optimizer = self.ready(batches), self.optimizer()
        count = cycle([int((targets > 0).sum()) for _, targets in batches])
        self.policy.train()

        def step() -> int:
            history, targets = next(ready)
            with autocast(self.device, self.precision):
                levels = self.policy.sequence_log_prob(history, targets)
                total = -levels.masked_fill((targets == 0).unsqueeze(-1), 0.0).sum()
                loss = total / ((targets > 0).sum() * levels.shape[-1])
            self.update(loss, optimizer)
            return next(count)

        return step

    def alignment(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return an S-DPO step on (history [B, T], candidates [B, 1 + K], the positive first)."""
        ready, optimizer, loss_of = self.ready(batches), self.optimizer(), SoftmaxDPO(beta=1.0)
        self.policy.eval()
        reference = copy.deepcopy(self.policy).requires_grad_(False)

        def step() -> int:
            history, candidates = next(ready)
            with autocast(self.device, self.precision):
                ours = log_probs(self.policy.level_log_prob(history, candidates))
                with torch.no_grad():
                    theirs = log_probs(reference.level_log_prob(history, candidates))
                loss = loss_of(ours, theirs).loss.mean()
            self.update(loss, optimizer)
            return len(history)

        return step

    def kept_alignment(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return the step of `alignment` with the reference's log-probabilities kept, as in training with fixed candidates.

        They are scored before the first step. A step gathers them and compares its candidates with those that were scored.
        """
        loss_of, optimizer, size = SoftmaxDPO(beta=1.0), self.optimizer(), len(batches[0][0])
        self.policy.eval()
        numbers = torch.arange(size * len(batches)).split(size)
        on_device = [number.to(self.device) for number in numbers]
        identities = [items.unsqueeze(2) for _, items in batches]  # candidates without codes are told apart by their items
        turns = cycle(zip(numbers, on_device, identities, strict=True))
        ready, frozen = self.ready(batches), FrozenCopy(self.policy)
        cache = ReferenceCache(NumberedExamples(range(size * len(batches)), True), size, size * len(batches), frozen)

        def score(number: Tensor) -> Tensor:
            history, candidates = batches[int(number[0]) // size]
            return frozen.policy.level_log_prob(history.to(self.device), candidates.to(self.device))

        def step() -> int:
            history, candidates = next(ready)
            number, number_on_device, found = next(turns)
            with autocast(self.device, self.precision):
                ours = log_probs(self.policy.level_log_prob(history, candidates))
                kept = cache.gather(number_on_device, candidates.shape[1], score)
                assert kept is not None
                cache.check(number, found, lambda index: identities[int(index[0]) // size])
                loss = loss_of(ours, log_probs(kept)).loss.mean()
            self.update(loss, optimizer)
            return len(history)

        return step

    def window_alignment(self, batches: list[tuple[Tensor, Tensor, Tensor]]) -> Step:
        """Return an S-DPO step on (history [B, T], targets [B, T], candidates [X, 1 + K]), the X targets of the windows first."""
        optimizer, loss_of = self.optimizer(), SoftmaxDPO(beta=1.0)
        self.policy.eval()
        reference = FrozenCopy(self.policy).policy
        ready = []
        for history, targets, candidates in batches:
            batch = WindowBatch(*(each.to(self.device) for each in (targets[:, 0], history, targets)))  # users are not used
            rows, places = with_places(batch)
            ready.append((batch, places, rows, candidates.to(self.device)))
        turns = cycle(ready)

        def step() -> int:
            batch, places, rows, candidates = next(turns)
            with autocast(self.device, self.precision):
                ours = log_probs(scores_of(self.policy, batch, places, rows, "codes").level_log_prob(candidates))
                with torch.no_grad():
                    theirs = log_probs(scores_of(reference, batch, places, rows, "codes").level_log_prob(candidates))
                loss = loss_of(ours, theirs).loss.mean()
            self.update(loss, optimizer)
            return len(candidates)

        return step

    def decoding(self, batches: list[Tensor], n: int) -> Step:
        """Return a beam search for the `n` best items of histories [B, T], with the specification's number of beams."""
        ready = cycle([history.to(self.device) for history in batches])
        self.policy.eval()

        def step() -> int:
            history = next(ready)
            with torch.no_grad(), autocast(self.device, self.precision):
                self.policy.recommend(history, n)
            return len(history)

        return step

    def exact(self, batches: list[Tensor], n: int) -> Step:
        """Return an exact search for the `n` best items of histories [B, T]."""
        if not isinstance(self.policy, ExactRecommender):
            raise Missing(f"{type(self.policy).__name__} has no recommend_exactly")
        ready = cycle([history.to(self.device) for history in batches])
        self.policy.eval()

        def step() -> int:
            history = next(ready)
            with torch.no_grad(), autocast(self.device, self.precision):
                self.policy.recommend_exactly(history, n)
            return len(history)

        return step

    def item_by_item(self, batches: list[Tensor], items: int, n: int, chunk: int = 2_048) -> Step:
        """Return an exact search that scores item by item, without the trie."""
        ready = cycle([history.to(self.device) for history in batches])
        self.policy.eval()

        def step() -> int:
            history = next(ready)
            with torch.no_grad(), autocast(self.device, self.precision):
                parts = torch.arange(1, items + 1, device=self.device).split(chunk)
                scores = [self.policy.log_prob(history, part.expand(len(history), -1)) for part in parts]
                torch.cat(scores, 1).topk(n)
            return len(history)

        return step
