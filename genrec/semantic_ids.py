"""Semantic IDs: the only owner of codes, offsets, the inverse map and the prefix tables.

In: the tokenizer's codes, int64 [N, L]. Out: tokens for the policy, items for whoever asks, and a trie of all real Semantic IDs
as flat tables (compressed sparse rows, one a level), so that constrained decoding is tensor arithmetic without Python per beam.

Tokens: 0 is padding and the decoder's start; level `l`'s code `c` is `1 + offset[l] + c`.

Trie: the nodes of depth `d` are the distinct prefixes of length `d`, numbered in lexicographic order (depth 0 is the root, node
0). The children of a node are therefore consecutive nodes of the next depth, and a leaf's number is its Semantic ID's place in
that order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from genrec.errors import InputError


class PrefixTable(NamedTuple):
    """The children of the trie's nodes of one depth."""

    start: Tensor  # int64 [nodes + 1]  children of node i are nodes start[i] .. start[i+1]-1 of the next depth
    code: Tensor  # int64 [children]  the code that leads to each child
    leaf: Tensor  # int64 [children + 1]  the leaves below child c are leaf[c] .. leaf[c+1]-1
    branch: int  # the largest number of children of a node


class SemanticIds:
    """The Semantic IDs of items 1..N: codes int64 [N, L], row i for item i+1. Two items may share one: `collided` counts them."""

    def __init__(self, codes: Tensor, level_sizes: Sequence[int] | None = None) -> None:
        codes = torch.as_tensor(codes, dtype=torch.int64, device="cpu")
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
        order = torch.arange(items)
        for level in reversed(range(levels)):
            order = order[self.codes[order, level].argsort(stable=True)]
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
            rows = torch.cat([new.nonzero().squeeze(1), torch.tensor([items])])  # where each child's items begin
            self.tables.append(PrefixTable(start, ordered[new, level], rows, int(counts.max())))
            node = new.cumsum(0) - 1
        self._leaf_of_item = torch.empty(items, dtype=torch.int64).scatter_(0, order, node)
        self._first_of_leaf = self.tables[-1].leaf
        leaf_of_row = torch.cat([node, node[-1:] + 1])
        self.tables = [table._replace(leaf=leaf_of_row[table.leaf]) for table in self.tables]
        self._items_by_leaf = order + 1

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
        table = torch.cat([torch.zeros(1, self.levels, dtype=torch.int64), self.codes + self.offsets + 1])
        return table.to(items.device)[items]

    def leaf(self, items: Tensor) -> Tensor:
        """Items int64 [...], each 1..N -> their leaf in the trie, int64 [...]."""
        self._check_items(items, least=1)
        return self._leaf_of_item.to(items.device)[items - 1]

    def items_of_leaf(self) -> Tensor:
        """The item of every leaf, int64 [distinct]; refuses Semantic IDs that two items share."""
        if self.collided:
            raise InputError(
                f"{self.collided} of {self.items} items share a Semantic ID; give them a last level that tells them apart "
                "(Tokenize(separate=True)) before generating items"
            )
        return self._items_by_leaf

    def lookup(self, codes: Tensor) -> Tensor:
        """Codes int64 [..., L] -> the item (the lowest id where several share it), int64 [...]; 0 where there is none."""
        if codes.ndim == 0 or codes.shape[-1] != self.levels:
            raise InputError(f"Semantic IDs of {self.levels} levels, got codes of {codes.shape[-1] if codes.ndim else 0}")
        node = torch.zeros(codes.shape[:-1], dtype=torch.int64)
        found = torch.ones(codes.shape[:-1], dtype=torch.bool)
        for level, table in enumerate(self.tables):
            key = table.code + torch.repeat_interleave(torch.arange(len(table.start) - 1), table.start.diff()) * (
                self.level_sizes[level] + 1
            )
            wanted = codes[..., level].cpu().clamp(-1, self.level_sizes[level])
            wanted = wanted + node * (self.level_sizes[level] + 1)
            place = torch.searchsorted(key, wanted).clamp(max=len(key) - 1)
            found &= (key[place] == wanted) & (codes[..., level].cpu() >= 0)
            node = place
        items = self._items_by_leaf[self._first_of_leaf[node]]
        return torch.where(found, items, 0).to(codes.device)

    def prefix_depth(self, items: Tensor, others: Tensor) -> Tensor:
        """How many first codes two items share: int64, shapes broadcast, 0..L; 0 where either is none."""
        self._check_items(items)
        self._check_items(others)
        codes = torch.cat([torch.full((1, self.levels), -1), self.codes]).to(items.device)
        same = (codes[items] == codes[others]).cumprod(-1).sum(-1)
        return same * (items > 0) * (others > 0)

    def _check_items(self, items: Tensor, least: int = 0) -> None:
        if items.numel() and (int(items.min()) < least or int(items.max()) > self.items):
            raise InputError(f"items must lie in {least}..{self.items}, got {int(items.min())}..{int(items.max())}")

    def save(self, path: Path) -> None:
        """Write codes and level sizes as safetensors."""
        save_file({"codes": self.codes.contiguous(), "level_sizes": torch.tensor(self.level_sizes)}, path)

    @classmethod
    def load(cls, path: Path) -> SemanticIds:
        """Read what `save` wrote."""
        tensors = load_file(path)
        return cls(tensors["codes"], tensors["level_sizes"].tolist())
