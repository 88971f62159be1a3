"""All targets of a batch of windows in one pass of a causal TIGER on a CPU, without the padding.

A batch of short sequences is mostly padding: of Beauty's windows, padded to 20 items, 30 % of the places hold an item. Here the rows
of all items, and those of all targets, lie one after another ("packed"). Only attention sees padded blocks, one per group of windows
of similar length. Dropout draws the random bytes of the padded tensors and uses those of the packed rows, so that a seed gives the
same masks, and the same results up to rounding, as `TigerPolicy.encode` and `TigerPolicy.decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from genrec.model import kernels
from genrec.model.event_embedding import item_numbers
from genrec.model.kernels import Rows
from genrec.model.row_groups import length_groups
from genrec.model.t5_layers import MASK_VALUE, Attention, DecoderLayer, EncoderLayer, attention_mask, code_log_probs
from genrec.types.event_history import items_of

if TYPE_CHECKING:
    from genrec.model.tiger_policy import TigerPolicy


class Places(NamedTuple):
    """The rows of a group in a padded block, which has a row of `length` places per window."""

    place: Tensor  # int64 [R]  ascending
    windows: int
    length: int


class Group(NamedTuple):
    """Windows of similar length, cut to the longest of them."""

    items: Places  # of the encoder's tokens, `length` x (tokens of an item)
    targets: Places
    own_mask: Tensor | None  # of the encoder's attention, see `attention_mask`
    target_mask: Tensor | None  # of the attention of targets to their windows


class PackedWindows(NamedTuple):
    """The rows of all windows, group by group."""

    items: Rows  # of the encoder's tokens, among those of the padded windows
    targets: Rows  # among the places of the padded windows
    groups: Sequence[Group]


def packs(history: Tensor, targets: Tensor) -> bool:
    """Return whether to pack int64 [B, T]: on a CPU, if some place has no target, and no target has an empty history."""
    if history.device.type != "cpu" or not (targets == 0).any():
        return False
    has_target = targets != 0
    has_history = (history != 0).cummax(1).values
    return bool(has_target.any()) and not bool((has_target & ~has_history).any())


def packed_sequence_log_prob(policy: TigerPolicy, history: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return `TigerPolicy.smoothed_sequence_log_prob` up to rounding, float32 [B, T, L], for history and targets int64 [B, T].

    They are histories and targets that `packs`, and the policy has read the histories.
    """
    codes = policy.semantic_ids.levels
    windows = _pack(items_of(history), targets, 1 if policy.specification.history == "items" else codes)
    memory = _encode(policy, history, windows)
    items = targets.flatten()[windows.targets.place]
    tokens = policy.trie.tokens[items]  # int32 [X, L]
    start = torch.zeros_like(tokens[:, :1])
    states = policy.dropout(policy.embedding(torch.cat([start, tokens[:, :-1]], 1)), windows.targets)
    positions = torch.arange(codes)
    causal_bias = policy.decoder_bias(positions, positions).masked_fill(positions[None, :] > positions[:, None], MASK_VALUE)
    age = torch.arange(history.shape[1] - 1, -1, -1)
    own_age, target_age = age.repeat_interleave(windows.items.total // history.numel()), age.repeat_interleave(codes)
    age_bias = policy.age_bias(own_age[None, :] - target_age[:, None])
    for layer in policy.decoder:
        states = _decoder_layer(layer, states, memory, causal_bias, age_bias, windows)  # type: ignore[arg-type]
    states = policy.dropout(policy.decoder_norm(states), windows.targets)
    levels = (code_log_probs(each, head) for each, head in zip(states.unbind(1), policy.heads, strict=True))
    scores = policy.trie.token_log_probs(levels, tokens, policy.within(items), label_smoothing)
    result = scores.new_full((windows.targets.total, codes), -torch.inf).index_copy(0, windows.targets.place, scores)
    return result.view(*targets.shape, codes)


def _pack(history: Tensor, targets: Tensor, tokens: int) -> PackedWindows:
    """Group windows by length; an item has `tokens` rows in the encoder."""
    width, codes_age = history.shape[1], torch.arange(history.shape[1] - 1, -1, -1)
    items, places, groups = [], [], []
    for rows, longest in length_groups(history):
        empty, wanted = history[rows, -longest:] == 0, targets[rows, -longest:] != 0
        within = rows[:, None] * width + torch.arange(width - longest, width)  # int64 [b, longest]
        items.append(((within * tokens).unsqueeze(2) + torch.arange(tokens)).flatten(1)[~empty.repeat_interleave(tokens, 1)])
        places.append(within[wanted])
        empty, age = empty.repeat_interleave(tokens, 1), codes_age[-longest:].repeat_interleave(tokens)
        own_mask = attention_mask(empty, age[None, :] < age[:, None])
        target_mask = attention_mask(empty, age[None, :] < codes_age[-longest:, None])
        groups.append(Group(_places(~empty), _places(wanted), own_mask, target_mask))
    return PackedWindows(Rows(torch.cat(items), history.numel() * tokens), Rows(torch.cat(places), history.numel()), groups)


def _places(wanted: Tensor) -> Places:
    return Places(wanted.flatten().nonzero().squeeze(1), *wanted.shape)


def _encode(policy: TigerPolicy, history: Tensor, windows: PackedWindows) -> Tensor:
    """Return the encoder's output of all tokens of items, float32 [R, D]; see `TigerPolicy.encode`."""
    tokens = windows.items.total // history.numel()
    own_tokens = policy.trie.tokens[item_numbers(history).flatten()].view(windows.items.total, -1)[windows.items.place]
    states = policy.events(policy.embedding(own_tokens).sum(1), history, tokens, windows.items.place)
    states = policy.dropout(states, windows.items)
    positions = torch.arange(history.shape[1] * tokens)
    bias = policy.encoder_bias(positions, positions)
    for layer in policy.encoder:
        states = _encoder_layer(layer, states, bias, windows)  # type: ignore[arg-type]
    encoded: Tensor = policy.dropout(policy.encoder_norm(states), windows.items)
    return encoded


def _encoder_layer(layer: EncoderLayer, states: Tensor, bias: Tensor, windows: PackedWindows) -> Tensor:
    """Apply the layer to the rows of items, float32 [R, D]; `bias` is float32 [1, H, S, S]."""
    attention, rows = layer.attention, windows.items
    packed = attention.queries_keys_values(layer.around_attention.norm(states))
    mixed = []
    for group, part in _split(packed, [group.items for group in windows.groups], windows.groups):
        length = group.items.length
        block = _spread(part, group.items).view(group.items.windows, length, 3, attention.heads, -1)
        attended = kernels.self_attention(block, bias[..., -length:, -length:], group.own_mask)
        mixed.append(_collect(attended.transpose(1, 2).flatten(2), group.items))
    states = layer.around_attention.dropout.add(states, kernels.linear(torch.cat(mixed), attention.output.weight), rows)
    branch = layer.feed_forward(layer.around_feed_forward.norm(states), rows)
    return layer.around_feed_forward.dropout.add(states, branch, rows)


def _decoder_layer(
    layer: DecoderLayer, states: Tensor, memory: Tensor, bias: Tensor, age_bias: Tensor | None, windows: PackedWindows
) -> Tensor:
    """Apply the layer to the codes of targets, float32 [X, L, D]; see `DecoderLayer`.

    `memory` is float32 [R, D], `bias` float32 [1, H, L, L], `age_bias` float32 [1, H, T * L, S].
    """
    rows = windows.targets
    attended = layer.attention.self_attention(layer.around_attention.norm(states), bias)
    states = layer.around_attention.dropout.add(states, attended, rows)
    attended = _history_attention(layer.history_attention, layer.around_history.norm(states), memory, age_bias, windows)
    states = layer.around_history.dropout.add(states, attended, rows)
    branch = layer.feed_forward(layer.around_feed_forward.norm(states), rows)
    return layer.around_feed_forward.dropout.add(states, branch, rows)


def _history_attention(
    attention: Attention, states: Tensor, memory: Tensor, age_bias: Tensor | None, windows: PackedWindows
) -> Tensor:
    """Attend from the codes of targets, float [X, L, D], to the items up to the target's place, float [R, D]: [X, L, D]."""
    targets, codes, _ = states.shape
    queries = kernels.linear(states, attention.query.weight).flatten(1)
    keys_values = kernels.linear(memory, attention.key_value.weight)
    mixed = []
    keys_by_group = _split(keys_values, [group.items for group in windows.groups], windows.groups)
    queries_by_group = _split(queries, [group.targets for group in windows.groups], windows.groups)
    for (group, own_keys), (_, own_queries) in zip(keys_by_group, queries_by_group, strict=True):
        batch, places, length = group.items.windows, group.targets.length * codes, group.items.length
        query = _spread(own_queries, group.targets).view(batch, places, attention.heads, -1).transpose(1, 2)
        keys, values = _spread(own_keys, group.items).view(batch, length, 2, attention.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        bias = None if age_bias is None else age_bias[..., -places:, -length:]
        mask = None if group.target_mask is None else group.target_mask.repeat_interleave(codes, 2)
        attended = kernels.attention(query, keys, values, bias, mask).transpose(1, 2)
        mixed.append(_collect(attended.reshape(batch * group.targets.length, -1), group.targets))
    return kernels.linear(torch.cat(mixed).view(targets, codes, -1), attention.output.weight)


def _split(rows: Tensor, places: Sequence[Places], groups: Sequence[Group]) -> list[tuple[Group, Tensor]]:
    """Return the packed rows [R, W] of each group."""
    return list(zip(groups, torch.split(rows, [len(each.place) for each in places]), strict=True))


def _spread(rows: Tensor, places: Places) -> Tensor:
    """Return packed rows [R, W] in their padded block, zeros elsewhere: [windows, length, W]."""
    block: Tensor = _Spread.apply(rows, places.place, places.windows * places.length)  # type: ignore[no-untyped-call]
    return block.view(places.windows, places.length, -1)


def _collect(block: Tensor, places: Places) -> Tensor:
    """Return the packed rows [R, W] of a padded block [..., W]."""
    rows: Tensor = _Collect.apply(block.reshape(-1, block.shape[-1]), places.place)  # type: ignore[no-untyped-call]
    return rows


class _Spread(Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor, total: int) -> Tensor:
        ctx.save_for_backward(place)
        return rows.new_zeros(total, rows.shape[1]).index_copy_(0, place, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Collect(Function):
    """The places are distinct, so that the gradient is a copy instead of a sum."""

    @staticmethod
    def forward(ctx: Any, block: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.total = len(block)
        return block.index_select(0, place)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.new_zeros(ctx.total, grad.shape[1]).index_copy_(0, ctx.saved_tensors[0], grad), None
