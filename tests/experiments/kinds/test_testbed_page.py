"""What systems cover of the distance from no layer to X-MoE, and where that is nothing to speak of."""

import math
from typing import Any

import pytest

from experiments.kinds.testbed import covered_by
from experiments.testbed import PUBLISHED
from mhmoe.training.record import Record
from tests.fake_records import record


def shares(xmoe: tuple[float, ...], dense: float) -> dict[str, Any]:
    """Of no layer, which ends at 4.5 nats, X-MoE by seed, and Dense."""
    n = len(xmoe)
    nlls = {PUBLISHED.null.name: (4.5,) * n, PUBLISHED.few.name: xmoe, PUBLISHED.dense.name: (dense,) * n}
    current: dict[str, list[Record]] = {system.name: [] for system in PUBLISHED.systems}
    for name, of in nlls.items():
        for seed, nll in enumerate(of):
            made = record("any", seed)
            made.metrics["test"]["nll_per_token"] = nll
            current[name].append(made)
    return {row["label"]: row for row in covered_by(PUBLISHED, current)}


@pytest.mark.parametrize("xmoe", [(4.3,), (4.3, 4.3, 4.3)])
def test_a_system_covers_its_share_of_the_distance(xmoe: tuple[float, ...]) -> None:
    rows = shares(xmoe, dense=4.35)
    dense = rows[PUBLISHED.dense.label]
    assert dense["change"] == pytest.approx(75) and dense["perplexity"] == pytest.approx(math.exp(4.35))
    assert rows[PUBLISHED.few.label]["change"] == pytest.approx(100)


def test_of_a_distance_that_may_be_nothing_no_share_is_told() -> None:
    rows = shares((4.3, 4.6, 4.5), dense=4.35)
    assert math.isnan(rows[PUBLISHED.dense.label]["change"]) and rows[PUBLISHED.dense.label]["n"] == 3
