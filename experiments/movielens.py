"""MovieLens: SFT, continued SFT, DPO and S-DPO with uniform and with FAISS negatives; SASRec; and grids of objectives and negatives.

    genrec run experiments/movielens.py:comparison        # 100K, five seeds; downloads ml-100k.zip (--source.path: a local copy)
    genrec run experiments/movielens.py:rivals            # SFT beside popularity, ItemKNN, EASE, BPR and SASRec
    genrec run experiments/movielens.py:grid              # every objective x every kind of negatives, on 100K and on 1M: hours
    genrec run experiments/movielens.py:grid_100k         # the first half of the grid
    genrec run experiments/movielens.py:seen              # items of the history as negatives, more steps, on 1M

Protocol: leave-one-out, 5-core, full catalog, seen items kept (`--evaluate.filter-seen True` filters them). Item vectors come from
training interactions, since MovieLens has little text. Cost and result: see experiments/results.md.
"""

from __future__ import annotations

from dataclasses import replace

from genrec.baselines import BPR, EASE, SASRec
from genrec.data.sources import MovieLens
from genrec.data.splits import LeaveOneOut
from genrec.embeddings import Collaborative
from genrec.experiment import BEYOND_ACCURACY, SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation, baselines, seeds
from genrec.model import Tiger
from genrec.objectives import Preference, Rounds, Supervised
from genrec.preference.candidates import Sampled
from genrec.preference.losses import DPO, IPO, KTO, Anchored, SoftmaxDPO
from genrec.preference.negatives import AlreadySeen, FaissNeighbors, ModelBeams, Popularity, PrefixNeighbors, Uniform
from genrec.tokenizer import RQKMeans
from genrec.types import NegativeSampler, Objective, PreferenceLoss

REPEATED = Supervised(targets="all", padding="repeat")  # short sequences are repeated (RepPad)


def sft() -> Experiment:
    """Return a small TIGER policy with one input vector per item, trained by SFT for about eight epochs."""
    return Experiment(
        name="ml100k-sft",
        source=MovieLens("100k"),
        embed=Collaborative(dim=64),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=3, codebook_size=64)),
        policy=Tiger(d_model=64, d_ff=256, num_heads=4, d_kv=16, num_encoder_layers=2, num_decoder_layers=2, history="items"),
        sft=SFT(
            optimization=Optimization(max_steps=6_000, batch_size=128, learning_rate=2e-3, warmup_steps=200, weight_decay=0.035),
            validation=Validation(every=500, patience=6),
        ),
        evaluate=Evaluate(metrics=BEYOND_ACCURACY),
    )


def aligned(name: str, objective: Objective) -> Experiment:
    """Return the SFT policy trained further by this objective, 300 steps on the same histories for all rows."""
    align = Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=300, batch_size=128, learning_rate=5e-5, warmup_steps=30),
        validation=Validation(every=100),
    )
    return replace(sft(), name=f"ml100k-{name}", align=align)


def control() -> Experiment:
    """Return the control: continued SFT on the batches of the alignment. A gain of this row is no gain of preferences."""
    return aligned("sft-continued", Supervised())


def dpo() -> Experiment:
    """Return DPO with one uniform negative."""
    return aligned("dpo-uniform", Preference(loss=Anchored(DPO(beta=0.5)), candidates=Sampled(Uniform(), 1)))


def dpo_faiss() -> Experiment:
    """Return DPO with one nearest neighbor of the positive."""
    return aligned(
        "dpo-faiss",
        Preference(loss=Anchored(DPO(beta=0.5)), candidates=Sampled(FaissNeighbors(pool_size=200), 1)),
    )


def sdpo() -> Experiment:
    """Return S-DPO with three uniform negatives."""
    return aligned("sdpo-uniform", Preference(loss=Anchored(SoftmaxDPO(beta=0.5)), candidates=Sampled(Uniform(), 3)))


def sdpo_faiss() -> Experiment:
    """Return S-DPO with three nearest neighbors of the positive."""
    return aligned(
        "sdpo-faiss",
        Preference(loss=Anchored(SoftmaxDPO(beta=0.5)), candidates=Sampled(FaissNeighbors(pool_size=200), 3)),
    )


def comparison() -> list[Experiment]:
    """Return the rows of the table: popularity, ItemKNN and the trained rows with five seeds each."""
    return baselines(sft()) + seeds([sft(), control(), dpo(), dpo_faiss(), sdpo(), sdpo_faiss()])


def sasrec() -> Experiment:
    """Return SASRec with the full softmax, trained on all targets of a window.

    Chosen among eight settings of width, layers, dropout and learning rate by validation NDCG@10 (seed 0: 0.061 to 0.066).
    """
    return replace(
        sft(),
        name="ml100k-sasrec",
        tokenize=None,
        policy=SASRec(d_model=64, d_ff=256, num_layers=2, num_heads=2, dropout=0.3),
        sft=SFT(
            objective=Supervised(targets="all"),
            optimization=Optimization(max_steps=4_000, batch_size=64, learning_rate=3e-3, warmup_steps=200),
            validation=Validation(every=250, patience=6),
        ),
    )


def sasrec_repeated() -> Experiment:
    """Return SASRec with short sequences repeated (RepPad)."""
    return replace(sasrec(), name="ml100k-sasrec-repeated", sft=replace(sasrec().sft, objective=REPEATED))


def linear() -> list[Experiment]:
    """Return EASE and BPR, with the settings of the study beside cornac, chosen by few runs on validation. BPR has one seed."""
    return [replace(sft(), name="ml100k-ease", policy=EASE(l2=100.0)), replace(sft(), name="ml100k-bpr", policy=BPR())]


def rivals() -> list[Experiment]:
    """Return five seeds of SASRec and of the SFT policy, beside popularity, ItemKNN, EASE and BPR."""
    return baselines(sft()) + linear() + seeds([sasrec(), sasrec_repeated(), sft()])


# --- The grid -------------------------------------------------------------------------------------------------------------------

STEPS = 180  # of each aligned row and of the control


def large() -> Experiment:
    """Return SFT on MovieLens-1M, ratings of 4 or more."""
    base = replace(sft(), name="ml1m-sft", source=MovieLens("1m"), split=LeaveOneOut(min_rating=4))
    return replace(
        base,
        sft=replace(
            base.sft,
            optimization=replace(base.sft.optimization, max_steps=5_000),
            validation=replace(base.sft.validation, every=1_000),
        ),
    )


def recipe(learning_rate: float) -> Align:
    """Return the recipe of the grid: all objectives take equal steps, and the last one is kept."""
    return Align(
        keep="last",
        optimization=Optimization(max_steps=STEPS, batch_size=128, learning_rate=learning_rate, warmup_steps=20),
        validation=Validation(every=STEPS),
    )


def _objectives(negatives: NegativeSampler) -> dict[str, Objective]:
    """Return the objectives of the grid with a sampler, all with one anchor. `sprec` has three rounds, half of each SFT."""

    def preference(loss: PreferenceLoss, count: int = 1) -> Preference:
        return Preference(loss=Anchored(loss), candidates=Sampled(negatives, count))

    return {
        "dpo": preference(DPO(beta=0.5)),
        "ipo": preference(IPO(beta=0.5)),
        "kto": preference(KTO(beta=0.5)),
        "sdpo3": preference(SoftmaxDPO(beta=0.5), 3),
        "sdpo15": preference(SoftmaxDPO(beta=0.5), 15),
        "sprec": Rounds(objectives=(Supervised(), preference(DPO(beta=0.5))), steps=(STEPS // 6, STEPS // 6)),
    }


def _samplers() -> dict[str, NegativeSampler]:
    """Return the samplers of the grid. Beams are those of the reference: in `sprec`, of the SFT policy of the round."""
    return {
        "uniform": Uniform(),
        "popularity": Popularity(),
        "faiss": FaissNeighbors(pool_size=50),
        "prefix": PrefixNeighbors(depth=1),
        "beams": ModelBeams(num_beams=20),
        "seen": AlreadySeen(),
    }


def crossed(base: Experiment, learning_rate: float) -> list[Experiment]:
    """Return SFT, the control, and every objective with every sampler; five seeds."""
    stem, common = base.name.removesuffix("-sft"), recipe(learning_rate)
    rows = [base, replace(base, name=f"{stem}-control", align=replace(common, objective=Supervised()))]
    kinds = {kind: _objectives(negatives) for kind, negatives in _samplers().items()}
    for name in _objectives(Uniform()):
        for kind, objectives in kinds.items():
            rows.append(replace(base, name=f"{stem}-{name}-{kind}", align=replace(common, objective=objectives[name])))
    return baselines(base) + seeds(rows)


def filtered(experiments: list[Experiment]) -> list[Experiment]:
    """Return the same rows with seen items filtered out, which is another protocol and another table."""
    return [replace(each, name=f"{each.name}-filtered", evaluate=replace(each.evaluate, filter_seen=True)) for each in experiments]


def grid_100k() -> list[Experiment]:
    """Return the grid on MovieLens-100K, seen items kept and filtered."""
    rows = crossed(sft(), learning_rate=1e-4)
    return rows + filtered(rows)


def grid_1m() -> list[Experiment]:
    """Return the grid on MovieLens-1M, ratings of 4 or more, seen items kept and filtered."""
    rows = crossed(large(), learning_rate=3e-4)
    return rows + filtered(rows)


def seen() -> list[Experiment]:
    """Return S-DPO against three items of the history on MovieLens-1M, with more steps than in the grid, and its control; five seeds.

    Chosen on validation (2,000 users, seed 0) among seen, uniform and neighboring negatives. The grid's test figures at seed 0 had
    picked the kind of negatives before.
    """
    common = recipe(3e-4)
    align = replace(
        common,
        objective=_objectives(AlreadySeen())["sdpo3"],
        optimization=replace(common.optimization, max_steps=400),
        validation=replace(common.validation, every=400),
    )
    continued = replace(align, objective=Supervised())
    base = large()
    rows = [base, replace(base, name="ml1m-control-400", align=continued), replace(base, name="ml1m-seen-400", align=align)]
    rows = baselines(base) + seeds(rows)
    return rows + filtered(rows)


def grid() -> list[Experiment]:
    """Return the grids on both data sets: four tables. Finished rows are not run again, and an interrupted run is resumed."""
    return grid_100k() + grid_1m()
