"""The page of routing costs: its exponents are those of what was measured."""

import pytest

from benchmarks.routing_speed import NUM_EXPERTS, exponent, markdown


def test_the_exponent_of_a_power_is_found_whatever_its_factor() -> None:
    assert exponent([(n, 3 * n**0.5) for n in (16, 64, 1024)]) == pytest.approx(0.5)


def test_the_page_of_routing_tells_both_routers_growth() -> None:
    rows = [
        {"router": name, "num_experts": n, "flops_per_row": n, "seconds": [1e-3 * n**power] * 3}
        for name, power in (("flat", 1.0), ("two-level", 0.5))
        for n in NUM_EXPERTS
    ]
    source = {"versions": {"torch": "2"}, "command": "c", "commit": "0" * 40}
    page = markdown({"cpu": "a CPU", "provenance": source, "dim": 8, "rows_per_batch": 4, "rows": rows})
    assert "two-level: time grows with exponent 0.50 over all, 0.50 from the middle up." in page
    assert "flat: time grows with exponent 1.00" in page and "| 1024" in page
