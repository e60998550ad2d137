"""What docs/systems.md says of the systems is what their configs give."""

import importlib
import re
from pathlib import Path

import pytest

from baselines.counting import Published
from mhmoe.layers.sparse_moe import SparseMoEConfig
from tests.small import make, tokens, xmoe

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "systems.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| \[.*$", PAGE.partition("## Widespread")[0], flags=re.MULTILINE)


def model(system: str, name: str) -> Published:
    return importlib.import_module(f"baselines.{system}").published()[name]


@pytest.mark.parametrize(
    ("system", "name", "row", "shown"),
    [
        ("densely_gated", "MoE-4", "Densely gated", "{total_m:.1f}M"),
        ("hierarchical", "MoE-4096-h", "Hierarchical", "{total_m:,.1f}M"),
        ("gshard", "MoE(2048E, 36L)", "GShard", "{total:.0f}B"),
        ("switch", "Switch-Base", "Switch", "{total:.1f}B"),
        ("switch", "Switch-C", "Switch", "{total:,.0f}B"),
        ("glam", "GLaM 64B/64E", "GLaM", "{total_t:.2f}T, {active:.1f}B"),
        ("deepseekmoe", "DeepSeekMoE 16B", "DeepSeekMoE", "{total:.1f}B, {active:.1f}B"),
        ("mixtral", "Mixtral 8x7B", "Mixtral", "{total:.1f}B, {active:.1f}B"),
        ("grok1", "Grok-1", "Grok-1", "{total:.1f}B"),
        ("jamba", "Jamba", "Jamba", "{total:.1f}B, {active:.1f}B"),
        ("latentmoe", "Nemotron 3 Super, mixtures", "LatentMoE]", "{total:.1f}B"),
        ("latentmoe", "Kimi K3, mixtures", "LatentMoE of", "{total_t:.2f}T"),
    ],
)
def test_our_parameters_on_the_page_are_those_that_the_sizes_give(system: str, name: str, row: str, shown: str) -> None:
    total, active = (
        count / 1e9 for count in (model(system, name).parameters(), model(system, name).active_parameters())
    )
    expected = shown.format(total=total, active=active, total_m=1000 * total, total_t=total / 1000)
    (line,) = (line for line in ROWS if line.startswith(f"| [{row}"))
    assert f"({expected})" in line


def test_every_system_has_its_row() -> None:
    files = {path.stem for path in (ROOT / "baselines").glob("*.py")} - {"__init__", "counting", "dense"}
    squeezed = [re.sub(r"[^a-z0-9]", "", line.lower().split("](")[0]) for line in ROWS]
    lacking = {name for name in files if not any(name.replace("_", "") in line for line in squeezed)}
    assert lacking == set()


def test_the_key_value_cache_is_as_large_with_many_experts_as_with_few() -> None:
    few, ids = xmoe(), tokens(1, 9)
    many = SparseMoEConfig(router=few.router.replace(num_experts=32), experts=few.experts.replace(num_experts=32))
    sizes: list[int] = []
    for moe in (few, many):
        cache = make("xmoe", moe=moe)(ids, use_cache=True).past_key_values
        sizes.append(sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers))
    assert sizes[0] == sizes[1] == 2 * 2 * 9 * 24  # keys and values of 2 layers, 9 tokens, width 24
    assert many.parameters() > 7 * few.parameters()
