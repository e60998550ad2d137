"""Figure 4: validation perplexity along training, of a pre-training task.

Paper (v1, Figure 4): with 8 and with 32 experts MH-MoE's curve lies below X-MoE's, and X-MoE's below the
dense model's, at every step; v1 concludes that MH-MoE learns more efficiently. Its curves end at the
values of Table 1. The runs are Table 1's: nothing is trained for this figure alone.
"""

from analysis.claims.rules import Claim
from experiments.claims import lower
from experiments.kinds.curves import Curves
from experiments.layers import HEADS
from experiments.systems import dense, mhmoe, xmoe
from mhmoe.layers.matching import Matching

SPENT = {"tokens": "tokens", "flops": "training FLOPs"}


def figure4(task: str, *, slug: str, title: str, where: str = "") -> Curves:
    """The figure of a task that the paper draws; `where` ends the sentence of every claim."""

    def faster(experts: int, matching: Matching, cost: str, top_k: int = 1) -> Claim:
        other = f"X-MoE, {experts} experts" + (f", k = {top_k}" if top_k > 1 else "")
        reached = f"reaches the final loss of {other} with fewer {SPENT[cost]}{where}"
        source = "v1 Figure 4" if cost == "tokens" and top_k == 1 else "ours"
        ours = mhmoe(experts, matching)
        return lower(
            f"MH-MoE, {experts} experts, `{matching}`, {reached}", source, ours, xmoe(experts, top_k), metric=cost
        )

    return Curves(
        slug=slug,
        title=title,
        task=task,
        panels={
            "8 experts": {
                "Dense": dense(),
                "X-MoE": xmoe(8),
                f"X-MoE, k = {HEADS} (control)": xmoe(8, top_k=HEADS),
                "MH-MoE, equal parameters": mhmoe(8, "parameters"),
                "MH-MoE, equal FLOPs": mhmoe(8, "compute"),
            },
            "32 experts": {
                "Dense": dense(),
                "X-MoE": xmoe(32),
                "MH-MoE, equal parameters": mhmoe(32, "parameters", seeds=3),
                "MH-MoE, equal FLOPs": mhmoe(32, "compute", seeds=3),
            },
        },
        claims=(
            *(faster(n, r, c) for n in (8, 32) for r in ("parameters", "compute") for c in SPENT),
            faster(8, "parameters", "tokens", HEADS),
        ),
        notes=("Seconds are shown and not judged: runs shared their machine with others.",),
    )
