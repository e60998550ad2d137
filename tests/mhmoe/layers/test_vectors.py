"""The published test vectors are what the code does, and what the script writes."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from mhmoe.layers.config import config_from_dict
from tests import reference
from tests.mhmoe.layers.vectors.make import CASES, FILE, vectors

COMMITTED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", COMMITTED["cases"])
def test_the_layers_reproduce_the_committed_vectors(name: str) -> None:
    case = COMMITTED["cases"][name]
    expected = case["expected"]
    layer = config_from_dict(case["config"]).build()
    layer.load_state_dict({k: torch.tensor(w) for k, w in case["weights"].items()})
    x = torch.tensor(case["x"], requires_grad=True)
    output = layer(x, torch.tensor(case["mask"]))
    loss = (output.hidden * torch.tensor(case["output_gradient"])).sum()
    (loss + COMMITTED["balance_weight"] * output.balance_loss).backward()

    assert output.routing.index.flatten(0, -2).tolist() == expected["index"]
    found = {"hidden": output.hidden, "balance_loss": output.balance_loss, "x_gradient": x.grad}
    found["probabilities"] = output.routing.probabilities.flatten(0, -2)
    assert reference.error(output.hidden, exact(expected["hidden"])) < 2e-6
    for key, tensor in found.items():
        assert tensor is not None and reference.error(tensor, exact(expected[key])) < 1e-5, key
    gradients = {k: p.grad for k, p in layer.named_parameters()}
    assert gradients.keys() == expected["weight_gradients"].keys()
    for key, gradient in gradients.items():
        assert gradient is not None, key
        assert reference.error(gradient, exact(expected["weight_gradients"][key])) < 1e-5, key


def test_the_script_writes_the_committed_file_again() -> None:
    made, committed = list(leaves(vectors())), list(leaves(COMMITTED))
    assert [path for path, _ in made] == [path for path, _ in committed]
    for (path, new), (_, old) in zip(made, committed, strict=True):
        assert new == (pytest.approx(old, rel=1e-6, abs=1e-9) if isinstance(old, float) else old), path


def test_the_file_is_small_and_its_cases_are_not_trivial() -> None:
    assert FILE.stat().st_size < 100_000
    assert COMMITTED["cases"].keys() == CASES.keys()
    for name, case in COMMITTED["cases"].items():
        chosen = {expert for row in case["expected"]["index"] for expert in row}
        assert len(chosen) > 1, f"{name} uses one expert alone"
        for key, gradient in case["expected"]["weight_gradients"].items():
            assert exact(gradient).norm() > 1e-3, f"{name}: {key} has no gradient to speak of"


def exact(values: Any) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield path, value
    else:
        for key, inner in items:
            yield from leaves(inner, f"{path}/{key}")
