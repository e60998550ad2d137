"""The benchmark of inference: equal parameters are equal, and the page's numbers are those of the seconds."""

import pytest

from benchmarks.generation_peers import seconds_per_token
from benchmarks.generation_speed import NUM_EXPERTS, QUICK, SIZES, generated_per_second, markdown, models


@pytest.mark.parametrize("sizes", [SIZES, QUICK], ids=["full", "quick"])
def test_the_dense_models_have_the_parameters_of_the_mixtures_within_a_percent(sizes: dict[str, int]) -> None:
    counts = {label: config.parameters() for label, config in models(sizes).items()}
    for num_experts in NUM_EXPERTS:
        dense = counts[f"dense, parameters of {num_experts} experts"]
        assert counts[f"X-MoE, {num_experts} experts"] == pytest.approx(dense, rel=0.01)
        assert counts[f"MH-MoE, {num_experts} experts, h = 4"] == pytest.approx(dense, rel=0.05)


def test_the_page_takes_the_prompts_time_off_and_compares_with_the_dense_model_above() -> None:
    def row(label: str, seconds: float) -> dict[str, object]:
        timed = {
            f"{what} {batch}": [1.0 + (what == "generate") * seconds] * 3
            for what in ("generate", "read")
            for batch in (1, 16)
        }
        return {"label": label, "parameters": 10**6, "active": 10**6, "flops": 10**6, "seconds": timed}

    assert generated_per_second(row("x", 0.5), 16, 8) == pytest.approx(16 * 7 / 0.5)
    rows = [row("dense, FLOPs of one expert", 0.1), row("dense, parameters of 8 experts", 0.5), row("X-MoE", 0.25)]
    source = {"versions": {"torch": "2"}, "command": "c", "commit": "0" * 40, "started": "2020-01-01"}
    data = {"cpu": "a CPU", "provenance": source, "sizes": SIZES, "generated": 8, "rows": rows}
    first, base, mixture = (line for line in markdown(data).splitlines() if line.startswith(("| dense", "| X-MoE")))
    assert [cell.strip() for cell in first.split("|")[8:10]] == ["-", "-"]
    assert [cell.strip() for cell in base.split("|")[8:10]] == ["-", "-"]
    assert "2.00 [2.00, 2.00]" in mixture and "28.0" in mixture


def test_a_model_that_generated_once_is_compared_with_the_prompt_of_that_round() -> None:
    row = {"seconds": {"generate 1": [9.0], "read 1": [2.0, 5.0], "generate": [9.0], "read": [2.0, 5.0]}}
    assert generated_per_second(row, 1, 8) == pytest.approx(1.0) == pytest.approx(seconds_per_token(row, 8))
