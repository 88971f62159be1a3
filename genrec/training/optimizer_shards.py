"""AdamW's state divided over the processes that train together (ZeRO, stage 1; Rajbhandari et al. 2020, arXiv 1910.02054).

Each process holds all parameters, computes with all of them, and keeps the two moments of one share of every parameter. In a step the
gradients are added up parameter by parameter, each process keeps its share of the sum and changes its share of the parameter, and the
processes exchange the changed shares. AdamW treats every number by itself, so the weights are those of a whole optimizer; on CPUs they
are equal bit for bit.

Parameters stay whole because the processes do not run the same operations. `torch.distributed.fsdp.fully_shard` exchanges parameters
in the middle of forward and backward passes and needs equally many of them in all processes, but an objective and a policy are free in
how they compute: a process may have no part of a small step, or more rows, and so more chunks of them, than another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from genrec import process_group

Moments = dict[int, dict[str, Tensor]]  # the state of AdamW: tensors by name, by number of the parameter


class OptimizerShards:
    """The shares of the parameters that this process optimizes. `own` are views of the parameters; some may be empty."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        for each in parameters:
            each.data = each.data.contiguous()  # so that it has views
        self.own = [nn.Parameter(process_group.own_share(each.detach().view(-1))) for each in parameters]

    @torch.no_grad()
    def add_up_gradients(self) -> Tensor:
        """Give each share the sum of its gradients over the processes, and free those of the parameters. Return the norm of the sum.

        A parameter without a gradient in any process gets none, so that the optimizer skips it.
        """
        norms = []
        for each, own, given in zip(self.parameters, self.own, process_group.have_gradients(self.parameters), strict=True):
            own.grad, gradient = None, each.grad
            each.grad = None
            if given:
                summed = process_group.sum_in_order((torch.zeros_like(each) if gradient is None else gradient).reshape(-1))
                del gradient
                norms.append(torch.linalg.vector_norm(summed))
                own.grad = process_group.own_share(summed).clone()
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.tensor(0.0)

    @torch.no_grad()
    def exchange(self) -> None:
        """Copy to the parameters what all processes have made of their shares."""
        for each, own in zip(self.parameters, self.own, strict=True):
            if own.grad is not None:
                each.copy_(process_group.of_shares(own.detach(), each.numel()).view_as(each))

    def whole(self, moments: Moments) -> Moments:
        """Return the moments of the whole parameters, on the CPU, from those of the shares; nothing except in the first process."""
        found: Moments = {}
        for number, state in sorted(moments.items()):
            parameter = self.parameters[number]
            for name, value in sorted(state.items()):
                every = value if name == "step" else process_group.of_shares(value, parameter.numel()).view_as(parameter)
                if process_group.leads():
                    found.setdefault(number, {})[name] = every.cpu()
        return found

    def cut(self, moments: Mapping[int, Mapping[str, Tensor]]) -> Moments:
        """Return the moments of the shares, as copies, from those of the whole parameters."""
        return {
            number: {
                name: value if name == "step" else process_group.own_share(value.reshape(-1)).clone() for name, value in state.items()
            }
            for number, state in moments.items()
        }
