"""Sensitivity: does one of our choices decide how MH-MoE stands against X-MoE?

One thing is changed at a time, in all systems alike, with one seed and the learning rate of the unchanged
system (another width has its own): a screening, not a verdict. v1 leaves most of these open or contradicts
itself on them (the router's form, k, the inner residual, dropping), the rates are ours.
No table of the paper. Cost: cpu about an hour and a half on two cores.
Run: python -m experiments run sensitivity
"""

from collections.abc import Callable
from typing import Any

from experiments.changed_systems import ablate, with_lr_of
from experiments.kinds.sensitivity import Sensitivity, Variation
from experiments.system import System
from experiments.systems import mhmoe, xmoe
from mhmoe.layers.routers import FixedTemperatureRouterConfig, ReleasedRouterConfig, RouterConfig
from mhmoe.layers.sparse_moe import ResidualConfig, SparseMoEConfig

SYSTEMS = {
    "X-MoE": xmoe(8),
    "MH-MoE, `parameters`": mhmoe(8, "parameters"),
    "MH-MoE, `compute`": mhmoe(8, "compute"),
}


def _all(label: str, name: str, **changes: Any) -> Variation:
    return Variation(label=label, systems=[ablate(system, name, label, **changes) for system in SYSTEMS.values()])


def _router(kind: type[RouterConfig]) -> Callable[[SparseMoEConfig], SparseMoEConfig]:
    def change(moe: SparseMoEConfig) -> SparseMoEConfig:
        old = moe.router
        return moe.replace(router=kind(dim=old.dim, num_experts=old.num_experts, top_k=old.top_k))

    return change


def _heads_alone(label: str, name: str, **changes: Any) -> Variation:
    with_heads = list(SYSTEMS.values())[1:]
    systems: list[System | None] = [None, *(ablate(system, name, label, **changes) for system in with_heads)]
    return Variation(label=label, systems=systems)


PAGE = Sensitivity(
    slug="sensitivity",
    title="Sensitivity: test perplexity when one choice is changed",
    systems=SYSTEMS,
    variations=(
        Variation(
            label="k = 2",
            systems=(
                xmoe(8, top_k=2),
                with_lr_of(mhmoe(8, "parameters", top_k=2), mhmoe(8, "parameters")),
                with_lr_of(mhmoe(8, "compute", top_k=2), mhmoe(8, "compute")),
            ),
        ),
        _all("router of the released code", "released", moe=_router(ReleasedRouterConfig)),
        _all("router with a fixed temperature", "fixed", moe=_router(FixedTemperatureRouterConfig)),
        _heads_alone("residual inside (Eq. 6)", "residual", moe=lambda moe: ResidualConfig(inner=moe)),
        _all("balance weight 0", "balance0", model={"balance_weight": 0.0}),
        _all("balance weight 0.001", "balance0.001", model={"balance_weight": 0.001}),
        _all("balance weight 0.1", "balance0.1", model={"balance_weight": 0.1}),
        _all("capacity 1.0 in training alone", "capacity1", moe=lambda moe: moe.replace(capacity_factor=1.0)),
        _all("half the learning rate", "halfrate", lr_multiplier=0.5),
        _all("twice the learning rate", "doublerate", lr_multiplier=2.0),
        _heads_alone("rates of the down matrices by width", "downrate", training={"mup_scaled": ("down_proj",)}),
        _heads_alone(
            "rates of up and down matrices by width", "bothrates", training={"mup_scaled": ("up_proj", "down_proj")}
        ),
        *(
            Variation(
                label=f"width {width}",
                systems=(
                    xmoe(8, width=width, seeds=2),
                    mhmoe(8, "parameters", width=width, seeds=2),
                    mhmoe(8, "compute", width=width, seeds=2),
                ),
            )
            for width in (48, 192)
        ),
    ),
    notes=(
        "Rates by width: a matrix of a feed-forward network learns at the rate times the input width that it has in "
        "v1's network (d, 4d) over its own, as muP asks of Adam. X-MoE's matrices have those widths, so nothing "
        "changes there.",
        "Capacity: an expert takes its even share of a batch at most, and the rest is dropped, in training alone. "
        "Evaluation drops nothing, nor does it in the authors' evaluation scripts.",
    ),
)
