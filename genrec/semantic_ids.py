"""Semantic IDs: the only owner of codes, offsets, the inverse map and the prefix tables.

In: the tokenizer's codes, int64 [N, L]. Out: tokens for the policy, items for whoever asks, and a trie of all real Semantic IDs
as flat tables (compressed sparse rows, one a level), so that constrained decoding is tensor arithmetic without Python per beam.

Tokens: 0 is padding and the decoder's start; level `l`'s code `c` is `1 + offset[l] + c`. A larger level therefore moves the
tokens of the levels after it: only the last one can grow without a change to what a trained policy knows.

Trie: the nodes of depth `d` are the distinct prefixes of length `d`, numbered in lexicographic order (depth 0 is the root, node
0). The children of a node are therefore consecutive nodes of the next depth, and a leaf's number is its Semantic ID's place in
that order.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from numpy import ndarray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.errors import ArtifactError, InputError


class PrefixTable(NamedTuple):
    """The children of the trie's nodes of one depth; int32, because these are the large tables of a large catalog."""

    start: Tensor  # int32 [nodes + 1]  children of node i are nodes start[i] .. start[i+1]-1 of the next depth
    code: Tensor  # int32 [children]  the code that leads to each child
    branch: int  # the largest number of children of a node


def row_keys(codes: Tensor) -> Tensor:
    """One number a row of int64 [N, L], codes of at least 0: equal for equal rows, in the rows' lexicographic order; int64 [N]."""
    key, capacity = torch.zeros(len(codes), dtype=torch.int64), 1
    for column in codes.T if len(codes) else ():
        size = int(column.max()) + 1
        if capacity * size >= 2**62:  # number the prefixes that there are, so that the next level fits
            key = torch.unique(key, return_inverse=True)[1]
            capacity = int(key.max()) + 1
        key, capacity = key * size + column, capacity * size
    return key


def rank_in_group(group: Tensor) -> Tensor:
    """How many rows before it are in the same group: int64 [N] -> int64 [N]."""
    ordered, order = group.sort(stable=True)
    return torch.empty_like(group).scatter_(0, order, torch.arange(len(group)) - torch.searchsorted(ordered, ordered))


def lowest_free(prefixes: Tensor, taken: Tensor) -> Tensor:
    """The last code of each row of `prefixes` int64 [M, L - 1], in order: the lowest that no row of `taken` int64 [N, L] and no
    row before has with the same prefix; int64 [M].

    With a prefix's taken codes u_0 < u_1 < ..., u_k - k free codes lie below u_k, which never falls with k. The j-th free code
    (from 0) is therefore j + #{k: u_k - k <= j}: one binary search a row.
    """
    group = torch.unique(row_keys(torch.cat([taken[:, :-1], prefixes])), return_inverse=True)[1]
    new = group[len(taken) :]
    place = rank_in_group(new)
    width = max(int(taken[:, -1].max()) + 1 if len(taken) else 0, len(prefixes)) + 1
    pairs = torch.unique(group[: len(taken)] * width + taken[:, -1])
    old = pairs // width
    first = torch.searchsorted(old, torch.cat([old, new]))  # where the pairs of each prefix begin
    below = pairs % width - (torch.arange(len(pairs)) - first[: len(old)])
    passed = torch.searchsorted(old * width + below, new * width + place, right=True)
    return place + passed - first[len(old) :]


class SemanticIds:
    """The Semantic IDs of items 1..N: codes int64 [N, L], row i for item i+1. Two items may share one: `collided` counts them."""

    def __init__(self, codes: Tensor, level_sizes: Sequence[int] | None = None) -> None:
        codes = torch.as_tensor(codes, device="cpu")
        if codes.is_floating_point():
            raise InputError(f"Semantic IDs need codes that are integers, got {codes.dtype}")
        codes = codes.to(torch.int64)
        if codes.ndim != 2 or 0 in codes.shape:
            raise InputError(f"Semantic IDs need codes [items, levels], got shape {tuple(codes.shape)}")
        largest = codes.amax(0).tolist()
        self.level_sizes: tuple[int, ...] = tuple(level_sizes) if level_sizes is not None else tuple(c + 1 for c in largest)
        if len(self.level_sizes) != codes.shape[1]:
            raise InputError(f"got {codes.shape[1]} levels of codes but {len(self.level_sizes)} level sizes")
        for level, (low, high, size) in enumerate(zip(codes.amin(0).tolist(), largest, self.level_sizes, strict=True)):
            if low < 0 or high >= size:
                raise InputError(f"codes of level {level + 1} must lie in 0..{size - 1}, got {low}..{high}")
        self.codes = codes
        self.offsets = torch.tensor([0, *self.level_sizes[:-1]]).cumsum(0)
        self._index()

    def _index(self) -> None:
        """Sort the items by Semantic ID, then read the trie's nodes off the sorted codes."""
        items, levels = self.codes.shape
        order = row_keys(self.codes).argsort(stable=True)
        ordered = self.codes[order]
        new = torch.ones(items, dtype=torch.bool)  # whether a sorted row begins a new prefix; the empty prefix begins once
        new[1:] = False
        node = torch.zeros(items, dtype=torch.int64)
        self.tables: list[PrefixTable] = []
        for level in range(levels):
            changed = torch.zeros(items, dtype=torch.bool)
            changed[1:] = ordered[1:, level] != ordered[:-1, level]
            new = new | changed
            parents = node[new]
            counts = torch.bincount(parents, minlength=int(node[-1]) + 1)
            start = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
            self.tables.append(PrefixTable(start.int(), ordered[new, level].int(), int(counts.max())))
            node = new.cumsum(0) - 1
        self._leaf_of_item = torch.empty(items, dtype=torch.int32).scatter_(0, order, node.int())
        self._first_of_leaf = torch.cat([new.nonzero().squeeze(1), torch.tensor([items])]).int()
        self._items_by_leaf = (order + 1).int()

    @property
    def items(self) -> int:
        """N."""
        return self.codes.shape[0]

    @property
    def levels(self) -> int:
        """L."""
        return self.codes.shape[1]

    @property
    def vocabulary(self) -> int:
        """The number of tokens, padding included."""
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
        """A hash of codes and level sizes: a policy fits only the Semantic IDs it was trained on."""
        digest = hashlib.sha256(repr((self.level_sizes, tuple(self.codes.shape))).encode())
        digest.update(self.codes.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def tokens(self, items: Tensor) -> Tensor:
        """Items int64 [...] (0 = none) -> tokens int64 [..., L]; none becomes L paddings."""
        self._check_items(items)
        codes, offsets = self.codes.to(items.device), self.offsets.to(items.device)
        return (codes[(items - 1).clamp(min=0)] + offsets + 1) * (items > 0).unsqueeze(-1)

    def leaf(self, items: Tensor) -> Tensor:
        """Items int64 [...], each 1..N -> their leaf in the trie, int64 [...]."""
        self._check_items(items, least=1)
        return self._leaf_of_item.to(items.device)[items - 1].long()

    def shared(self, items: Tensor) -> Tensor:
        """Items int64 [...] (0 = none) -> how many items carry the Semantic ID of each, int64 [...]; 0 for none."""
        self._check_items(items)
        sizes = self._first_of_leaf.diff()[self._leaf_of_item].long()
        return torch.cat([torch.zeros(1, dtype=torch.int64), sizes]).to(items.device)[items]

    def items_by_leaf(self) -> tuple[Tensor, Tensor]:
        """The items of leaf `i` are `items[start[i]:start[i+1]]`, ascending: start int32 [distinct + 1], items int32 [N]."""
        return self._first_of_leaf, self._items_by_leaf

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes int64 [..., L] -> the item (the lowest id where several share it), int64 [...]; 0 where there is none."""
        if codes.ndim == 0 or codes.shape[-1] != self.levels:
            raise InputError(f"Semantic IDs of {self.levels} levels, got codes of {codes.shape[-1] if codes.ndim else 0}")
        node = torch.zeros(codes.shape[:-1], dtype=torch.int64)
        found = torch.ones(codes.shape[:-1], dtype=torch.bool)
        for level, table in enumerate(self.tables):
            parent = torch.repeat_interleave(torch.arange(len(table.start) - 1), table.start.diff())
            key = table.code + parent * (self.level_sizes[level] + 1)
            wanted = codes[..., level].cpu().clamp(-1, self.level_sizes[level])
            wanted = wanted + node * (self.level_sizes[level] + 1)
            place = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
            found &= (key[place] == wanted) & (codes[..., level].cpu() >= 0)
            node = place
        items = self._items_by_leaf[self._first_of_leaf[node]].long()
        return torch.where(found, items, 0).to(codes.device)

    def prefix_depth(self, items: Tensor, others: Tensor) -> Tensor:
        """How many first codes two items share: int64, shapes broadcast, 0..L; 0 where either is none."""
        self._check_items(items)
        self._check_items(others)
        codes = torch.cat([torch.full((1, self.levels), -1), self.codes]).to(items.device)
        same = (codes[items] == codes[others]).cumprod(-1).sum(-1)
        return same * (items > 0) * (others > 0)

    def extend(self, codes: Tensor | ndarray) -> SemanticIds:
        """The Semantic IDs of items 1..N and of M new ones after them; the old ones keep codes, tokens and offsets.

        `codes` int64 [M, L] are taken as they are: none may lie outside its level, and items that share are warned of.
        Of int64 [M, L - 1], the last code is added: the lowest that is free with these first ones, in item order. The last
        level grows where that is needed; it is the only one that can, and only here, where what it counts is ours to say.
        """
        new = torch.as_tensor(codes, device="cpu")
        if new.ndim != 2 or new.shape[1] not in (self.levels, self.levels - 1) or new.is_floating_point():
            raise InputError(
                f"new items need codes int64 [items, {self.levels}], or [items, {self.levels - 1}] to have the last one added, "
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
                f"{sharing} of {len(new)} new items share their Semantic ID with another item; given without their last code, they "
                "get one of their own",
                stacklevel=2,
            )
        return extended

    def _check_new(self, codes: Tensor) -> None:
        for level, (column, size) in enumerate(zip(codes.T, self.level_sizes, strict=False), start=1):
            wrong = (column < 0) | (column >= size)
            if wrong.any():
                row = int(wrong.nonzero()[0])
                raise InputError(
                    f"level {level} has codes 0..{size - 1}, but {int(wrong.sum())} of {len(column)} new items lie outside, the first "
                    f"in row {row} with {int(column[row])}: a level can't grow without moving the tokens of those after it; "
                    "encode new items with the quantizer of the old ones"
                )

    def extends(self, other: SemanticIds) -> bool:
        """Whether `other`'s items are here with the same codes and tokens: more items and a larger last level are all that is new."""
        return (
            self.level_sizes[:-1] == other.level_sizes[:-1]
            and self.level_sizes[-1] >= other.level_sizes[-1]
            and torch.equal(self.codes[: other.items], other.codes)
        )

    def _check_items(self, items: Tensor, least: int = 0) -> None:
        if items.numel() and (int(items.min()) < least or int(items.max()) > self.items):
            raise InputError(f"items must lie in {least}..{self.items}, got {int(items.min())}..{int(items.max())}")

    def save(self, path: Path) -> None:
        """Write codes and level sizes as safetensors."""
        save_file({"codes": self.codes.contiguous(), "level_sizes": torch.tensor(self.level_sizes)}, path)

    @classmethod
    def load(cls, path: Path) -> SemanticIds:
        """Read what `save` wrote."""
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} can't be read as Semantic IDs ({error}); run its stage again") from error
        kinds = {name: (tensor.dtype, tensor.ndim) for name, tensor in tensors.items()}
        if kinds != {"codes": (torch.int64, 2), "level_sizes": (torch.int64, 1)}:
            found = ", ".join(f"{name}: {str(t.dtype).removeprefix('torch.')} {list(t.shape)}" for name, t in tensors.items())
            raise ArtifactError(f"{path} holds no Semantic IDs: expected codes int64 [N, L] and level_sizes int64 [L], got {found}")
        try:
            return cls(tensors["codes"], tensors["level_sizes"].tolist())
        except InputError as error:
            raise ArtifactError(f"{path} is damaged: {error}; run its stage again") from error
