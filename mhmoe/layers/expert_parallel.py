"""Expert parallelism: the experts of a layer are shared out among processes, and rows travel to them.

    owner(p) = p // (N / n)          of N experts on n processes, each has N / n that follow each other

Every process routes its own rows, sorts its selections by expert, and sends each to the owner of its expert
(all-to-all, of as many rows as the routing says); owners run their experts on what came from all, and the results go
back, where they are summed with the gate weights. Lepikhin et al. 2020, arXiv 2006.16668 (GShard), section 3.

What is sent depends on the routing, and grows with top_k: 4 * top_k * rows * dim numbers a layer and step at most, two
ways, forward and backward. Sizes are settled by a small exchange of counts, for which the host waits once a layer.
Selections that do not count (weight 0) are sent too. A process without rows for its experts takes part all the same.

The parameters are DTensors of the whole layer's shape under the names of `Experts`, cut along their first axis: what
saves, loads or clips them need not know how many processes there are.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.func import functional_call

from mhmoe.layers.exchange import from_owners, to_owners
from mhmoe.layers.experts import Experts


class OwnExperts(nn.Module):
    """Those of the experts that this process has; they are numbered from 0 here.

    mesh: the processes among which they are shared out, of one axis. Takes over what `whole` holds, which must be the
    same in all of them. Raises ValueError unless all get as many.
    """

    def __init__(self, whole: Experts, mesh: DeviceMesh) -> None:
        super().__init__()
        if whole.num_experts % mesh.size():
            raise ValueError(
                f"num_experts={whole.num_experts} cannot be shared out evenly among {mesh.size()} processes; "
                "choose a number of processes that divides it"
            )
        self.num_own = whole.num_experts // mesh.size()
        with torch.device("meta"):
            own = whole.config.replace(num_experts=self.num_own).build()
        own.slices, own.kernels = whole.slices, whole.kernels
        self.own = (own,)  # without numbers of its own, and in a tuple, so as not to be a part
        for path, module in whole.named_modules():
            holder = _holder(self, path)
            for name, parameter in module.named_parameters(recurse=False):
                here = parameter.detach().chunk(mesh.size())[mesh.get_local_rank()].clone()
                cut = DTensor.from_local(here, mesh, [Shard(0)], run_check=False)
                holder.register_parameter(name, nn.Parameter(cut, parameter.requires_grad))

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        index: Int[Tensor, "*batch top_k"],
        weight: Float[Tensor, "*batch top_k"],
    ) -> Float[Tensor, "*batch dim"]:
        """As `Experts`."""
        numbers = {name: p.to_local() if isinstance(p, DTensor) else p for name, p in self.named_parameters()}
        return functional_call(self.own[0], numbers, (x, index, weight))


class ExpertParallel(OwnExperts):
    """o(x) for this process's rows, given their routing over the experts of all processes."""

    def __init__(self, whole: Experts, mesh: DeviceMesh) -> None:
        super().__init__(whole, mesh)
        self.group = mesh.get_group()

    def forward(
        self,
        x: Float[Tensor, "*batch dim"],
        index: Int[Tensor, "*batch top_k"],
        weight: Float[Tensor, "*batch top_k"],
    ) -> Float[Tensor, "*batch dim"]:
        """As `Experts`; all processes of the group call it together, each with as many rows as it has."""
        processes, top_k = self.group.size(), index.shape[-1]
        expert, source = index.flatten().sort(stable=True)
        ours = expert.new_zeros(processes * self.num_own).scatter_add(0, expert, torch.ones_like(expert))
        theirs = torch.empty_like(ours)
        dist.all_to_all_single(theirs, ours, group=self.group)
        sent, taken = torch.stack([ours, theirs]).view(2, processes, -1).sum(dim=-1).tolist()

        rows = x.reshape(-1, x.shape[-1]).index_select(0, source // top_k)
        received = to_owners(rows, sent, taken, self.group)
        own = torch.arange(self.num_own, device=x.device).repeat(processes)
        own = own.repeat_interleave(theirs, output_size=received.shape[0]).unsqueeze(-1)
        out = super().forward(received, own, torch.ones_like(own, dtype=weight.dtype))
        returned = from_owners(out, taken, sent, self.group)

        place = torch.empty_like(source).scatter(0, source, torch.arange(source.shape[0], device=x.device))
        chosen = returned.index_select(0, place).view(-1, top_k, x.shape[-1])
        return (chosen * weight.reshape(-1, top_k, 1).to(chosen.dtype)).sum(dim=1).view(x.shape)


def _holder(module: nn.Module, path: str) -> nn.Module:
    """The part of this name, made if there is none."""
    for name in path.split(".") if path else ():
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = module.get_submodule(name)
    return module
