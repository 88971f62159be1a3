"""Items added after training: with extended Semantic IDs the policy recommends them, to the right users."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from trainings import fine_tune

from genrec.data.corpus_builder import prepare
from genrec.data.examples import examples
from genrec.data.sources import Frames
from genrec.data.splits import LeaveOneOut
from genrec.data.worlds import Shop
from genrec.embeddings import TfidfSvd
from genrec.evaluation.cold_metrics import chance, cold_metrics, cold_only_metrics
from genrec.evaluation.cold_ranking import evaluate_unseen
from genrec.evaluation.evaluate import Evaluate, evaluate
from genrec.evaluation.metrics import ndcg, recall
from genrec.evaluation.shared_id_ties import per_user
from genrec.model import Tiger
from genrec.model.tiger import TigerPolicy
from genrec.semantic_ids import SemanticIds
from genrec.tokenizer import RQKMeans
from genrec.training.recipes import SFT, Optimization, Validation
from genrec.training.sft import build_policy
from genrec.types import SequenceBatch

SOLVER = Tiger(
    d_model=64, d_ff=128, num_heads=4, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, dropout=0.1, history="items", num_beams=50
)
LENGTH = 6  # items of a history


def with_last_code(codes: np.ndarray) -> Tensor:
    """Append a code that numbers the items with equal codes."""
    last = pd.DataFrame(codes).groupby(list(range(codes.shape[1]))).cumcount().to_numpy()
    return torch.from_numpy(np.column_stack([codes, last]))


def first_purchases_of_new_items(events: pd.DataFrame, number: dict[str, int], known: int) -> SequenceBatch:
    """Return each user's first purchase of a new item, if `LENGTH` or more known items come before it."""
    rows = []
    for user, items in enumerate(events.groupby("user")["item"].agg(list), start=1):
        taken = [number[item] for item in items]
        place = next((place for place, item in enumerate(taken) if item > known), 0)
        if place >= LENGTH:
            rows.append([user, *taken[place - LENGTH : place + 1]])
    table = torch.tensor(rows)
    return SequenceBatch(table[:, 0], table[:, 1:-1], table[:, -1])


@pytest.mark.slow
def test_new_items_are_recommended_to_the_right_users(tmp_path: Path) -> None:
    """In the shop every purchase determines the next category and brand. A fifth of the items is held back, with all purchases of
    them; the policy is trained on the rest, and the new items' Semantic IDs come from the quantizer of the known items."""
    raw = Shop(num_items=400, num_users=2500, following=0.9, noise=0.0, seed=1).load(tmp_path)
    held_back = set(raw.items["item"].sample(frac=0.2, random_state=0))
    is_new = raw.items["item"].isin(held_back)
    old_events = raw.interactions[~raw.interactions["item"].isin(held_back)]
    corpus = prepare(Frames(old_events, raw.items[~is_new]).load(tmp_path), LeaveOneOut())
    known = corpus.item_count
    number = {item: place for place, item in enumerate([*corpus.items["item_id"], *raw.items["item"][is_new]], start=1)}
    items = raw.items.set_index("item").loc[list(number)].reset_index().rename(columns={"item": "item_id"})

    encoder = TfidfSvd(dim=32, min_df=1)
    vectors = encoder.encode(items, corpus.part("train"))
    quantizer = RQKMeans(num_levels=2, codebook_size=20).fit(vectors[:known], torch.Generator().manual_seed(0))
    codes = with_last_code(np.asarray(quantizer.encode(vectors[:known])))
    ids = SemanticIds(codes, (20, 20, int(codes[:, -1].max()) + 1))
    policy = build_policy(SOLVER, ids, 0)
    assert isinstance(policy, TigerPolicy)
    recipe = SFT(
        optimization=Optimization(max_steps=300, batch_size=128, learning_rate=4e-3, warmup_steps=50, weight_decay=0.035),
        validation=Validation(every=300, patience=15),
    )
    validation = examples(corpus, "validation", LENGTH).batch(torch.arange(200))

    def score() -> dict[str, float]:
        return {"ndcg@10": float(per_user(ndcg, evaluate(policy, [validation], Evaluate(cutoffs=(10,))).ranks, 10).mean())}

    fine_tune(policy, examples(corpus, "train", LENGTH), recipe, 0, tmp_path / "checkpoint", score)

    grown = policy.extended(ids.extend(quantizer.encode(vectors[known:])))
    users = first_purchases_of_new_items(raw.interactions, number, known)
    spec = Evaluate(cutoffs=(5, 10))
    popularity = torch.cat([torch.from_numpy(corpus.popularity("train")), torch.zeros(len(number) - known, dtype=torch.int64)])
    before = evaluate(policy, [users], spec).ranks
    assert (before["rank"] == 0).all()  # without Semantic IDs new items can't be recommended
    found = cold_metrics(evaluate(grown, [users], spec).ranks, spec.cutoffs, popularity)
    found |= cold_only_metrics(evaluate_unseen(grown, [users], spec, popularity), spec.cutoffs)
    by_chance = chance(recall, 10, len(number) - known)
    assert by_chance == pytest.approx(10 / 80)
    assert found["cold_only_recall@10"] > 4 * by_chance  # 0.81 when this was written
    assert found["cold_recall@10"] < found["cold_only_recall@10"]  # among all items, unseen prefixes rarely come first
