"""The packed pass over windows and the cached decoding of TIGER, compared with the padded pass and with `TigerDecoding`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from genrec.model import Tiger, TigerPolicy, cached_decoding, packed_windows, tiger_policy
from genrec.model.tiger_decoding import TigerDecoding
from genrec.semantic_ids import SemanticIds

ITEMS = 40
CAUSAL = Tiger(
    d_model=16, d_ff=32, num_heads=2, d_kv=8, num_encoder_layers=2, num_decoder_layers=2, dropout=0.3, encoder="causal", num_beams=8
)


def policy_of(specification: Tiger) -> TigerPolicy:
    """Return a policy with random weights, those of item ages included."""
    torch.manual_seed(0)
    codes = torch.stack([torch.arange(ITEMS) % 5, torch.arange(ITEMS) // 5 % 4, torch.arange(ITEMS) // 20], 1)
    policy = specification.build(SemanticIds(codes, (5, 4, 2)))
    assert policy.recency is not None
    torch.nn.init.normal_(policy.recency.weight)
    return policy


def windows(batch: int = 70, length: int = 6) -> tuple[Tensor, Tensor]:
    """Return left-padded windows, some with a 0 between items, and targets of some of their places: more than a group of windows."""
    source = torch.Generator().manual_seed(1)
    items = torch.randint(1, ITEMS + 1, (batch, length), generator=source)
    first = torch.randint(0, length, (batch, 1), generator=source)
    history = items.masked_fill(torch.arange(length) < first, 0)
    history[0] = torch.tensor([1, 2, 0, 3, 0, 4])
    targets = torch.randint(0, ITEMS + 1, (batch, length), generator=source).masked_fill(torch.arange(length) < first, 0)
    targets[1] = 0
    return history, targets


def loss_and_gradients(policy: TigerPolicy, history: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Return the log-probabilities, the gradients of their sum, and the state of the random numbers afterwards."""
    torch.manual_seed(5)
    levels = policy.sequence_log_prob(history, targets)
    state = torch.get_rng_state()
    total = torch.where((targets > 0).unsqueeze(-1), levels, 0.0).sum()
    parameters = [each for each in policy.parameters() if each.requires_grad]
    return levels, list(torch.autograd.grad(total, parameters, allow_unused=True)), state


@pytest.mark.parametrize("history_input", ["codes", "items"])
@pytest.mark.parametrize("training", [False, True])
def test_packed_windows_equal_padded_windows(history_input: str, training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same seed, values, gradients, dropout masks and later random numbers are those of the padded pass."""
    policy = policy_of(replace(CAUSAL, history=history_input)).train(training)
    history, targets = windows()
    assert packed_windows.packs(history, targets)
    found = loss_and_gradients(policy, history, targets)
    monkeypatch.setattr(tiger_policy, "packs", lambda history, targets: False)
    expected = loss_and_gradients(policy, history, targets)
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-4)
    assert torch.equal(found[2], expected[2])


def test_only_batches_with_places_to_skip_are_packed() -> None:
    """A full batch has nothing to skip; a target without a history needs the padded pass, which attends to padding."""
    full = torch.tensor([[1, 2], [3, 4]])
    assert not packed_windows.packs(full, full)
    assert not packed_windows.packs(full, torch.zeros_like(full))
    assert packed_windows.packs(full, torch.tensor([[0, 1], [2, 3]]))
    assert not packed_windows.packs(torch.tensor([[0, 2], [3, 4]]), torch.tensor([[1, 2], [0, 3]]))
    assert packed_windows.packs(torch.tensor([[0, 2], [3, 4]]), torch.tensor([[0, 2], [0, 3]]))


@pytest.mark.parametrize("encoder", ["bidirectional", "causal"])
@pytest.mark.parametrize("folds", [False, True])
def test_cached_decoding_equals_decoding(encoder: str, folds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beams are repeated and reordered; 7 rows of 3 beams exceed the 5 and the 4 codes of a level, and 1 beam does not."""
    monkeypatch.setattr(cached_decoding, "folds", lambda policy, length: folds)
    policy = policy_of(replace(CAUSAL, encoder=encoder)).eval()
    history = windows(7)[0]
    history[2] = 0
    encoded = policy.encode(history)
    found = policy.decoding(history)
    assert isinstance(found, cached_decoding.CachedDecoding)
    keys_values = [layer.history_attention.keys_values(encoded.states) for layer in policy.decoder]
    expected = TigerDecoding(policy, keys_values, encoded.empty, encoded.age)
    (log_prob, state), (reference, reference_state) = found.start(), expected.start()
    torch.testing.assert_close(log_prob, reference, atol=1e-5, rtol=1e-5)
    source = torch.Generator().manual_seed(2)
    before = 1
    for level, beams, codes in ((0, 3, 5), (1, 4, 4)):
        beam = torch.randint(0, before, (7, beams), generator=source)
        code = torch.randint(0, codes, (7, beams), generator=source)
        alone = found.advance(level, state, beam[:, :1], code[:, :1])[0]
        log_prob, state = found.advance(level, state, beam, code)
        reference, reference_state = expected.advance(level, reference_state, beam, code)
        torch.testing.assert_close(log_prob, reference, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone, reference[:, :1], atol=1e-5, rtol=1e-5)
        before = beams


def test_folding_is_chosen_by_its_arithmetic() -> None:
    """Width 16, heads of 8: folded 16 S <= 8 (16 + S) operations up to S = 16."""
    policy = policy_of(CAUSAL)
    assert cached_decoding.folds(policy, 16)
    assert not cached_decoding.folds(policy, 17)


def test_training_mode_decodes_with_dropout() -> None:
    policy = policy_of(CAUSAL).train()
    assert isinstance(policy.decoding(windows(2)[0]), TigerDecoding)
