"""A sampler that reads the user's own catalog is checked on the data of an experiment, which the message of the check names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from genrec.baselines import SASRec
from genrec.embeddings import TfidfSvd
from genrec.errors import UsageError
from genrec.experiment import Experiment
from genrec.experiment_context import experiment_context
from genrec.preference.exclusions import Exclusions, take_first
from genrec.testing import ContractError, Shop, check_sampler
from genrec.tokenizer import RQKMeans, Tokenize
from genrec.types import Draw, SamplerContext, SequenceBatch


@dataclass(frozen=True)
class SameBrand:
    """Items of the target's brand, in a random order."""

    column: str = "brand"

    def build(self, context: SamplerContext) -> Draw:
        assert context.items is not None
        brand = torch.tensor([-1, *context.items[self.column].astype("category").cat.codes])
        exclusions = Exclusions(context)

        def draw(batch: SequenceBatch, num_negatives: int, generator: Generator) -> Tensor:
            everything = torch.arange(context.item_count + 1).expand(len(batch.target), -1)
            order = torch.rand(everything.shape, generator=generator).argsort(1)
            allowed = ~exclusions(batch, everything) & (brand == brand[batch.target].unsqueeze(1))
            return take_first(order, allowed.gather(1, order), num_negatives)

        return Draw(draw=draw)


def shop(**fields: object) -> Experiment:
    source = Shop(num_users=40, num_items=60)
    tokenize = Tokenize(RQKMeans(num_levels=2, codebook_size=16))
    return Experiment(**{"name": "shop", "source": source, "embed": TfidfSvd(dim=8), "tokenize": tokenize} | fields)  # type: ignore[arg-type]


def test_the_check_names_the_columns_of_its_own_data_and_the_way_to_yours() -> None:
    with pytest.raises(ContractError) as caught:
        check_sampler(SameBrand())
    message = str(caught.value)
    assert message.startswith("SameBrand: build(context) raised KeyError('brand') at ")
    assert "small data set of its own: context.items has the columns item_id, text, and context.interactions user, item, " in message
    assert "to check on your own data, write check_sampler(..., experiment_context(EXPERIMENT))" in message
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_sampler_is_checked_on_the_data_of_an_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENREC_HOME", str(tmp_path))
    context = experiment_context(shop())
    assert context.item_count == len(context.vectors) - 1
    assert context.items is not None
    assert {"item_id", "text", "brand"} <= set(context.items)
    check_sampler(SameBrand(), context)
    with pytest.raises(ContractError, match=r"raised KeyError\('size'\) at \S*_context.py:\d+$"):  # no hint on the small data set
        check_sampler(SameBrand("size"), context)


def test_an_experiment_without_vectors_has_no_context() -> None:
    with pytest.raises(UsageError, match=r"shop embeds no items, .*; name an experiment with Tiger"):
        experiment_context(shop(policy=SASRec(), tokenize=None))
