"""Table 11 and Appendix D: parameters and cost of every model the paper prints, and where it contradicts itself.

Paper (v1, Table 11): millions of parameters outside the experts, in them, and in all, for three tasks and 8 to
256 experts. The widths of MH-MoE's experts are not printed; they follow from its expert column (layers.py).
Nothing is run. Run: make reproduce-table11
"""

from experiments.kinds.printed_sizes import PrintedModel, PrintedSizes
from experiments.layers import TABLE11_EXPERTS
from experiments.paper import paper_numbers
from experiments.systems import dense, mhmoe, xmoe

PRINTED = "v1_table11_parameters_millions"
TASKS = ("english", "multilingual", "multimodal")


def _models(task: str) -> list[PrintedModel]:
    printed = paper_numbers()[PRINTED][task]
    systems = {"xmoe": xmoe, "mhmoe": lambda n: mhmoe(n, "parameters")}
    language = task != "multimodal"
    return [
        PrintedModel(task=task, label="Dense", system=dense() if language else None, paper=(PRINTED, task, "dense")),
        *(
            PrintedModel(
                task=task,
                label=f"{'X-MoE' if kind == 'xmoe' else 'MH-MoE'}, {experts} experts",
                system=of(int(experts)) if language else None,
                paper=(PRINTED, task, kind, experts),
            )
            for kind, of in systems.items()
            for experts in printed[kind]
        ),
    ]


PAGE = PrintedSizes(
    slug="table11_parameters",
    title="Table 11: parameters and cost, ours beside the printed ones",
    models=[model for task in TASKS for model in _models(task)],
    experts=TABLE11_EXPERTS,
    notes=(
        "MH-MoE's expert column fits by construction: the width of its experts is solved from it, as no other "
        'statement of the paper gives that column. The other two columns are free to differ. "As printed" below is '
        "the equation's width, 4 beta d, with the beta of equal parameters solved here, and no model of this table.",
        "The multimodal models are not determined by the paper: it names a BEiT-3 encoder, and neither its blocks, "
        "its vocabulary nor which networks of which modality become experts. What the printed numbers themselves "
        "say stands among the errata.",
    ),
)
