"""RQ-VAE: loss and gradients by hand, learnability, dead codes, determinism, restoring and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from stable_ids import stable_id

from genrec.errors import ArtifactError, InputError, NumericsError, UsageError
from genrec.tokenizer import RQVAE
from genrec.tokenizer.autoencoder import ResidualAutoencoder, initialize, rotation
from genrec.tokenizer.autoencoder_training import MovingAverages, restart_dead_codes
from genrec.tokenizer.rqvae import FittedRQVAE
from genrec.types import FittedQuantizer, PricedCodes, Quantizer

SMALL = RQVAE(num_levels=2, codebook_size=8, hidden_dims=(16,), latent_dim=4, epochs=60, batch_size=64, learning_rate=3e-3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grouped(groups: int = 8, each: int = 25, width: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors in well separated groups (corners of a cube in ten dimensions, shuffled), and the group of each."""
    generator = np.random.default_rng(0)
    group = generator.permutation(np.repeat(np.arange(groups), each))
    centers = generator.choice([-3.0, 3.0], (groups, width))
    return (centers[group] + 0.1 * generator.standard_normal((len(group), width))).astype(np.float32), group


def relative_error(vectors: np.ndarray, reconstructed: np.ndarray) -> float:
    return float(((vectors - reconstructed) ** 2).sum() / ((vectors - vectors.mean(0)) ** 2).sum())


def identity(codebooks: list[list[list[float]]]) -> ResidualAutoencoder:
    """Return an autoencoder of two dimensions with identity encoder and decoder."""
    model = ResidualAutoencoder(2, (), 2, len(codebooks), len(codebooks[0]))
    state = {"mean": torch.zeros(2), "scale": torch.ones(2), "codebooks": torch.tensor(codebooks)}
    for part in ("encoder", "decoder"):
        state |= {f"{part}.0.weight": torch.eye(2), f"{part}.0.bias": torch.zeros(2)}
    model.load_state_dict(state)
    return model


def test_satisfies_the_protocols() -> None:
    assert isinstance(SMALL, Quantizer)
    assert isinstance(FittedRQVAE(identity([[[0.0, 0]]])), FittedQuantizer)
    assert SMALL.level_sizes() == (8, 8)


def test_loss_by_hand() -> None:
    """z = (7, 1) takes e_1 = (8, 0); the residual (-1, 1) takes e_2 = (-1, 2); x' = (7, 2).

    |x - x'|^2 = 1; |r_1 - e_1|^2 = 2 and |r_2 - e_2|^2 = 1, once for the codebooks and 0.25 times for the commitment:
    1 + 3 + 0.75 = 4.75.
    """
    loss, codes, residuals, reconstruction, *_ = identity([[[0.0, 0], [8, 0]], [[-1, 2], [1, -2]]]).losses(
        torch.tensor([[7.0, 1]]), commitment_weight=0.25
    )
    assert codes.tolist() == [[1, 0]]
    assert residuals.tolist() == [[[7, 1]], [[-1, 1]]]
    assert loss.item() == 4.75
    assert reconstruction.item() == 1


def test_gradients_by_hand() -> None:
    """Codebooks: 2 (e_l - r_l), that is 2 (1, -1) and 2 (0, 1); no gradient from the decoder or for unused codes.

    Latents: straight-through 2 (x' - x) = (0, 2), and commitment 0.25 * 2 * ((-1, 1) + (0, -1)) = (-0.5, 0).
    """
    model = identity([[[0.0, 0], [8, 0]], [[-1, 2], [1, -2]]])
    model.losses(torch.tensor([[7.0, 1]]), commitment_weight=0.25).loss.backward()
    assert model.codebooks.grad is not None
    assert model.codebooks.grad.tolist() == [[[0, 0], [2, -2]], [[0, 2], [0, 0]]]
    assert model.encoder[0].bias.grad.tolist() == [-0.5, 2]
    assert model.decoder[0].bias.grad.tolist() == [0, 2]


def test_last_level_costs_by_hand() -> None:
    """z = (7, 1) with first code (8, 0) has the residual (-1, 1): 0 + 1 to (-1, 2), 4 + 9 to (1, -2)."""
    fitted = FittedRQVAE(identity([[[0.0, 0], [8, 0]], [[-1, 2], [1, -2]]]))
    assert fitted.last_level_costs(np.array([[7, 1]], dtype=np.float32), np.array([[1, 0]])).tolist() == [[1, 13]]
    assert isinstance(fitted, PricedCodes)


def test_rotation_by_hand() -> None:
    """z = (2, 0), e = (0, 3): a rotation by 90 degrees and a factor of 1.5; the gradient (1, 0) is rotated back: (0, -1.5)."""
    latents = torch.tensor([[2.0, 0]], requires_grad=True)
    passed = rotation(latents, torch.tensor([[0.0, 3]]))
    torch.testing.assert_close(passed.detach(), torch.tensor([[0.0, 3]]))
    passed[0, 0].backward()
    torch.testing.assert_close(latents.grad, torch.tensor([[0.0, -1.5]]))


def test_rotation_without_a_plane_is_straight_through() -> None:
    """Opposite and zero vectors: the value is correct, the gradient is unchanged."""
    latents = torch.tensor([[1.0, 0], [0, 0], [1, 2]], requires_grad=True)
    quantized = torch.tensor([[-2.0, 0], [1, 1], [0, 0]])
    passed = rotation(latents, quantized)
    torch.testing.assert_close(passed.detach(), quantized)
    passed.sum().backward()
    assert latents.grad is not None
    assert latents.grad.tolist() == [[1, 1], [1, 1], [1, 1]]


def test_rotation_against_another_implementation() -> None:
    library = pytest.importorskip("vector_quantize_pytorch.vector_quantize_pytorch", reason="needs vector-quantize-pytorch")
    latents, quantized, weight = torch.randn(3, 40, 6, generator=seeded())
    gradients = []
    for rotate in (rotation, library.rotate_to):
        leaf = latents.clone().requires_grad_()
        passed = rotate(leaf, quantized)
        torch.testing.assert_close(passed.detach(), quantized, atol=1e-5, rtol=1e-5)
        (passed * weight).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)


def test_moving_averages_by_hand() -> None:
    """Decay 0.5, n = 1, m = e at first. Code 0 gets (2, 0), (4, 0): n = (1 + 2) / 2, m = ((1, 1) + (6, 0)) / 2; code 1 is unused."""
    codebooks = torch.tensor([[[1.0, 1], [5, 5]]])
    averages = MovingAverages(codebooks, decay=0.5)
    averages.update(torch.tensor([[0], [0]]), torch.tensor([[[2.0, 0], [4, 0]]]))
    torch.testing.assert_close(codebooks, torch.tensor([[[7 / 3, 1 / 3], [5, 5]]]))
    codebooks[0, 1] = torch.tensor([9.0, 9])
    averages.restart(torch.tensor([[False, True]]))
    averages.update(torch.tensor([[1]]), torch.tensor([[[1.0, 1]]]))
    torch.testing.assert_close(codebooks[0, 1], torch.tensor([5.0, 5]))


def test_moving_averages_against_another_implementation() -> None:
    """One update from the same averages equals that of vector-quantize-pytorch without Laplace smoothing."""
    library = pytest.importorskip("vector_quantize_pytorch", reason="needs vector-quantize-pytorch")
    entries, points = torch.randn(8, 4, generator=seeded()), torch.randn(100, 4, generator=seeded(1))
    peer = library.VectorQuantize(dim=4, codebook_size=8, decay=0.9, eps=0.0, threshold_ema_dead_code=0)
    peer._codebook.embed.data.copy_(entries[None])
    peer._codebook.embed_avg.data.copy_(entries[None])
    peer._codebook.cluster_size.data.fill_(1.0)
    peer.train()
    _, codes, _ = peer(points[None])
    ours = entries.clone()[None]
    MovingAverages(ours, decay=0.9).update(codes.view(-1, 1), points[None])
    torch.testing.assert_close(ours, peer._codebook.embed.data, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient": "rotation"},
        {"codebook_update": "gradient"},
        {"ema_decay": 0.9},
        {"schedule": "cosine", "epochs": 120},
        {"precision": "32-true"},
    ],
    ids=stable_id,
)
def test_every_variant_learns_and_is_restored(changed: dict[str, Any]) -> None:
    vectors, group = grouped()
    specification = replace(SMALL, **changed)
    fitted = specification.fit(vectors, seeded())
    codes = fitted.encode(vectors)
    assert len(set(zip(group, codes[:, 0], strict=True))) == len(set(codes[:, 0])) == 8
    assert relative_error(vectors, fitted.reconstruct(codes)) < 0.1
    np.testing.assert_array_equal(specification.restore(fitted.state()).encode(vectors), codes)


def test_loss_is_the_mean_over_the_batch() -> None:
    model = identity([[[0.0, 0], [8, 0]], [[-1, 2], [1, -2]]])
    both = torch.tensor([[7.0, 1], [-1, 3]])
    one, other = (model.losses(row[None], 0.25).loss.item() for row in both)
    assert model.losses(both, 0.25).loss.item() == pytest.approx((one + other) / 2)


def test_vectors_are_standardized_and_restored() -> None:
    model = identity([[[0.0, 0], [1, 1]]])
    model.mean.copy_(torch.tensor([10.0, 20]))
    model.scale.copy_(torch.tensor([2.0, 4]))
    fitted = FittedRQVAE(model)
    assert fitted.encode(np.array([[12, 24], [10, 20]], dtype=np.float32)).tolist() == [[1], [0]]
    assert fitted.reconstruct(np.array([[1], [0]])).tolist() == [[12, 24], [10, 20]]


def test_separated_groups_get_one_first_code_each() -> None:
    vectors, group = grouped()
    codes = SMALL.fit(vectors, seeded()).encode(vectors)
    assert (codes.shape, codes.dtype) == ((200, 2), np.int64)
    assert len(set(zip(group, codes[:, 0], strict=True))) == len(set(codes[:, 0])) == 8


def test_training_lowers_the_error_below_random_codebooks() -> None:
    vectors, _ = grouped()
    first, last = (replace(SMALL, epochs=epochs).fit(vectors, seeded()) for epochs in (1, 60))
    error = [relative_error(vectors, each.reconstruct(each.encode(vectors))) for each in (first, last)]
    state = last.state()
    state["codebooks"] = torch.randn(state["codebooks"].shape, generator=seeded(7)).numpy() * state["codebooks"].std()
    random = SMALL.restore(state)
    assert error[1] < 0.3 * error[0]
    assert error[1] < 0.3 * relative_error(vectors, random.reconstruct(random.encode(vectors)))
    assert error[1] < 0.1


def test_constant_dimensions_are_valid() -> None:
    vectors, _ = grouped()
    vectors[:, 3] = 5
    fitted = replace(SMALL, epochs=2).fit(vectors, seeded())
    assert np.isfinite(fitted.reconstruct(fitted.encode(vectors))).all()
    assert fitted.state()["scale"][3] == 1


def test_dead_codes_move_to_residuals_and_their_optimizer_state_is_reset() -> None:
    """Both items take code 0 of level 1, so that code 1 restarts at one of them; the used code of level 2 stays."""
    model = identity([[[0.0, 0], [50, 50]], [[1, 1], [60, 60]]])
    points = torch.tensor([[2.0, 0], [0.0, 3]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9)
    loss, codes, *_ = model.losses(points, 0.25)
    loss.backward()
    optimizer.step()
    assert codes.tolist() == [[0, 0], [0, 0]]
    memory = optimizer.state[model.codebooks]["exp_avg"].fill_(1.0)
    restart_dead_codes(model, torch.tensor([[False, True], [False, True]]), points, optimizer, None, seeded())
    assert model.codebooks[0, 1].tolist() in [pytest.approx(point, abs=1e-6) for point in points.tolist()]
    torch.testing.assert_close(model.codebooks[:, 0].detach(), torch.tensor([[0.0, 0], [1, 1]]))
    assert memory[:, :, 0].tolist() == [[1, 0], [1, 0]]


def test_restarts_keep_codes_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    specification = RQVAE(num_levels=1, codebook_size=64, hidden_dims=(16,), latent_dim=4, epochs=40, batch_size=64)
    with_restarts = specification.fit(vectors, seeded()).encode(vectors)
    monkeypatch.setattr("genrec.tokenizer.autoencoder_training.restart_dead_codes", lambda *_: None)
    without = specification.fit(vectors, seeded()).encode(vectors)
    assert len(np.unique(with_restarts)) >= 58
    assert len(np.unique(without)) <= 52


def test_depends_on_the_generator_only() -> None:
    vectors, _ = grouped()
    quick = replace(SMALL, epochs=3)
    before = torch.get_rng_state()
    first = quick.fit(vectors, seeded(1)).state()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    second, other = quick.fit(vectors, seeded(1)).state(), quick.fit(vectors, seeded(2)).state()
    torch.set_rng_state(before)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    assert (first["codebooks"] != other["codebooks"]).any()


def test_initialize_fills_every_layer_like_torch() -> None:
    model = ResidualAutoencoder(400, (300,), 100, 1, 2)
    initialize(model, seeded())
    for layer in (model.encoder[0], model.encoder[2], model.decoder[0], model.decoder[2]):
        bound = layer.in_features**-0.5
        for weights in (layer.weight, layer.bias):
            assert weights.abs().max().item() <= bound
            assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.15)


def test_restored_encodes_the_same_also_new_items() -> None:
    vectors, _ = grouped()
    quick = replace(SMALL, epochs=3)
    fitted = quick.fit(vectors, seeded())
    restored = quick.restore({name: array.copy() for name, array in fitted.state().items()})
    new = np.random.default_rng(5).standard_normal((50, 10)).astype(np.float32)
    np.testing.assert_array_equal(restored.encode(new), fitted.encode(new))
    np.testing.assert_array_equal(restored.reconstruct(restored.encode(new)), fitted.reconstruct(fitted.encode(new)))


def test_fewer_items_than_codes() -> None:
    vectors = grouped()[0][:5]
    with pytest.raises(InputError, match="5 items cannot fill codebooks of 8 codes"):
        SMALL.fit(vectors, seeded())
    shrunk = replace(SMALL, epochs=2, shrink=True)
    fitted = shrunk.fit(vectors, seeded())
    assert fitted.state()["codebooks"].shape == (2, 5, 4)
    np.testing.assert_array_equal(shrunk.restore(fitted.state()).encode(vectors), fitted.encode(vectors))


def test_non_finite_vectors_and_another_width_raise() -> None:
    vectors, _ = grouped()
    fitted = replace(SMALL, epochs=1).fit(vectors, seeded())
    with pytest.raises(InputError, match=r"vectors \[N, 10\], got shape \[200, 9\]"):
        fitted.encode(vectors[:, :9])
    vectors[3, 3] = np.nan
    with pytest.raises(InputError, match="1 of 200 vectors are non-finite, the first in row 3"):
        SMALL.fit(vectors, seeded())


def test_a_non_finite_loss_raises() -> None:
    with pytest.raises(NumericsError, match=r"loss is (nan|inf) in epoch 1 of 60: try a learning_rate below 1e\+30") as error:
        replace(SMALL, learning_rate=1e30).fit(grouped()[0], seeded())
    assert error.value.exit_code == 6


def test_a_state_that_does_not_match_raises() -> None:
    state = replace(SMALL, epochs=1).fit(grouped()[0], seeded()).state()
    with pytest.raises(ArtifactError, match="at most 4 codes"):
        replace(SMALL, codebook_size=4).restore(state)
    with pytest.raises(ArtifactError, match="do not match"):
        replace(SMALL, latent_dim=5).restore(state)
    with pytest.raises(ArtifactError, match=r"has \['mean'\]"):
        SMALL.restore({"mean": state["mean"]})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_levels", 0),
        ("codebook_size", 0),
        ("latent_dim", 0),
        ("epochs", 0),
        ("batch_size", 255),
        ("hidden_dims", (512, 0)),
        ("commitment_weight", -0.1),
        ("commitment_weight", float("nan")),
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("ema_decay", 1.0),
        ("schedule", "linear"),
        ("gradient", "gumbel"),
        ("codebook_update", "kmeans"),
        ("precision", "16"),
    ],
)
def test_fields_out_of_range_raise(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"RQVAE\.{name} must .*, got"):
        RQVAE(**{name: value})  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trained_on_cuda_encodes_on_the_cpu() -> None:
    vectors, group = grouped()
    fitted = SMALL.fit(vectors, seeded())
    assert fitted.model.codebooks.device.type == "cpu"
    assert len(set(zip(group, fitted.encode(vectors)[:, 0], strict=True))) == 8
