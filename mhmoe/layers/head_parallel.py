"""Head Parallel: heads with routers and experts of their own are shared out among processes, and sub-tokens travel.

    owner(i) = i // (h / n)          of h heads on n processes, each has h / n that follow each other

Every process sends the sub-tokens of each head to the head's owner before anything is routed, and gets the layer's
outputs for them back. No sub-token leaves its head (per_head.py), so this is all that is sent: of l tokens of width d,
(1 - 1/n) l d numbers a way, the same for every process, whatever top_k is and whatever the routers decide; in a step
four times, forward and backward. Nobody waits to learn sizes. A shared network, which all processes have, runs on each
one's own tokens. Cui et al. 2026, arXiv 2602.04870, section on Head Parallel.

What is returned as routing is that of the own heads for the tokens of all n processes, in the numbering of all experts:
as many rows as each process has sub-tokens. Its means and counts, added up over all processes, are those of one.

Departures from the paper: none known; balance losses are those of this package.
"""

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn import functional as F

from mhmoe.layers.exchange import from_owners, of_owner, to_owners
from mhmoe.layers.expert_parallel import OwnExperts
from mhmoe.layers.experts import FFNOutput
from mhmoe.layers.per_head import PerHeadRouter, PerHeadRouterConfig
from mhmoe.layers.routing import Router, Routing, wanted_by
from mhmoe.layers.sparse_moe import SparseMoE


class OwnHeads(PerHeadRouter):
    """The routers of this process's heads, under the names that they have among all."""

    def __init__(self, whole: PerHeadRouter, mesh: DeviceMesh) -> None:
        heads = len(whole.routers)
        if heads % mesh.size():
            raise ValueError(
                f"heads={heads} cannot be shared out evenly among {mesh.size()} processes; "
                "choose a number of processes that divides it"
            )
        own = heads // mesh.size()
        first = mesh.get_local_rank() * own
        one = next(iter(whole.routers))
        assert isinstance(one, Router)
        Router.__init__(self, PerHeadRouterConfig.of(one.config, own))
        self.routers = nn.ModuleList()
        for head in range(first, first + own):
            self.routers.add_module(str(head), whole.routers[head])


class HeadParallel(SparseMoE):
    """y(x) for this process's rows (..., heads, dim); all processes of the group call it with as many tokens.

    mesh: the processes among which heads are shared out, of one axis. Takes over what `whole` holds, which must be the
    same in all of them. Raises ValueError unless `whole` has a router for each head, and all get as many heads.
    """

    def __init__(self, whole: SparseMoE, mesh: DeviceMesh) -> None:
        nn.Module.__init__(self)
        if not isinstance(whole.router, PerHeadRouter):
            raise ValueError("Head Parallel wants heads with routers of their own (PerHeadRouterConfig)")
        self.router = OwnHeads(whole.router, mesh)
        self.experts = OwnExperts(whole.experts, mesh)
        self.capacity, self.shared, self.balance = whole.capacity, whole.shared, whole.balance
        self.group, self.rank = mesh.get_group(), mesh.get_local_rank()

    def routed(
        self,
        x: Float[Tensor, "*batch heads dim"],
        mask: Bool[Tensor, "*batch heads"] | None = None,
        scored: Float[Tensor, "*batch heads scored_dim"] | None = None,
    ) -> FFNOutput:
        """As of `SparseMoE`, but for the routing and the balance loss, which are those of the own heads."""
        asked = None if scored is None else self._by_head(scored)
        own_mask = None if mask is None else self._by_head(mask.to(torch.uint8).unsqueeze(-1)).squeeze(-1).bool()
        own = super().routed(self._by_head(x), own_mask, asked)
        processes = self.group.size()
        tokens = [own.hidden.shape[0] // processes] * processes
        hidden = from_owners(own.hidden, tokens, tokens, self.group)
        hidden = hidden.unflatten(0, (processes, -1)).transpose(0, 1).reshape(x.shape)
        assert own.routing is not None and own.balance_loss is not None
        return FFNOutput(hidden, of_owner(own.balance_loss, self.group), self._among_all(own.routing))

    def _by_head(self, x: Shaped[Tensor, "*batch heads dim"]) -> Shaped[Tensor, "tokens own dim"]:
        """The own heads' sub-tokens of the tokens of all processes."""
        processes = self.group.size()
        by_owner = x.reshape(-1, *x.shape[-2:]).unflatten(1, (processes, -1)).transpose(0, 1)
        tokens = [by_owner.shape[1]] * processes
        return to_owners(by_owner.flatten(0, 1), tokens, tokens, self.group)

    def _among_all(self, routing: Routing) -> Routing:
        """The same, with the experts' numbers among those of all heads."""
        own, processes = routing.probabilities.shape[-1], self.group.size()
        before, after = self.rank * own, (processes - 1 - self.rank) * own

        def padded(part: Tensor, value: float) -> Tensor:
            return F.pad(of_owner(part, self.group), (before, after), value=value)

        return Routing(
            routing.index + before,
            routing.weight,
            padded(routing.probabilities, 0.0),
            routing.kept,
            None if routing.scores is None else padded(routing.scores, -torch.inf),
            wanted_by(routing) + before,
        )

    def rebalance(self, load: Float[Tensor, " experts"]) -> None:
        self.router.rebalance(load.chunk(self.group.size())[self.rank])
