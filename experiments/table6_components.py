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
from experiments.claims import lower
from experiments.kinds.table import Row, Table
from experiments.paper import paper_pair
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe
from experiments.testbed import TUNED
from experiments.tuning import at_best, mhmoe_at, tuned

PRINTED = ("v1_table6_components", "rows")
SIZED = "mhmoe_{}_compute"  # at whose best settings the tuned rows are

_SYSTEMS = (
    dense(),
    with_layers(dense()),
    xmoe(8),
    with_layers(xmoe(8)),
    mhmoe(8, "parameters", heads=1),
    mhmoe(8, "parameters", layers=0),
    mhmoe(8, "parameters"),
)  # in the order of the paper's rows
PAPER = {system.name: (*PRINTED, row, "perplexity") for row, system in enumerate(_SYSTEMS)}
_COMPUTE = (mhmoe(8, "compute", heads=1), mhmoe(8, "compute", layers=0), mhmoe(8, "compute"))
_TUNED = (
    at_best(SIZED, "xmoe_8_there", "X-MoE, 8 experts, k = 2, set like MH-MoE", lambda point: xmoe(8, 2), seeds=3),
    at_best(
        SIZED, "xmoe_8_mlp", "X-MoE, 8 experts, k = 2, with MLP layers", lambda point: with_layers(xmoe(8, 2)), seeds=3
    ),
    at_best(
        SIZED,
        "mhmoe_8_compute_h1",
        "MH-MoE without splitting, h = 1",
        lambda point: mhmoe_at(point, "compute", heads=1),
        seeds=3,
    ),
    at_best(
        SIZED,
        "mhmoe_8_compute_n0",
        "MH-MoE without MLP layers",
        lambda point: mhmoe_at(point, "compute", layers=0),
        seeds=3,
    ),
    tuned(SIZED),
)


def _below(statement: str, better: System, worse: System) -> Claim:
    paper = paper_pair(PAPER.get(better.name, ()), PAPER.get(worse.name, ()))
    source = "v1 Table 6" if paper else "v2 Table 4, for v1's Table 6"
    sized = f" (`{better.matching}`)" if better.matching else ""
    return lower(statement + sized, source, better, worse, paper=paper)


PAGE = Table(
    slug="table6_components",
    title="Table 6: test perplexity with and without MLP layers, with and without splitting",
    rows=(
        *(Row(system=system, paper=PAPER[system.name]) for system in _SYSTEMS),
        *(Row(system=system) for system in _COMPUTE),
        *(Row(system=system, reference=_TUNED[0].name) for system in (TUNED.dense, TUNED.few, *_TUNED)),
    ),
    reference="xmoe_8",
    claims=(
        _below("MLP layers alone do not help Dense: it lies below Dense with them", *_SYSTEMS[:2]),
        _below("MLP layers lower X-MoE's perplexity", _SYSTEMS[3], _SYSTEMS[2]),
        *(
            claim
            for unsplit, bare, whole in (_SYSTEMS[4:], _COMPUTE)
            for claim in (
                _below("Splitting alone lies below X-MoE", bare, _SYSTEMS[2]),
                _below("MLP layers help MH-MoE", whole, bare),
                _below("Splitting helps MH-MoE", whole, unsplit),
            )
        ),
        _below("Tuned: splitting alone lies below X-MoE", _TUNED[3], _TUNED[0]),
        _below("Tuned: MLP layers help MH-MoE", _TUNED[4], _TUNED[3]),
        _below("Tuned: splitting helps MH-MoE", _TUNED[4], _TUNED[2]),
    ),
)
