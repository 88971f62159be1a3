"""Checks of policies against the contract of `genrec.types.Policy`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from genrec.errors import GenrecError, UsageError
from genrec.semantic_ids import SemanticIds
from genrec.store import describe
from genrec.testing.event_histories import alone, asked_inputs, check_inputs, shake_weights, with_random_inputs
from genrec.testing.history_checks import check_history_states
from genrec.testing.plugin_watch import call_plugin
from genrec.testing.policy_trial import TOLERANCE, Trial, all_candidates, check_same, check_tensor, levels, num_levels
from genrec.testing.ranking_checks import check_rankings
from genrec.testing.sampling_checks import check_sampling
from genrec.testing.sequence_loss_checks import check_sequence_loss
from genrec.testing.smoothing_checks import check_label_smoothing
from genrec.testing.specification_checks import ContractError, check_specification
from genrec.testing.vector_policy_checks import built, list_scores
from genrec.testing.window_checks import check_windows
from genrec.types import CatalogPolicy, EventHistory, LossPolicy, Policy, PolicySpecification, SequencePolicy, WholeItemSpecification
from genrec.types.event_history import items_of, without_events

NUM_ITEMS, LEVEL_SIZES = 40, (4, 3, 5)  # the catalog that policies are checked on


def check_policy(specification: PolicySpecification, semantic_ids: SemanticIds | None = None) -> None:
    """Raise ContractError if a policy breaks `genrec.types.Policy`, on small random Semantic IDs or on yours, which must be distinct.

    The checks are:

    - The specification is a frozen dataclass with a stable description for artifact keys.
    - `build` returns an nn.Module with weights that depend on torch's seed only, and a state_dict that restores them.
    - Log-probabilities are float32 [B, M, L], at most 0, -inf for candidate 0, and the probabilities of all items add up to at most 1.
    - A `CatalogPolicy` on several levels has L = 1, and a specification whose `scores_whole_items()` is true.
    - Results do not depend on padding, on the batch or on other candidates; evaluation keeps no state and draws no random numbers.
    - Lists contain real, distinct, allowed items in the order of their scores: `log_prob`, or `score_items` of an `ItemScorer`.
    - Gradients are finite.
    - `sequence_log_prob` of a `SequencePolicy` equals `level_log_prob` of every prefix, and so do `place_level_log_prob` of a
      `WindowPolicy`, `constrained_place_level_log_prob`, `catalog_log_prob` of a `CatalogPolicy` and `code_level_log_prob` of a
      `CodePolicy`, with the same gradients. The probabilities of all items, or of all code sequences, add up to 1.
    - `sample_items` of a `SamplingPolicy` draws distinct allowed items by its probabilities; see `check_sampling`.
    - `recommend_after` and `sample_items_after` of a `PlaceSearchPolicy` equal `recommend` and `sample_items` of every prefix.
    - `history_states` of a `HistoryStates` depends on the row's items alone; see `check_history_states`.
    - The smoothed log-probabilities of a `LabelSmoothing` are those of its log-probabilities; see `check_label_smoothing`.
    - A policy that asks for inputs of histories (`genrec.types.InputSpecification`) reads each of them, refuses items alone, and
      passes all of these checks with an `EventHistory`, in which some events have no rating.
    - `sequence_loss` of a `LossPolicy` is a finite scalar with a gradient, or None; see `check_sequence_loss`.

    A policy that refuses Semantic IDs of three levels is checked with one level, in which item i has code i - 1.
    """
    check_specification(specification, PolicySpecification, "build(semantic_ids)")
    name = type(specification).__name__
    _check_description(name, specification)
    trial = _trial(name, specification, semantic_ids)
    _check_levels(trial, specification)
    _check_build(trial, specification)
    if isinstance(trial.history, EventHistory):  # from here on; inputs may have weights of 0 at first
        shake_weights(trial.policy)
    with torch.no_grad():
        found = _check_log_probs(trial)
        _check_independence(trial, found)
        check_inputs(name, trial.history, lambda history: levels(trial, history))
        check_rankings(name, trial.policy, trial.history, list_scores(name, trial.policy, trial.history, found.sum(-1)))
        check_sampling(name, trial.policy, trial.history, found.sum(-1))
        _check_sequence(trial, specification)
        check_windows(name, trial.policy, trial.history, trial.semantic_ids)
        check_same(trial, "level_log_prob returns other values when it is called again", found, levels(trial))
        _check_weights(trial, specification, found)
    check_history_states(name, specification, trial.policy, trial.history)
    causal = isinstance(trial.policy, SequencePolicy) and getattr(specification, "causal", False) is True
    check_label_smoothing(trial, specification, causal)
    _check_gradients(trial)
    if isinstance(trial.policy, LossPolicy):
        check_sequence_loss(name, trial.policy, trial.history, causal)


def _check_description(name: str, specification: PolicySpecification) -> None:
    try:
        describe(specification, Path(), name)
    except UsageError as error:
        raise ContractError(str(error)) from None


def _trial(name: str, specification: PolicySpecification, semantic_ids: SemanticIds | None) -> Trial:
    """Build the policy, on Semantic IDs of one level if it refuses several."""
    if semantic_ids is None:
        semantic_ids = _catalog(LEVEL_SIZES)
        try:
            policy = _build(specification, semantic_ids)
        except ContractError:
            raise
        except GenrecError:  # it may need one level; otherwise it raises its error again
            semantic_ids = SemanticIds(torch.arange(NUM_ITEMS)[:, None])
            policy = _build(specification, semantic_ids)
    else:
        policy = _build(specification, semantic_ids)
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(1, semantic_ids.items + 1, (6, 6), generator=generator)
    padding = torch.arange(5, -1, -1)[:, None]
    items = history.masked_fill(torch.arange(6) < padding, 0)
    return Trial(name, policy, semantic_ids, with_random_inputs(items, asked_inputs(name, specification)))


def _catalog(sizes: tuple[int, ...]) -> SemanticIds:
    """Return random distinct Semantic IDs."""
    flat = torch.randperm(int(np.prod(sizes)), generator=torch.Generator().manual_seed(0))[:NUM_ITEMS]
    return SemanticIds(torch.stack(torch.unravel_index(flat, sizes), 1), sizes)


def _build(specification: PolicySpecification, semantic_ids: SemanticIds, seed: int = 0, read: bool = True) -> Policy:
    """Build a policy with a seed and put it into evaluation mode; torch's generator is restored. For `read` see `built`."""
    name = type(specification).__name__
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy = call_plugin(name, "build", lambda: built(specification, semantic_ids, read))
    if not isinstance(policy, nn.Module) or not isinstance(policy, Policy):
        raise ContractError(
            f"{name}: build must return a torch.nn.Module with level_log_prob, log_prob and recommend; got {type(policy).__name__}"
        )
    return cast(Policy, policy.eval())


def _check_build(trial: Trial, specification: PolicySpecification) -> None:
    """Check that the weights depend on torch's seed, and on nothing else."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(7), np.random.seed(7)  # noqa: NPY002
    try:
        second = _weights(_build(specification, trial.semantic_ids))
    finally:
        random.setstate(states[0]), np.random.set_state(states[1])  # noqa: NPY002
    first = _weights(trial.policy)
    if not first:
        raise ContractError(
            f"{trial.name}: the policy has no weights; make them nn.Parameter or submodules, as attributes of the module"
        )
    for key, value in first.items():
        if key not in second or not torch.equal(value, second[key]):
            raise ContractError(
                f"{trial.name}: two policies built with the same torch seed differ in {key}; draw initial weights from torch's global "
                "generator only"
            )


def _weights(policy: Policy) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in cast(nn.Module, policy).state_dict().items()}


def _check_levels(trial: Trial, specification: PolicySpecification) -> None:
    """Check that the specification names a policy that scores Semantic IDs of several levels as one code."""
    whole = isinstance(specification, WholeItemSpecification) and specification.scores_whole_items()
    is_catalog = isinstance(trial.policy, CatalogPolicy)
    if trial.semantic_ids.levels > 1 and whole != is_catalog:
        raise ContractError(
            f"{trial.name}: the policy {'has' if is_catalog else 'has no'} catalog_log_prob, so scores_whole_items() of its "
            f"specification must return {is_catalog}: components that read the levels of a Semantic ID ask it before any stage runs"
        )


def _check_log_probs(trial: Trial) -> Tensor:
    """Check that the values are log-probabilities, and return those of all candidates, float32 [B, 1 + N, L]."""
    name, found = trial.name, levels(trial)
    if not bool((found[:, 0] == -torch.inf).all()):
        raise ContractError(
            f"{name}: level_log_prob of candidate 0 (none) must be -inf on every level, got {found[0, 0].tolist()}; use "
            "masked_fill((items == 0).unsqueeze(-1), -inf)"
        )
    real = found[:, 1:]
    if bool(real.isnan().any()) or bool((real > TOLERANCE).any()):
        raise ContractError(f"{name}: log-probabilities must be at most 0 and not NaN, got {real.max():g}; end in log_softmax")
    total = torch.logsumexp(real.sum(-1), 1).exp()
    if bool((total > 1 + 1e-3).any()):
        raise ContractError(
            f"{name}: the probabilities of all {trial.semantic_ids.items} items add up to {total.max():g}, which is more than 1; "
            "use a softmax over each level's codes, given the codes before"
        )
    sums = call_plugin(name, "log_prob", lambda: trial.policy.log_prob(trial.history, all_candidates(trial)))
    check_tensor(name, "log_prob", sums, tuple(found.shape[:2]))
    check_same(trial, "log_prob is not the sum of level_log_prob over levels", found.sum(-1), sums)
    none = without_events(trial.history[:1], torch.ones(1, trial.history.shape[1], dtype=torch.bool))
    empty = levels(trial, none, torch.arange(1, 3)[None])
    if not bool(empty.isfinite().all()):
        raise ContractError(f"{name}: an empty history (all 0) must have finite log-probabilities, got {empty.flatten().tolist()}")
    return found


def _check_independence(trial: Trial, found: Tensor) -> None:
    """Check that a result does not depend on padding, on other histories of the batch or on other candidates."""
    width = trial.history.shape[1]
    for row in range(len(trial.history)):
        history = alone(trial.history, row)
        candidates = all_candidates(trial)[:1]
        check_same(
            trial,
            f"a history of {history.shape[1]} items has other log-probabilities alone than padded to {width} in a batch "
            "of longer ones; mask padding in attention and in means, and count positions from the end",
            found[row : row + 1],
            levels(trial, history, candidates),
        )
    some = torch.tensor([[7, 0, 3]]).expand(len(found), -1).contiguous()
    check_same(
        trial,
        "a candidate has other log-probabilities when other candidates change; they must depend on the history and its own codes only",
        found[:, some[0]],
        levels(trial, items=some),
    )


def _check_sequence(trial: Trial, specification: PolicySpecification) -> None:
    """Check that `causal` matches `sequence_log_prob`, and that one pass equals every prefix, also with zeros inside a history."""
    name, policy, causal = trial.name, trial.policy, getattr(specification, "causal", False)
    if not isinstance(policy, SequencePolicy):
        if causal:
            raise ContractError(f"{name}: causal is true, but the policy has no sequence_log_prob(history, targets)")
        return
    if causal is False and hasattr(specification, "causal"):
        return  # the class supports both encoders; with this one, sequence_log_prob may raise
    if causal is not True:
        raise ContractError(f"{name}: the policy has sequence_log_prob; give its specification a class variable causal = True")
    following = torch.nn.functional.pad(items_of(trial.history)[:, 1:], (0, 1), value=5)
    with_gap = without_events(trial.history, (torch.arange(trial.history.shape[1]) == 3).expand(trial.history.shape))
    if isinstance(trial.history, EventHistory):  # a place before the first item may know the user or not
        following = following.masked_fill(trial.history.items == 0, 0)
    arbitrary = following.flip(0) if isinstance(trial.history, Tensor) else following.flip(0).masked_fill(following == 0, 0)
    for case, history, targets in (
        ("with its next items as targets", trial.history, following),
        ("with arbitrary targets", trial.history, arbitrary),
        ("with a 0 between its items", with_gap, following),
    ):
        copies = history.clone(), targets.clone()
        result = call_plugin(name, "sequence_log_prob", lambda: policy.sequence_log_prob(*copies))  # noqa: B023
        check_tensor(name, "sequence_log_prob", result, (*history.shape, num_levels(trial)))
        places = range(history.shape[1])
        expected = torch.cat([levels(trial, history[:, : t + 1], targets[:, t : t + 1]) for t in places], 1)
        check_same(trial, f"sequence_log_prob of a history {case} is not level_log_prob of every prefix", expected, result)


def _check_weights(trial: Trial, specification: PolicySpecification, found: Tensor) -> None:
    """Check that a policy of another seed gives the same results once it has loaded this one's state_dict."""
    other = _build(specification, trial.semantic_ids, seed=1, read=False)
    cast(nn.Module, other).load_state_dict(_weights(trial.policy))
    check_same(
        trial,
        "a policy of another seed that has loaded this one's state_dict gives other log-probabilities; they must depend on parameters "
        "and persistent buffers only, and other buffers must follow from the Semantic IDs",
        found,
        levels(trial._replace(policy=other)),
    )


def _check_gradients(trial: Trial) -> None:
    """Check that gradients exist and are finite, in training mode, with a candidate 0."""
    module = cast(nn.Module, trial.policy).train()
    items = torch.tensor([[7, 0, 3]]).expand(len(trial.history), -1).contiguous()
    with torch.random.fork_rng(devices=[]):
        found = levels(trial, items=items)
        if not found.requires_grad:
            raise ContractError(f"{trial.name}: log-probabilities have no gradient; remove detach and no_grad from level_log_prob")
        found[:, [0, 2]].sum().backward()  # type: ignore[no-untyped-call]
    module.eval()
    for key, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            raise ContractError(
                f"{trial.name}: the gradient of {key} is not finite in a row with a candidate 0; set masked places to a finite value "
                "before exp, log and division, and to -inf only at the end"
            )
    module.zero_grad()
