"""The quick start: preferences on a built-in world of 192 items, in which only ratings tell what users like.

    genrec run experiments/quickstart.py:comparison
    genrec run genrec.quickstart:comparison             # the same, outside a checkout

Nothing is downloaded. In the world `Taste` about a third of the events are the user's own choice; the others follow the season and
popularity. 48 % of the events are liked (rated 4 or 5) and 31 % are disliked (1 or 2). The likelihood learns what is shown; the
ratings hold what it does not. Each user's last ten events are held out: five for validation, five for the test. The target is the
first liked one of the five.

The primary endpoint is NDCG@10 of liked targets on test, seen items kept, against continued SFT, which takes as many steps on the
same windows (`control`, the reference of the table). Second: the pairwise accuracy of liked over disliked held-out items. The
fair controls learn from the same ratings by likelihood alone: SFT on liked events from the start (`sft_liked`), and SFT followed
by as many steps on liked events (`control_liked`). Recipes were chosen on another world, `Taste(seed=0)`, whose test figures were
partly seen; the users of the quick start's world were not, and its settings were shortened by cost alone.

What to expect: DPO, gated S-DPO and GRPO have a higher NDCG@10 than the control, S-DPO is not distinguishable from it; all four
order more pairs. None has a higher NDCG@10 than the fair controls: the likelihood of liked events is hard to beat. DPO and S-DPO
order more pairs than `control_liked`. `genrec.data.worlds.best_metrics` gives the best possible values: 0.970 of the pairs and an
NDCG@10 of 0.266, and 0.663 and 0.200 for a ranker that knows the true probabilities of all events and no ratings. Tables:
experiments/results.md (experiments/results/quick-start.md).

Cost: 8.4 processor-minutes; 4.5 minutes on 2 idle CPU cores. Three seeds are the least for a claim about methods; the other
comparisons have five (`--seeds 5`).
"""

from __future__ import annotations

from dataclasses import replace

from genrec.data.splits import HoldOutLast
from genrec.experiment import SFT, Align, Evaluate, Experiment, Optimization, Tokenize, Validation, baselines, seeds
from genrec.model import Tiger
from genrec.objectives import Preference, Supervised
from genrec.objectives.policy_gradient import PolicyGradient
from genrec.preference.candidates import Rollouts, Sampled, TopItems
from genrec.preference.losses import DPO, SoftmaxDPO
from genrec.preference.negatives import DislikedItems
from genrec.preference.policy_gradient import Clip
from genrec.testing import Taste
from genrec.tokenizer import RQKMeans
from genrec.types import Objective, PreferenceLoss, Proposer

ALL, LIKED = Supervised(targets="all"), Supervised(targets="all", feedback="liked")


def sft(objective: Objective = ALL, name: str = "sft") -> Experiment:
    """Return a small policy with a causal encoder, trained by SFT on every target of a window."""
    return Experiment(
        name=f"taste-{name}",
        source=Taste(seed=1),
        split=HoldOutLast(n=10, liked=4, disliked=2),
        tokenize=Tokenize(quantizer=RQKMeans(num_levels=3, codebook_size=16), collisions="reassign"),  # adds no level
        policy=Tiger(
            d_model=64, d_ff=128, num_heads=4, d_kv=16, num_encoder_layers=1, num_decoder_layers=1, history="items", encoder="causal",
            num_beams=20,
        ),
        history_length=15,
        sft=SFT(
            objective=objective,
            optimization=Optimization(max_steps=400, batch_size=64, learning_rate=3e-3, warmup_steps=30, weight_decay=0.035),
            validation=Validation(every=200, users=400),
        ),
        evaluate=Evaluate(cutoffs=(1, 5, 10, 20)),
    )  # fmt: skip


def sft_liked() -> Experiment:
    """Return SFT on liked events from the start; disliked and neutral events stay in the histories."""
    return sft(LIKED, "sft-liked")


def aligned(name: str, objective: Objective) -> Experiment:
    """Return the SFT policy trained further by this objective, 100 steps on windows for all rows."""
    align = Align(
        objective=objective,
        keep="last",
        optimization=Optimization(max_steps=100, batch_size=64, learning_rate=1e-3, warmup_steps=10),
        validation=Validation(every=100, users=400),
    )
    return replace(sft(), name=f"taste-{name}", align=align)


def control() -> Experiment:
    """Return the control: continued SFT on all events. A gain of this row is no gain of preferences."""
    return aligned("continued", ALL)


def control_liked() -> Experiment:
    """Return the fair control of preferences: continued SFT on the liked events, which reads the same ratings."""
    return aligned("continued-liked", LIKED)


def dpo() -> Experiment:
    """Return DPO of a liked target over one of the user's dislikes, beside the likelihood of the target."""
    return aligned("dpo", _liked_over(Sampled(DislikedItems(), 1), DPO(beta=0.5), likelihood=0.5))


def sdpo() -> Experiment:
    """Return S-DPO of a liked target over up to three of the user's dislikes, beside the likelihood of the target."""
    return aligned("sdpo", _liked_over(Sampled(DislikedItems(), 3), SoftmaxDPO(beta=0.5), likelihood=0.25))


def gated() -> Experiment:
    """Return on-policy S-DPO: a liked target over the policy's own best other items, where the target is among the best 8."""
    return aligned("gated", _liked_over(TopItems(size=8), SoftmaxDPO(beta=1.0), likelihood=1.0))


def grpo() -> Experiment:
    """Return GRPO over beams: of the policy's 8 best items the liked target is rewarded, beside the likelihood of the target."""
    return aligned("grpo", PolicyGradient(candidates=Rollouts(size=8), surrogate=Clip(), targets="all", feedback="liked"))


def _liked_over(candidates: Proposer, loss: PreferenceLoss, likelihood: float) -> Preference:
    """Return a preference of liked targets over other candidates, beside the likelihood of the targets."""
    return Preference(loss=loss, candidates=candidates, likelihood=likelihood, targets="all", feedback="liked")


def comparison() -> list[Experiment]:
    """Return the rows of the table: two baselines, the control, which is the reference, and seven rows with three seeds each."""
    return baselines(sft()) + seeds([control(), sft(), sft_liked(), control_liked(), dpo(), sdpo(), gated(), grpo()], 3)
