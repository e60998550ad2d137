"""Two processes share out a layer's experts or heads: outputs and gradients of one process, and what is sent."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.expert_parallel import ExpertParallel
from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig, use_slices
from mhmoe.layers.head_parallel import HeadParallel
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig
from mhmoe.layers.sparse_moe import SparseMoE, SparseMoEConfig
from tests.processes import together

WIDTH, HEADS, EACH, PROCESSES = 8, 4, 4, 2
ROWS = {"even": (12, 12), "uneven": (3, 21), "one has none": (0, 24)}


def layer(top_k: int = 2, **changes: Any) -> SparseMoE:
    torch.manual_seed(0)
    router = DotProductRouterConfig(dim=WIDTH, num_experts=HEADS * EACH, top_k=top_k)
    experts = ExpertsConfig(dim=WIDTH, num_experts=HEADS * EACH, expert_dim=6, bias=True, inner_norm=True)
    return SparseMoEConfig(router=router, experts=experts).replace(**changes).build().double()


def per_head(top_k: int = 2, to_one: bool = False) -> SparseMoE:
    """to_one: every head's sub-tokens all go to its first `top_k` experts."""
    router = BalancedRouterConfig(dim=WIDTH, num_experts=EACH, top_k=top_k)
    shared = FeedForwardConfig(dim=WIDTH, inner_dim=4)
    made = layer(top_k, router=PerHeadRouterConfig.of(router, HEADS), shared=shared)
    for name, bias in made.named_buffers():
        assert name.endswith("balancing_bias")
        bias[:top_k] = 100.0 if to_one else 0.0
    return made


def tokens(rows: int, *shape: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(rows, *shape, WIDTH, dtype=torch.float64)


class Sent(TorchDispatchMode):
    """Counts the bytes that all-to-alls hand over to other processes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.c10d.alltoall_base_.default:
            _, rows, _, _, sent = args[:5]
            each = rows.numel() * rows.element_size() // max(len(rows), 1)
            own = sent[dist.get_rank()] if sent else len(rows) // dist.get_world_size()
            self.bytes += (len(rows) - own) * each
        return func(*args, **(kwargs or {}))


def run(made: SparseMoE, x: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
    """Outputs, the gradients of a function of them, and the bytes that all of this sent."""
    x = x.clone().requires_grad_()
    with Sent() as sent:
        output = made(x, mask)
        assert output.routing is not None
        chances = output.routing.probabilities
        parts = output.hidden.sin().sum() + (chances.flatten(0, -2).sum(dim=0) * weights()).sum()
        parts.backward()
    gradients = {name: p.grad for name, p in made.named_parameters()}
    whole = {name: g.full_tensor() if isinstance(g, DTensor) else g for name, g in gradients.items()}
    return {"hidden": output.hidden.detach(), "x": x.grad, "gradients": whole, "bytes": sent.bytes}


def weights() -> Tensor:
    return torch.linspace(-1, 1, HEADS * EACH, dtype=torch.float64)


def work(folder: Path) -> dict[str, Any]:
    rank, found = dist.get_rank(), dict[str, Any]()
    mesh = init_device_mesh("cpu", (PROCESSES,), mesh_dim_names=("expert",))
    for case, sizes in ROWS.items():
        made = layer()
        made.add_module("experts", ExpertParallel(made.experts, mesh))
        found[case] = run(made, tokens(24).split(sizes)[rank])
    plain: Any = layer(experts=layer().experts.config.replace(inner_norm=False))
    use_slices(plain, 2)
    plain.add_module("experts", ExpertParallel(plain.experts, mesh))
    found["slices"] = [own.slices for own in plain.experts.own]
    for masked in (False, True):
        x, mask = tokens(12, HEADS).chunk(PROCESSES)[rank], some(12).chunk(PROCESSES)[rank] if masked else None
        found[f"heads, masked {masked}"] = run(HeadParallel(per_head(), mesh), x, mask)
    for top_k in (1, 2, 3):
        for to_one in (False, True):
            x = tokens(12, HEADS).chunk(PROCESSES)[rank]
            found[f"by heads {top_k} {to_one}"] = run(HeadParallel(per_head(top_k, to_one), mesh), x)["bytes"]
            made = layer(top_k)
            if to_one:
                torch.nn.init.zeros_(made.get_parameter("router.expert_embeddings"))  # all rows then choose alike
            made.add_module("experts", ExpertParallel(made.experts, mesh))
            found[f"by experts {top_k} {to_one}"] = run(made, x)["bytes"]
    for build, message in (
        (lambda: ExpertParallel(odd().experts, mesh), "num_experts=3 cannot be shared out"),
        (lambda: HeadParallel(odd(), mesh), "wants heads with routers of their own"),
    ):
        with pytest.raises(ValueError, match=message):
            build()
    return found


def odd() -> SparseMoE:
    config = layer().experts.config
    return layer(router=DotProductRouterConfig(dim=WIDTH, num_experts=3), experts=config.replace(num_experts=3))


def some(rows: int) -> Tensor:
    return (torch.arange(rows) % 3 != 1).unsqueeze(-1).expand(rows, HEADS)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together(work, tmp_path_factory.mktemp("two"), PROCESSES)


def test_a_process_computes_its_experts_in_the_slices_that_the_whole_had(two: list[dict[str, Any]]) -> None:
    assert [rank["slices"] for rank in two] == [[2], [2]]


def assert_same(ours: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    """Parameters that every process has get a part of the gradient in each; the mean of the parts is half the sum."""
    for name in ("hidden", "x"):
        assert torch.allclose(torch.cat([rank[name] for rank in ours]), expected[name], rtol=1e-10, atol=1e-12)
    names = {name for rank in ours for name in rank["gradients"]}
    assert names == expected["gradients"].keys()
    for name in names:
        found = [rank["gradients"][name] for rank in ours if name in rank["gradients"]]
        shared_out = name.startswith("experts.") or len(found) == 1
        mean = found[0] if shared_out else torch.stack(found).mean(dim=0)
        assert torch.allclose(mean, expected["gradients"][name] / PROCESSES, rtol=1e-10, atol=1e-12), name


@pytest.mark.parametrize("case", ROWS)
def test_experts_on_two_processes_give_the_outputs_and_gradients_of_one(two: list[dict[str, Any]], case: str) -> None:
    expected = run(layer(), tokens(24))
    assert_same([rank[case] for rank in two], expected)
    assert all(gradient.any() for gradient in expected["gradients"].values())


@pytest.mark.parametrize("masked", [False, True])
def test_heads_on_two_processes_give_the_outputs_and_gradients_of_one(two: list[dict[str, Any]], masked: bool) -> None:
    expected = run(per_head(), tokens(12, HEADS), some(12) if masked else None)
    assert_same([rank[f"heads, masked {masked}"] for rank in two], expected)


def test_head_parallel_sends_as_many_bytes_whatever_the_routing_and_the_number_of_experts_chosen(
    two: list[dict[str, Any]],
) -> None:
    """Half of 6 tokens of 4 sub-tokens of 8 doubles, four times: there and back, forward and backward."""
    found = {rank[f"by heads {top_k} {to_one}"] for rank in two for top_k in (1, 2, 3) for to_one in (False, True)}
    assert found == {4 * 6 * HEADS * WIDTH * 8 // 2}


def test_what_expert_parallelism_sends_depends_on_both(two: list[dict[str, Any]]) -> None:
    """So that the count above is one that could have differed."""
    for rank in two:
        evenly, to_one = ([rank[f"by experts {top_k} {case}"] for top_k in (1, 2, 3)] for case in (False, True))
        assert evenly == sorted(set(evenly)) and to_one == sorted(set(to_one)) and evenly != to_one
