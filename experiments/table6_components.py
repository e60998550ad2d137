"""Table 6: what the MLP layers and what splitting and merging contribute, 8 experts.

Paper (v1, Table 6): Dense 16.23, with MLP layers 16.40; X-MoE 14.82, with MLP layers 14.77; MH-MoE without
splitting 14.77 (the model of the row before), without MLP layers 13.97, whole 12.72.
Here Dense and X-MoE get the layers on top, as in the paper, while every MH-MoE is of X-MoE's size: what is left
out of it goes into the experts. Further rows ask the same at equal FLOPs, as v2 does in its Table 4, the last ones
at the best settings that the search found for MH-MoE, X-MoE too, so that the parts alone differ.
Cost: cpu about forty minutes on two cores. Run: make reproduce-table6 SCALE=cpu
"""

from analysis.claims.rules import Claim
from experiments.changed_systems import with_layers
from experiments.kinds.table import Row, Table
from experiments.paper import paper_numbers
from experiments.systems import dense, mhmoe, xmoe
from experiments.testbed import TUNED
from experiments.tuning import at_best, mhmoe_at, tuned

PRINTED = ("v1_table6_components", "rows")
SIZED = "mhmoe_{}_compute"  # at whose best settings the tuned rows are
WHOLE, UNSPLIT, BARE = "mhmoe_8_{}", "mhmoe_8_{}_h1", "mhmoe_8_{}_n0"
PRINTED_ROWS = ("dense", "dense_mlp", "xmoe_8", "xmoe_8_mlp")
PRINTED_ROWS += tuple(name.format("parameters") for name in (UNSPLIT, BARE, WHOLE))


def _claim(better: str, worse: str, statement: str, matching: str = "") -> Claim:
    values = [row["perplexity"] for row in paper_numbers()[PRINTED[0]][PRINTED[1]]]
    printed = None
    if {better, worse} <= set(PRINTED_ROWS):
        printed = (values[PRINTED_ROWS.index(better)], values[PRINTED_ROWS.index(worse)])
    return Claim(
        arm="tuned" if better in {system.name for system in _TUNED} else "published",
        statement=statement + (f" (`{matching}`)" if matching else ""),
        source="v1 Table 6" if printed else "v2 Table 4, for v1's Table 6",
        better=better,
        worse=worse,
        matching=matching,
        paper=printed,
    )


_SYSTEMS = (
    dense(),
    with_layers(dense()),
    xmoe(8),
    with_layers(xmoe(8)),
    mhmoe(8, "parameters", heads=1),
    mhmoe(8, "parameters", layers=0),
    mhmoe(8, "parameters"),
)


_COMPUTE = (mhmoe(8, "compute", heads=1), mhmoe(8, "compute", layers=0), mhmoe(8, "compute"))
_TUNED = (
    at_best(SIZED, "xmoe_8_there", "X-MoE, 8 experts, k = 2, set like MH-MoE", lambda point: xmoe(8, 2), seeds=3),
    at_best(
        SIZED, "xmoe_8_mlp", "X-MoE, 8 experts, k = 2, with MLP layers", lambda point: with_layers(xmoe(8, 2)), seeds=3
    ),
    at_best(
        SIZED,
        UNSPLIT.format("compute"),
        "MH-MoE without splitting, h = 1",
        lambda point: mhmoe_at(point, "compute", heads=1),
        seeds=3,
    ),
    at_best(
        SIZED,
        BARE.format("compute"),
        "MH-MoE without MLP layers",
        lambda point: mhmoe_at(point, "compute", layers=0),
        seeds=3,
    ),
    tuned(SIZED),
)

PAGE = Table(
    slug="table6_components",
    title="Table 6: test perplexity with and without MLP layers, with and without splitting",
    rows=(
        *(Row(system=system, paper=(*PRINTED, i, "perplexity")) for i, system in enumerate(_SYSTEMS)),
        *(Row(system=system) for system in _COMPUTE),
        *(Row(system=system, reference=_TUNED[0].name) for system in (TUNED.dense, TUNED.few, *_TUNED)),
    ),
    reference="xmoe_8",
    claims=(
        _claim("dense", "dense_mlp", "MLP layers alone do not help Dense: it lies below Dense with them"),
        _claim("xmoe_8_mlp", "xmoe_8", "MLP layers lower X-MoE's perplexity"),
        *(
            claim
            for matching in ("parameters", "compute")
            for claim in (
                _claim(BARE.format(matching), "xmoe_8", "Splitting alone lies below X-MoE", matching),
                _claim(WHOLE.format(matching), BARE.format(matching), "MLP layers help MH-MoE", matching),
                _claim(WHOLE.format(matching), UNSPLIT.format(matching), "Splitting helps MH-MoE", matching),
            )
        ),
        _claim(_TUNED[3].name, _TUNED[0].name, "Tuned: splitting alone lies below X-MoE", "compute"),
        _claim(_TUNED[4].name, _TUNED[3].name, "Tuned: MLP layers help MH-MoE", "compute"),
        _claim(_TUNED[4].name, _TUNED[2].name, "Tuned: splitting helps MH-MoE", "compute"),
    ),
)
