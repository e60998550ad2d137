"""A scale at which all of Table 1 takes seconds, and experiments cut down to it."""

import dataclasses
from typing import Any

from analysis.measured_claims import MeasuredClaim
from experiments.measurements import MEASUREMENTS, measured
from experiments.running import Options
from experiments.runs import Records
from experiments.scales import CPU
from experiments.schema import Scale, System, WordsFigure
from mhmoe.packing import PackingConfig

MINI = dataclasses.replace(
    CPU,
    name="mini",
    purpose="tests",
    model={
        "vocab_size": 300,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
    },
    packing=PackingConfig(
        vocab_size=300,
        max_train_tokens=5000,
        tokenizer_characters=20_000,
        max_valid_tokens=400,
        max_test_tokens=400,
    ),
    training={"steps": 2, "batch_sequences": 4, "length": 16, "evaluations": 2, "evaluation_windows": 8},
    learning_rates=(0.01, 0.02),
    tuning_share=1 / 2,
    seeds=(1,),
)


def at_rate(scale: Scale, rate: float) -> Scale:
    """The scale with this one learning rate, so that nothing needs tuning."""
    return dataclasses.replace(scale, learning_rates=(rate,))


def of_one_system(figure: WordsFigure, label: str, system: System) -> WordsFigure:
    """The figure and the claims of `label`, of another system, which may have fewer heads for its size."""
    claims = [
        dataclasses.replace(
            claim,
            higher=dataclasses.replace(claim.higher, system=system.name),
            lower=dataclasses.replace(claim.lower, system=system.name),
        )
        for claim in figure.claims
        if isinstance(claim, MeasuredClaim) and claim.statement.startswith(f"{label}: ")
    ]
    return dataclasses.replace(figure, systems={label: system}, claims=claims)


def measured_by_seed(name: str, scale: Scale, options: Options) -> dict[int, dict[str, Any]]:
    """The values of a measurement, of the one system that was run."""
    records = Records(scale, options.results).by_name.values()
    found = {r.seed: measured(MEASUREMENTS[name], r, options.results) for r in records}
    return {seed: m.values for seed, m in found.items() if m is not None}
