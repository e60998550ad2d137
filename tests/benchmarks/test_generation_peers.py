"""Generation beside Mixtral: one function in two implementations, so that times are of the same work."""

import pytest
import torch

from benchmarks.generation_peers import IMPLEMENTATIONS, OURS, QUICK, generate, markdown, mixtral, ours


def test_ours_and_mixtral_by_every_implementation_give_the_same_logits_and_tokens() -> None:
    torch.manual_seed(0)
    mine, prompt = ours(QUICK, 8), torch.randint(1, QUICK["vocab_size"], (1, 16))
    with torch.no_grad():
        logits, tokens = mine(prompt).logits, generate(mine, prompt, 8)
        for name in IMPLEMENTATIONS:
            theirs = mixtral(mine, name)
            assert theirs.config._experts_implementation == name
            assert torch.allclose(theirs(prompt).logits, logits, atol=1e-4)
            assert torch.equal(generate(theirs, prompt, 8), tokens)
    counts = [sum(p.numel() for p in model.parameters()) for model in (mine, theirs)]
    assert counts[0] == counts[1] == mine.config.parameters()


@pytest.mark.parametrize(
    ("seconds", "ratio", "verdict"),
    [
        ([2.0] * 4, "2.00 [2.00, 2.00]", "yes"),
        ([0.5] * 4, "0.50 [0.50, 0.50]", "no"),
        ([2.0], "2.00", "not told"),  # a slow model has one round
        ([0.6, 0.9, 1.3, 1.8], "1.10 [0.60, 1.80]", "not told"),
    ],
)
def test_the_page_says_how_many_times_as_long_mixtral_takes(seconds: list[float], ratio: str, verdict: str) -> None:
    def row(label: str, taken: list[float]) -> dict[str, object]:
        return {
            "num_experts": 8,
            "label": label,
            "parameters": 10**6,
            "seconds": {"generate": [each + 1.0 for each in taken], "read": [1.0] * len(taken)},
        }

    source = {"versions": {"torch": "2"}, "command": "c", "commit": "0" * 40, "started": "2020-01-01", "dirty": True}
    rows = [row(OURS, [1.0] * 4), row("Mixtral, eager", seconds)]
    data = {"cpu": "a CPU", "provenance": source, "sizes": QUICK, "generated": 32, "rows": rows, "quick": False}
    page = markdown(data)
    assert "commit 000000000000 with local changes; 2020-01-01; `c`" in page
    first, second = (line for line in page.splitlines() if line.startswith("|       8"))
    assert "31.0" in first and f" {ratio} " in second and second.rstrip("| ").endswith(verdict)
