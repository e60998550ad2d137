"""The page of routing costs: its exponents are those of what was measured."""

import random

import pytest

from benchmarks.routing_speed import NUM_EXPERTS, exponent, exponents, markdown


def test_the_exponent_of_a_power_is_found_whatever_its_factor() -> None:
    assert exponent([(n, 3 * n**0.5) for n in (16, 64, 1024)]) == pytest.approx(0.5)


def test_the_page_of_routing_tells_both_routers_growth() -> None:
    rows = [
        {"router": name, "num_experts": n, "flops_per_row": n, "seconds": [1e-3 * n**power] * 3}
        for name, power in (("flat", 1.0), ("two-level", 0.5))
        for n in NUM_EXPERTS
    ]
    source = {"versions": {"torch": "2"}, "command": "c", "commit": "0" * 40, "started": "2020-01-01"}
    page = markdown({"cpu": "a CPU", "provenance": source, "dim": 8, "rows_per_batch": 4, "rows": rows})
    squeezed = " ".join(page.split())
    assert "| two-level | time | 0.50 [0.50, 0.50] | 0.50 [0.50, 0.50] |" in squeezed
    assert "| flat | time | 1.00 [1.00, 1.00] |" in squeezed and "| 1024" in page
    assert "time grows like it, by 0.50" in squeezed


def test_the_interval_of_an_exponent_holds_what_noise_hides() -> None:
    draw = random.Random(0)
    rows = [
        {"router": "two-level", "num_experts": n, "seconds": [n**0.5 * draw.lognormvariate(0, 0.3) for _ in range(41)]}
        for n in NUM_EXPERTS
    ]
    found = exponents({"rows": rows}, "two-level", "seconds")
    assert found.low < 0.5 < found.high and 0.02 < found.high - found.low < 0.2
