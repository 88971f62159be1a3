"""Contract checks and small synthetic data sets for authors of plug-ins.

    from genrec.testing import check_sampler
    check_sampler(MySampler())

Each check takes an instance of a plug-in and raises `ContractError`, with the broken rule and a remedy, or returns None. `genrec
check` runs the same checks.
"""

from genrec.data.worlds import Cyclic, Shop, Taste
from genrec.testing.baseline_checks import check_baseline
from genrec.testing.check_worlds import batches_of, sampler_context
from genrec.testing.component_checks import check_component
from genrec.testing.encoder_checks import check_encoder, encoder_world
from genrec.testing.filter_checks import check_filter
from genrec.testing.history_checks import check_history_views
from genrec.testing.item_loss_checks import check_item_loss
from genrec.testing.item_vector_checks import check_item_vectors
from genrec.testing.loss_checks import check_loss
from genrec.testing.metric_checks import check_metric, evaluated_world
from genrec.testing.objective_checks import check_objective
from genrec.testing.objective_worlds import objective_world
from genrec.testing.policy_checks import check_policy
from genrec.testing.policy_gradient_checks import check_advantage, check_surrogate
from genrec.testing.proposer_checks import check_proposer
from genrec.testing.quantizer_checks import check_quantizer
from genrec.testing.reward_checks import check_reward
from genrec.testing.sampler_checks import check_sampler
from genrec.testing.source_checks import check_source
from genrec.testing.specification_checks import ContractError
from genrec.testing.split_checks import check_split

__all__ = [
    "ContractError",
    "Cyclic",
    "Shop",
    "Taste",
    "batches_of",
    "check_advantage",
    "check_baseline",
    "check_component",
    "check_encoder",
    "check_filter",
    "check_history_views",
    "check_item_loss",
    "check_item_vectors",
    "check_loss",
    "check_metric",
    "check_objective",
    "check_policy",
    "check_proposer",
    "check_quantizer",
    "check_reward",
    "check_sampler",
    "check_source",
    "check_split",
    "check_surrogate",
    "encoder_world",
    "evaluated_world",
    "objective_world",
    "sampler_context",
]
