"""For authors of plug-ins: small worlds, and checks of what they write (from samplers to policies) that say what is wrong.

    from genrec.testing import check_sampler
    check_sampler(MySampler())

In: a specification. Out: nothing, or a `ContractError`. `genrec check` runs the same checks.
"""

from genrec.data.worlds import Cyclic, Shop
from genrec.testing.dispatch import check_component
from genrec.testing.encoders import check_encoder, encoder_world
from genrec.testing.filters import check_filter
from genrec.testing.losses import check_loss
from genrec.testing.policies import check_policy
from genrec.testing.quantizers import check_quantizer
from genrec.testing.rewards import check_reward
from genrec.testing.samplers import check_sampler
from genrec.testing.sources import check_source
from genrec.testing.specification import ContractError
from genrec.testing.worlds import batches_of, sampler_context

__all__ = [
    "ContractError",
    "Cyclic",
    "Shop",
    "batches_of",
    "check_component",
    "check_encoder",
    "check_filter",
    "check_loss",
    "check_policy",
    "check_quantizer",
    "check_reward",
    "check_sampler",
    "check_source",
    "encoder_world",
    "sampler_context",
]
