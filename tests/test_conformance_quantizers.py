"""`check_quantizer` accepts the package's quantizers and one from outside, and names the fault of each broken quantizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from stable_ids import stable_id
from torch import Generator

from genrec.embeddings import Collaborative
from genrec.errors import ArtifactError, InputError, UsageError
from genrec.testing.quantizer_checks import check_quantizer, example_vectors
from genrec.testing.specification_checks import ContractError
from genrec.tokenizer import LETTER, RQVAE, Imported, ProductQuantizer, RandomCodes, RQKMeans
from genrec.types import Quantizer


@dataclass(frozen=True)
class Signs:
    """A quantizer as a user would write it: each level is the side of a random plane through the mean on which a vector lies."""

    levels: int = 4

    def level_sizes(self) -> tuple[int, ...]:
        return (2,) * self.levels

    def fit(self, vectors: ndarray, generator: Generator) -> FittedSigns:
        if not np.isfinite(vectors).all():
            raise InputError("non-finite")
        planes = torch.randn(vectors.shape[1], self.levels, generator=generator).numpy()
        return FittedSigns({"planes": planes, "mean": vectors.mean(0)})

    def restore(self, state: dict[str, ndarray]) -> FittedSigns:
        return FittedSigns(state)


@dataclass
class FittedSigns:
    tensors: dict[str, ndarray]

    def encode(self, vectors: ndarray) -> ndarray:
        mean = self.tensors["mean"]
        if vectors.shape[1] != len(mean) or not np.isfinite(vectors).all():
            raise InputError("non-finite, or of another width")
        sides = ((vectors - mean)[:, :, None] * self.tensors["planes"][None]).sum(1)
        return (sides > 0).astype(np.int64)

    def reconstruct(self, codes: ndarray) -> ndarray:
        return (self.tensors["mean"] + 0.1 * (2 * codes - 1) @ self.tensors["planes"].T).astype(np.float32)

    def state(self) -> dict[str, ndarray]:
        return self.tensors


SMALL_RQVAE = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(16,), latent_dim=4, epochs=3, batch_size=64)
OURS: list[Quantizer] = [
    RQKMeans(),
    RQKMeans(num_levels=1, codebook_size=5),
    RQKMeans(codebook_size=16, engine="faiss"),
    RQKMeans(codebook_size=32, balanced=True),
    RQKMeans(codebook_size=1000, shrink=True),
    ProductQuantizer(),
    ProductQuantizer(num_levels=5, codebook_size=7, rotation=False),
    RandomCodes(),
    RandomCodes(num_levels=2, codebook_size=3),
    SMALL_RQVAE,
    LETTER(Collaborative(dim=4), replace(SMALL_RQVAE, codebook_update="gradient")),
    Signs(),
]


@pytest.mark.parametrize("quantizer", OURS, ids=stable_id)
def test_package_quantizers_keep_the_contract(quantizer: Quantizer) -> None:
    if quantizer == RQKMeans(codebook_size=16, engine="faiss"):
        pytest.importorskip("faiss")
    check_quantizer(quantizer)


def test_on_vectors_of_the_caller() -> None:
    check_quantizer(RQKMeans(codebook_size=8), example_vectors((50,), seed=3)[:, :5].copy())


def test_published_codes(tmp_path: Path) -> None:
    vectors = example_vectors((10,))
    names = [f"item {row}" for row in range(len(vectors))]
    path = tmp_path / "published.json"
    path.write_text(json.dumps({name: [row % 7, row // 7] for row, name in enumerate(names)}))
    check_quantizer(Imported(path), vectors, names)
    with pytest.raises(UsageError, match="Imported looks items up by id: pass vectors and item_ids with known codes"):
        check_quantizer(Imported(path))


@dataclass(frozen=True)
class Broken:
    """A valid quantizer in which single methods can be replaced by faulty ones."""

    fitting: Callable[[ndarray, Generator], object] = lambda vectors, generator: None
    encoding: Callable[[FittedSigns, ndarray], ndarray] = FittedSigns.encode
    reconstructing: Callable[[FittedSigns, ndarray], ndarray] = FittedSigns.reconstruct
    stating: Callable[[FittedSigns], object] = FittedSigns.state
    restoring: Callable[[dict[str, ndarray]], dict[str, ndarray]] = lambda state: state
    sizes: object = (2, 2, 2, 2)
    fitted: Callable[[Any], Any] = lambda fitted: fitted

    def level_sizes(self) -> Any:
        return self.sizes

    def fit(self, vectors: ndarray, generator: Generator) -> Any:
        self.fitting(vectors, generator)
        return self.fitted(FittedBroken(Signs().fit(vectors, generator), self))

    def restore(self, state: dict[str, ndarray]) -> Any:
        return FittedBroken(FittedSigns(self.restoring(state)), self)


@dataclass
class FittedBroken:
    valid: FittedSigns
    methods: Broken

    def encode(self, vectors: ndarray) -> ndarray:
        return self.methods.encoding(self.valid, vectors)

    def reconstruct(self, codes: ndarray) -> ndarray:
        return self.methods.reconstructing(self.valid, codes)

    def state(self) -> Any:
        return self.methods.stating(self.valid)


def batch_dependent(fitted: FittedSigns, vectors: ndarray) -> ndarray:
    """Center the vectors on the mean of the batch."""
    FittedSigns.encode(fitted, vectors)
    return FittedSigns({**fitted.tensors, "mean": vectors.mean(0)}).encode(vectors)


def random_codes(fitted: FittedSigns, vectors: ndarray) -> ndarray:
    fitted.encode(vectors)
    return np.random.default_rng().integers(0, 2, (len(vectors), 4))


def unchecked(fitted: FittedSigns, vectors: ndarray) -> ndarray:
    """Encode non-finite vectors too."""
    return FittedSigns.encode(fitted, np.nan_to_num(vectors, posinf=0.0))


def crashing(fitted: FittedSigns, vectors: ndarray) -> ndarray:
    if vectors.shape[1] != len(fitted.tensors["mean"]):
        raise ValueError("shapes do not match")
    return fitted.encode(vectors)


def unseeded_planes(fitted: Any) -> Any:
    source = np.random.default_rng()
    fitted.valid.tensors["planes"] = source.normal(size=fitted.valid.tensors["planes"].shape).astype(np.float32)
    return fitted


def listed(fitted: FittedBroken) -> Any:
    fitted.listed_codes = lambda: np.full((3, 4), 0)  # type: ignore[attr-defined]
    return fitted


def priced(fitted: FittedBroken) -> Any:
    fitted.last_level_costs = lambda vectors, codes: np.full((len(codes), 2), -1, dtype=np.float32)  # type: ignore[attr-defined]
    return fitted


VALID = Broken()
BROKEN: dict[str, tuple[Broken, str]] = {
    "sizes": (replace(VALID, sizes=[2, 2, 2, 2]), r"level_sizes must return a tuple of integers.*got \[2, 2, 2, 2\]"),
    "levels": (replace(VALID, sizes=(2, 2, 2)), r"encode must return a NumPy array int64 \[\d+, 3\], .*got int64 \[\d+, 4\]"),
    "type": (replace(VALID, encoding=lambda f, v: f.encode(v).astype(np.int32)), r"must return a NumPy array int64 .*got int32"),
    "tensor": (replace(VALID, encoding=lambda f, v: torch.tensor(f.encode(v))), r"must return a NumPy array int64 .*got Tensor"),
    "from one": (replace(VALID, encoding=lambda f, v: f.encode(v) + 1), r"gives row \d+ the code 2 on level \d, .* allows 0\.\.1"),
    "batch": (replace(VALID, encoding=batch_dependent), "an item's codes depend on the other items of the batch"),
    "random codes": (replace(VALID, encoding=random_codes), "encoding the same vectors twice gives different codes"),
    "unseeded": (replace(VALID, fitted=unseeded_planes), "two fits with equal generators give different codes"),
    "global randomness": (replace(VALID, fitting=lambda *_: torch.rand(1)), "torch's global generator was drawn from or seeded"),
    "reconstruction": (replace(VALID, reconstructing=lambda f, c: f.reconstruct(c)[:, 1:]), r"return a NumPy array float32 \[\d+, 1"),
    "not finite": (replace(VALID, reconstructing=lambda f, c: f.reconstruct(c) / 0), r"returns \d+ non-finite vectors"),
    "object state": (replace(VALID, stating=lambda f: {"self": np.array([f])}), r"state\['self'\] must be a NumPy array of numbers"),
    "tensor state": (replace(VALID, stating=lambda f: {"a": torch.ones(1)}), r"state\['a'\] must be .*got Tensor"),
    "empty state": (replace(VALID, stating=lambda _: {}), r"state must return a dict of NumPy arrays.*got \{\}"),
    "lossy state": (replace(VALID, restoring=lambda s: {**s, "mean": s["mean"] + 1}), r"restore\(state\(\)\) gives different codes"),
    "modifies": (replace(VALID, fitting=lambda v, _: v.__isub__(1)), "the input vectors were modified"),
    "unchecked": (replace(VALID, encoding=unchecked), r"encode of a vector with nan must raise .*it raised nothing"),
    "crash": (replace(VALID, encoding=crashing), r"encode of vectors of width 17 .* must raise .*it raised ValueError"),
    "no quantizer": (replace(VALID, fitted=lambda _: 3), "fit must return an object with encode, reconstruct and state; got int"),
    "fit crashes": (replace(VALID, fitting=lambda *_: [][0]), r"fit raised IndexError"),
    "listed": (replace(VALID, fitted=listed), r"listed_codes must return a NumPy array int64 \[\d+, 4\]"),
    "priced": (replace(VALID, fitted=priced), r"last_level_costs must be squared errors, finite and at least 0"),
}  # fmt: skip


def test_a_valid_quantizer_passes() -> None:
    check_quantizer(VALID)


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_the_error_names_the_broken_rule(name: str) -> None:
    broken, message = BROKEN[name]
    with pytest.raises(ContractError, match=rf"^Broken: .*{message}"):
        check_quantizer(broken)


@dataclass
class NotFrozen(Signs.__mro__[-1]):  # type: ignore[misc]
    level_sizes = Signs.level_sizes
    fit = Signs.fit
    restore = Signs.restore


def test_a_specification_is_a_frozen_dataclass() -> None:
    with pytest.raises(ContractError, match="NotFrozen is not a frozen dataclass"):
        check_quantizer(NotFrozen())
    with pytest.raises(ContractError, match=r"Signs does not implement Quantizer: pass an instance, such as Signs\(\)"):
        check_quantizer(Signs)  # type: ignore[arg-type]


def test_errors_of_the_package_are_passed_on() -> None:
    def fail(*_: object) -> None:
        raise ArtifactError("made by a newer version")

    with pytest.raises(ArtifactError, match="made by a newer version"):
        check_quantizer(replace(VALID, fitting=fail))
