"""Check that DPO, which compares one pair, gets one negative for each row."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

from genrec.errors import UsageError
from genrec.plugin_source import is_plugin_class, name_with_place, short
from genrec.preference.candidates import Together
from genrec.preference.losses import DPO, Anchored, LevelWeighted
from genrec.types import Candidates, PreferenceLoss, Proposer, SizedProposer


def takes_one_negative(loss: PreferenceLoss) -> bool:
    """Return whether the loss is DPO, which compares one pair."""
    while isinstance(loss, Anchored | LevelWeighted):
        loss = loss.loss
    return isinstance(loss, DPO)


def check_sizes(loss: PreferenceLoss, proposer: Proposer) -> None:
    """Raise UsageError if the loss is DPO and the proposer gives more than one negative by its settings."""
    if takes_one_negative(loss) and _most_negatives(proposer) > 1:
        raise UsageError(_message(proposer, _most_negatives(proposer)))


def check_one_negative(loss: PreferenceLoss, proposer: Proposer, candidates: Candidates) -> None:
    """Raise UsageError if the loss is DPO and candidates hold more than one negative, which not every proposer tells beforehand."""
    if takes_one_negative(loss) and candidates.items.shape[1] > 2:
        raise UsageError(_message(proposer, candidates.items.shape[1] - 1))


def _message(proposer: Proposer, found: int) -> str:
    names = {each.name for each in fields(proposer)} if is_dataclass(proposer) else set[str]()
    advice = "let it give one: items and mask of two columns, the preferred item and one other"
    if "num_negatives" in names:
        advice = "set num_negatives to 1 (--align.num-negatives 1)"
    elif "size" in names:
        advice = "set size to 2 (--align.size 2)"
    elif not is_plugin_class(type(proposer)):
        advice = "let it give one"
    kind = type(proposer)
    name = f"{short(proposer)}, a {name_with_place(kind)}" if is_plugin_class(kind) else repr(proposer)
    return f"DPO takes one negative, got {found} from {name}; {advice}, or use SoftmaxDPO (S-DPO), which takes any number"


def _most_negatives(proposer: Proposer) -> int:
    """Return the largest number of negatives of a row; a proposer that does not know counts one."""
    if isinstance(proposer, Together):
        return sum(map(_most_negatives, proposer.proposers))
    return proposer.most_candidates() - 1 if isinstance(proposer, SizedProposer) else 1
