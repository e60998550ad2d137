"""Routers, overflow policies and balance losses through torch.compile, as one graph: same routing, same gradients.

But for the routers of low dimension, which test_multi_head.py compiles in whole layers.
"""

import json

from tests.commands import program

COMPILED = """
import json
import torch
from mhmoe import ExpertChoiceConfig, ExpertsConfig, SparseMoEConfig
from mhmoe.layers import config as configs
from mhmoe.layers.balance import LOSSES
from mhmoe.layers.capacity import OVERFLOW
from mhmoe.layers.routing import RouterConfig
torch.set_num_threads(1)
torch._dynamo.config.recompile_limit = 1000
kinds = configs._KINDS.items()
routers = {k: c for k, c in kinds if issubclass(c, RouterConfig) and not hasattr(c, "router_dim")}
routers.pop("per_head_router", None)
layers = {}


class RouterAlone(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        layer = config.build()
        self.router, self.balance = layer.router, layer.balance

    def forward(self, x, mask):
        routing = self.router(x, mask)
        return routing.weight, self.balance(routing, mask), routing


for kind, cls in routers.items():
    router = cls(dim=8, num_experts=6, top_k=2)
    parts = dict(router=router, experts=ExpertsConfig(dim=8, num_experts=6, expert_dim=4))
    losses = tuple((name, 0.5) for name, loss in LOSSES.items() if router.scores_all or not loss.needs_scores)
    layers[kind] = SparseMoEConfig(**parts, balance=losses)
    if kind == "dot_product_router":
        layers["expert choice"] = ExpertChoiceConfig(**parts)
        for overflow in OVERFLOW:
            layers[overflow] = SparseMoEConfig(**parts, capacity_factor=0.8, overflow=overflow)
found = {}
for name, config in layers.items():
    torch.manual_seed(0)
    layer = (RouterAlone(config) if name in routers else config.build()).train(name not in routers)
    x, mask = torch.randn(3, 7, 8), torch.rand(3, 7) < 0.8
    results = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        rows = x.clone().requires_grad_()
        layer.zero_grad()
        hidden, loss, routing = run(rows, mask)
        (hidden.square().sum() + loss).backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        results.append([hidden, loss, rows.grad, routing.index.float(), routing.kept.float(), *gradients])
    found[name] = max(float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-9)) for a, b in zip(*results))
print(json.dumps(found))
"""


def test_torch_compile_takes_every_router_and_policy_as_one_graph() -> None:
    """In a process of its own: the checks of shapes that tests run under are not made for tracing."""
    done = program(COMPILED).wait()
    assert done.code == 0, done.err
    found = json.loads(done.out.splitlines()[-1])
    assert found.keys() >= {"grouped_router", "balanced_router", "next", "expert choice"}
    assert max(found.values()) < 1e-5, found
