"""Semantic IDs: each item's codes, the policy's tokens, the map from codes back to items, and the trie of valid Semantic IDs.

`SemanticIds` takes the tokenizer's codes, int64 [N, L]. The trie is stored as flat tables (compressed sparse rows, one table per
level), so that constrained decoding uses tensor operations only, without Python code per beam.

Tokens: token 0 is padding and also starts the decoder; code `c` of level `l` is token `1 + offset[l] + c`. Enlarging a level shifts
the tokens of all later levels. Only the last level can grow without changing the tokens that a trained policy knows.

Trie: the nodes of depth `d` are the distinct prefixes of length `d`, numbered in lexicographic order; the root is node 0 of depth 0.
The children of a node are consecutive nodes of the next depth. A leaf's number is the rank of its Semantic ID in lexicographic order.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.errors import ArtifactError, InputError


class PrefixTable(NamedTuple):
    """The children of all trie nodes of one depth. The tables are int32 because they are large for a large catalog."""

    start: Tensor  # int32 [nodes + 1]  the children of node i are nodes start[i] .. start[i + 1] - 1 of the next depth
    code: Tensor  # int32 [children]  the code on the edge to each child
    branch: int  # largest number of children of any node


def row_keys(codes: Tensor) -> Tensor:
    """Return one integer key per row, int64 [N], for rows int64 [N, L] of non-negative codes.

    Equal rows have equal keys, and keys sort like the rows do in lexicographic order.
    """
    key, capacity = torch.zeros(len(codes), dtype=torch.int64), 1
    for column in codes.T if len(codes) else ():
        size = int(column.max()) + 1
        if capacity * size >= 2**62:  # renumber the prefixes in use, so that the next level fits into int64
            key = torch.unique(key, return_inverse=True)[1]
            capacity = int(key.max()) + 1
        key, capacity = key * size + column, capacity * size
    return key


def rank_in_group(group: Tensor) -> Tensor:
    """Return, for each row, the number of earlier rows in the same group: int64 [N] -> int64 [N]."""
    ordered, order = group.sort(stable=True)
    place = torch.arange(len(group), device=group.device)
    return torch.empty_like(group).scatter_(0, order, place - torch.searchsorted(ordered, ordered))


def lowest_free(prefixes: Tensor, taken: Tensor) -> Tensor:
    """Return a last code for each row of `prefixes` int64 [M, L - 1]: the lowest code that is free for the prefix; int64 [M].

    A code is taken if a row of `taken` int64 [N, L] or an earlier row of `prefixes` has it with the same prefix.

    Let u_0 < u_1 < ... be the taken codes of a prefix. Below u_k there are u_k - k free codes, and u_k - k never decreases with k.
    The j-th free code (counted from 0) is therefore j + #{k: u_k - k <= j}, which takes one binary search per row.
    """
    group = torch.unique(row_keys(torch.cat([taken[:, :-1], prefixes])), return_inverse=True)[1]
    new = group[len(taken) :]
    place = rank_in_group(new)
    width = max(int(taken[:, -1].max()) + 1 if len(taken) else 0, len(prefixes)) + 1
    pairs = torch.unique(group[: len(taken)] * width + taken[:, -1])
    old = pairs // width
    first = torch.searchsorted(old, torch.cat([old, new]))  # index of the first pair of each prefix
    below = pairs % width - (torch.arange(len(pairs)) - first[: len(old)])
    passed = torch.searchsorted(old * width + below, new * width + place, right=True)
    return place + passed - first[len(old) :]


class SemanticIds:
    """The Semantic IDs of items 1..N.

    - `codes`: int64 [N, L]; row i holds the codes of item i + 1. Several items may share a Semantic ID; `collided` counts them.
    - `level_sizes`: number of codes of each level; by default the largest code of the level plus 1.
    """

    def __init__(self, codes: Tensor, level_sizes: Sequence[int] | None = None) -> None:
        codes = torch.as_tensor(codes, device="cpu")
        if codes.is_floating_point():
            raise InputError(f"Semantic IDs need integer codes, got {codes.dtype}")
        codes = codes.to(torch.int64)
        if codes.ndim != 2 or 0 in codes.shape:
            raise InputError(f"Semantic IDs need codes [items, levels], got shape {tuple(codes.shape)}")
        largest = codes.amax(0).tolist()
        self.level_sizes: tuple[int, ...] = tuple(level_sizes) if level_sizes is not None else tuple(c + 1 for c in largest)
        if len(self.level_sizes) != codes.shape[1]:
            raise InputError(f"need one size per level, got {codes.shape[1]} levels of codes but {len(self.level_sizes)} level sizes")
        for level, (low, high, size) in enumerate(zip(codes.amin(0).tolist(), largest, self.level_sizes, strict=True)):
            if low < 0 or high >= size:
                raise InputError(f"codes of level {level + 1} must lie in 0..{size - 1}, got {low}..{high}")
        self.codes = codes
        self.offsets = torch.tensor([0, *self.level_sizes[:-1]]).cumsum(0)
        self._index()

    def _index(self) -> None:
        """Sort the items by Semantic ID."""
        keys, order = row_keys(self.codes).sort(stable=True)
        new = torch.ones(self.items, dtype=torch.bool)  # marks sorted rows that begin a new Semantic ID
        new[1:] = keys[1:] != keys[:-1]
        self._leaf_of_item = torch.empty(self.items, dtype=torch.int32).scatter_(0, order, (new.cumsum(0) - 1).int())
        self._first_of_leaf = torch.cat([new.nonzero().squeeze(1), torch.tensor([self.items])]).int()
        self._items_by_leaf = (order + 1).int()

    @cached_property
    def tables(self) -> list[PrefixTable]:
        """The tables of the trie, one per level; built when first used, since policies without a trie need none."""
        order = self._items_by_leaf.long() - 1
        new = torch.zeros(self.items, dtype=torch.bool)  # marks sorted rows that begin a new prefix
        new[0] = True
        node, tables = torch.zeros(self.items, dtype=torch.int64), []
        for codes in self.codes.T:
            ordered = codes[order]
            new[1:] |= ordered[1:] != ordered[:-1]
            counts = torch.bincount(node[new], minlength=int(node[-1]) + 1)
            start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
            tables.append(PrefixTable(start.int(), ordered[new].int(), int(counts.max())))
            node = new.cumsum(0) - 1
        return tables

    @property
    def items(self) -> int:
        """The number of items, N."""
        return self.codes.shape[0]

    @property
    def levels(self) -> int:
        """The number of levels, L."""
        return self.codes.shape[1]

    @property
    def vocabulary(self) -> int:
        """The number of tokens, including padding."""
        return 1 + sum(self.level_sizes)

    @property
    def distinct(self) -> int:
        """The number of distinct Semantic IDs."""
        return len(self._first_of_leaf) - 1

    @property
    def collided(self) -> int:
        """The number of items that share their Semantic ID with another item."""
        sizes = self._first_of_leaf.diff()
        return int(sizes[sizes > 1].sum())

    @property
    def fingerprint(self) -> str:
        """A hash of codes and level sizes. A policy works only with the Semantic IDs that it was trained on."""
        digest = hashlib.sha256(repr((self.level_sizes, tuple(self.codes.shape))).encode())
        digest.update(self.codes.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def tokens(self, items: Tensor) -> Tensor:
        """Return the tokens of items: int64 [...] -> int64 [..., L]. Item 0 (no item) becomes L padding tokens."""
        self._check_items(items)
        codes, offsets = self.codes.to(items.device), self.offsets.to(items.device)
        return (codes[(items - 1).clamp(min=0)] + offsets + 1) * (items > 0).unsqueeze(-1)

    def leaf(self, items: Tensor) -> Tensor:
        """Return the trie leaf of each item: int64 [...], values 1..N -> int64 [...]."""
        self._check_items(items, least=1)
        return self._leaf_of_item.to(items.device)[items - 1].long()

    def shared(self, items: Tensor) -> Tensor:
        """Return how many items have the same Semantic ID as each item, itself included: int64 [...] -> int64 [...]; 0 for item 0."""
        self._check_items(items)
        sizes = self._first_of_leaf.diff()[self._leaf_of_item].long()
        return torch.cat([torch.zeros(1, dtype=torch.int64), sizes]).to(items.device)[items]

    def items_by_leaf(self) -> tuple[Tensor, Tensor]:
        """Return `start` int32 [distinct + 1] and `items` int32 [N].

        The items of leaf `i`, in ascending order, are `items[start[i]:start[i + 1]]`.
        """
        return self._first_of_leaf, self._items_by_leaf

    def lookup(self, codes: Tensor) -> Tensor:
        """Return the item with the given codes: int64 [..., L] -> int64 [...].

        Items that share a Semantic ID give the lowest item; codes of no item give 0.
        """
        if codes.ndim == 0 or codes.shape[-1] != self.levels:
            raise InputError(f"codes must have {self.levels} levels, got codes of {codes.shape[-1] if codes.ndim else 0}")
        node = torch.zeros(codes.shape[:-1], dtype=torch.int64)
        found = torch.ones(codes.shape[:-1], dtype=torch.bool)
        for level, table in enumerate(self.tables):
            parent = torch.repeat_interleave(torch.arange(len(table.start) - 1), table.start.diff())
            key = table.code + parent * (self.level_sizes[level] + 1)
            requested = codes[..., level].cpu().clamp(-1, self.level_sizes[level])
            requested = requested + node * (self.level_sizes[level] + 1)
            place = torch.searchsorted(key, requested).clamp(max=len(key) - 1)
            found &= (key[place] == requested) & (codes[..., level].cpu() >= 0)
            node = place
        items = self._items_by_leaf[self._first_of_leaf[node]].long()
        return torch.where(found, items, 0).to(codes.device)

    def prefix_depth(self, items: Tensor, others: Tensor) -> Tensor:
        """Return the length of the prefix that two items share: int64 in 0..L, shapes broadcast. It is 0 if either item is 0."""
        self._check_items(items)
        self._check_items(others)
        shape = np.broadcast_shapes(items.shape, others.shape)
        items, others = items.expand(shape), others.expand(shape)
        depth = torch.zeros(items.numel(), dtype=torch.int64, device=items.device)
        left = ((items > 0) & (others > 0)).flatten().nonzero().squeeze(1)  # the pairs that share all codes so far
        first, second = items.flatten()[left] - 1, others.flatten()[left] - 1
        for codes in self.codes.T:
            level = codes.to(items.device)
            same = (level[first] == level[second]).nonzero().squeeze(1)
            left, first, second = left[same], first[same], second[same]
            depth[left] += 1
        return depth.reshape(shape)

    def extend(self, codes: Tensor | ndarray) -> SemanticIds:
        """Return the Semantic IDs of the N existing items and of M new items, numbered N + 1..N + M.

        Existing items keep their codes, tokens and offsets.

        - `codes`: int64 [M, L] is used unchanged; a code outside its level is an error, and new items that share a Semantic ID
          cause a warning. For int64 [M, L - 1], the last code is added: the lowest code that is free for the prefix, in
          item order. Only in this case may the last level grow.
        """
        new = torch.as_tensor(codes, device="cpu")
        if new.ndim != 2 or new.shape[1] not in (self.levels, self.levels - 1) or new.is_floating_point():
            raise InputError(
                f"new items need codes int64 [items, {self.levels}], or [items, {self.levels - 1}] to have the last code added, "
                f"got {str(new.dtype).removeprefix('torch.')} {list(new.shape)}"
            )
        new, sizes = new.to(torch.int64), self.level_sizes
        self._check_new(new)
        if new.shape[1] < self.levels:
            last = lowest_free(new, self.codes)
            new = torch.cat([new, last[:, None]], dim=1)
            sizes = (*sizes[:-1], max(sizes[-1], int(last.max()) + 1 if len(last) else 0))
        extended = SemanticIds(torch.cat([self.codes, new]), sizes)
        sharing = int((extended.shared(torch.arange(self.items + 1, extended.items + 1)) > 1).sum())
        if sharing:
            warnings.warn(
                f"{sharing} of {len(new)} new items share their Semantic ID with another item; pass codes without the last level to "
                "give each item a unique last code",
                stacklevel=2,
            )
        return extended

    def _check_new(self, codes: Tensor) -> None:
        """Raise `InputError` if a new item has a code outside its level."""
        for level, (column, size) in enumerate(zip(codes.T, self.level_sizes, strict=False), start=1):
            wrong = (column < 0) | (column >= size)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise InputError(
                    f"level {level} has codes 0..{size - 1}, but {int(wrong.sum())} of {len(column)} new items lie outside, the first "
                    f"in row {row} with {int(column[row])}: growing a level would shift the tokens of the later levels; "
                    "encode new items with the quantizer that encoded the existing items"
                )

    def extends(self, other: SemanticIds) -> bool:
        """Return whether these Semantic IDs are those of `other`, with at most more items and a larger last level."""
        return (
            self.level_sizes[:-1] == other.level_sizes[:-1]
            and self.level_sizes[-1] >= other.level_sizes[-1]
            and torch.equal(self.codes[: other.items], other.codes)
        )

    def _check_items(self, items: Tensor, least: int = 0) -> None:
        """Raise `InputError` if an item lies outside `least`..N."""
        if items.numel() and (int(items.min()) < least or int(items.max()) > self.items):
            raise InputError(f"items must lie in {least}..{self.items}, got {int(items.min())}..{int(items.max())}")

    def save(self, path: Path) -> None:
        """Write codes and level sizes to a safetensors file."""
        save_file({"codes": self.codes.contiguous(), "level_sizes": torch.tensor(self.level_sizes)}, path)

    @classmethod
    def load(cls, path: Path) -> SemanticIds:
        """Load Semantic IDs that were written by `save`. Raise `ArtifactError` for a missing, damaged or foreign file."""
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} can't be read as Semantic IDs ({error}); rebuild them (--refresh tokenize)") from error
        kinds = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
        if kinds != {"codes": (torch.int64, 2), "level_sizes": (torch.int64, 1)}:
            found = ", ".join(f"{name}: {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items())
            raise ArtifactError(f"{path} holds no Semantic IDs: expected codes int64 [N, L] and level_sizes int64 [L], got {found}")
        try:
            return cls(tensors["codes"], tensors["level_sizes"].tolist())
        except InputError as error:
            raise ArtifactError(f"{path} is damaged: {error}; rebuild it (--refresh tokenize)") from error
