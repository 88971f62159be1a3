"""The peer of `policy.py`: TIGER built from transformers, with preference training as in TRL.

It is `T5ForConditionalGeneration` over the codes' tokens, torch's AdamW, and `generate` with a dictionary as the trie. Preference
training repeats the history for every candidate. Histories are converted to padded tokens in advance, as by the workers of a data
loader; that time is not counted.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from itertools import cycle
from typing import Any

import torch
from policy_shapes import Missing, Sizes, Step, autocast
from torch import Tensor

from genrec.semantic_ids import SemanticIds


class Peer:
    """A T5 of the same sizes; token 0 is padding and the decoder's start, and there is no end token."""

    def __init__(self, sizes: Sizes, semantic_ids: SemanticIds, device: str, precision: str) -> None:
        try:
            import transformers
        except ImportError:
            raise Missing("transformers is not installed") from None
        transformers.logging.set_verbosity_error()
        configuration = transformers.T5Config(
            vocab_size=semantic_ids.vocabulary,
            d_model=sizes.width,
            d_kv=sizes.head_width,
            d_ff=sizes.inner,
            num_layers=sizes.layers,
            num_decoder_layers=sizes.layers,
            num_heads=sizes.heads,
            dropout_rate=sizes.dropout,
            pad_token_id=0,
            decoder_start_token_id=0,
            eos_token_id=None,
        )
        torch.manual_seed(0)
        self.model = transformers.T5ForConditionalGeneration(configuration).to(device)
        self.semantic_ids, self.device, self.precision = semantic_ids, device, precision

    def tokens(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """Return the tokens of left-padded items int64 [B, T], int64 [B, S], right-padded to the longest row, and their mask."""
        order = (history == 0).long().argsort(dim=1, stable=True)
        longest = int((history > 0).sum(1).max())
        tokens = self.semantic_ids.tokens(history.gather(1, order)[:, :longest]).flatten(1).to(self.device)
        return tokens, (tokens > 0).long()

    def optimizer(self) -> torch.optim.Optimizer:
        """Return torch's AdamW."""
        return torch.optim.AdamW(self.model.parameters(), lr=3e-4, weight_decay=0.035)

    def update(self, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        """Run the backward pass, clip gradients at 1 and take an optimizer step."""
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    def training(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return a fine-tuning step on (history [B, T], target [B]): one target per history."""
        ready = cycle([(*self.tokens(history), self.semantic_ids.tokens(target).to(self.device)) for history, target in batches])
        optimizer = self.optimizer()
        self.model.train()

        def step() -> int:
            tokens, mask, labels = next(ready)
            with autocast(self.device, self.precision):
                loss = self.model(input_ids=tokens, attention_mask=mask, labels=labels).loss
            self.update(loss, optimizer)
            return len(tokens)

        return step

    def alignment(self, batches: list[tuple[Tensor, Tensor]]) -> Step:
        """Return an S-DPO step on (history [B, T], candidates [B, 1 + K], the positive first); each candidate repeats the history."""
        ready = []
        for history, candidates in batches:
            tokens, mask = self.tokens(history)
            labels = self.semantic_ids.tokens(candidates).flatten(0, 1).to(self.device)
            ready.append((tokens, mask, labels, candidates.shape[1]))
        turns = cycle(ready)
        optimizer = self.optimizer()
        self.model.eval()  # without dropout, TRL's default for preference training
        reference = copy.deepcopy(self.model).requires_grad_(False)

        def log_prob(model: Any, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
            inputs = torch.nn.functional.pad(labels[:, :-1], (1, 0))
            logits = model(input_ids=tokens, attention_mask=mask, decoder_input_ids=inputs, use_cache=False).logits
            return logits.float().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1).sum(-1)

        def step() -> int:
            tokens, mask, labels, candidates = next(turns)
            tokens, mask = tokens.repeat_interleave(candidates, 0), mask.repeat_interleave(candidates, 0)
            with autocast(self.device, self.precision):
                ours = log_prob(self.model, tokens, mask, labels)
                with torch.no_grad():
                    theirs = log_prob(reference, tokens, mask, labels)
            rewards = (ours - theirs).view(-1, candidates)
            self.update(-rewards.log_softmax(1)[:, 0].mean(), optimizer)
            return len(rewards)

        return step

    def decoding(self, batches: list[Tensor], beams: int) -> Step:
        """Return a constrained beam search for the best `beams` items of histories [B, T]."""
        ready = cycle([self.tokens(history) for history in batches])
        follows, items = dictionary_trie(self.semantic_ids)
        no_continuation = [0]
        self.model.eval()

        def allowed(batch: int, prefix: Tensor) -> list[int]:
            return follows.get(tuple(prefix.tolist()), no_continuation)

        def step() -> int:
            tokens, mask = next(ready)
            with torch.no_grad(), autocast(self.device, self.precision):
                sequences = self.model.generate(
                    input_ids=tokens,
                    attention_mask=mask,
                    num_beams=beams,
                    num_return_sequences=beams,
                    max_new_tokens=self.semantic_ids.levels,
                    do_sample=False,
                    prefix_allowed_tokens_fn=allowed,
                )
            for row in sequences[:, 1:].tolist():
                items.get(tuple(row), 0)
            return len(tokens)

        return step


@lru_cache(maxsize=1)
def dictionary_trie(semantic_ids: SemanticIds) -> tuple[dict[tuple[int, ...], list[int]], dict[tuple[int, ...], int]]:
    """Return the tokens that may follow each prefix (which begins with the start token), and the item of each Semantic ID's tokens."""
    follows: dict[tuple[int, ...], dict[int, None]] = {}
    items: dict[tuple[int, ...], int] = {}
    for item, row in enumerate(semantic_ids.tokens(torch.arange(1, semantic_ids.items + 1)).tolist(), start=1):
        items[tuple(row)] = item
        for level, token in enumerate(row):
            follows.setdefault((0, *row[:level]), {})[token] = None
    return {prefix: list(tokens) for prefix, tokens in follows.items()}, items
