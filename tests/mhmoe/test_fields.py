"""Every field of a config is held to its type and range, in one line, where the config is made."""

import dataclasses
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal, TypedDict

import jaxtyping
import numpy as np
import pytest
import torch

from mhmoe.fields import Count, Range, check_fields
from mhmoe.from_json import from_json
from mhmoe.layers import config as configs
from mhmoe.layers.absent import AbsentConfig
from mhmoe.layers.beside import BesideConfig
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.latent import LatentConfig
from mhmoe.layers.multi_head import multi_head_moe
from mhmoe.layers.normed import NormedConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import RouterConfig, XMoERouterConfig


@pytest.fixture(autouse=True)
def _without_beartype(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which refuses other types first, in tests alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@dataclass(frozen=True, kw_only=True)
class Example:
    count: Count = 1
    rate: Annotated[float, Range(above=0, below=1)] = 0.5
    limit: Annotated[float, Range(least=0, most=10)] | None = None
    flag: bool = False
    manner: Literal["a", "b"] = "a"
    pair: tuple[float, float] = (0.0, 1.0)
    names: tuple[str, ...] = ()
    free: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def str_or_type(value: Any) -> str:
    return str(value)[:20] if isinstance(value, str | float) else type(value).__name__


BIG = 10**5000  # python refuses to write it out

REFUSED: dict[str, list[Any]] = {
    "count": [0, -1, 1.0, 1.5, math.nan, math.inf, True, "1", None, [1], np.float32(1), np.array([1, 2])],
    "rate": [0, 1, 1.0, -0.1, math.nan, math.inf, -math.inf, True, "0.5", None, 1j, BIG, torch.tensor(0.5)],
    "limit": [-1e-9, 10.1, math.inf, math.nan, False, "none", BIG, -BIG],
    "flag": [0, 1, 2, None, "True", np.True_],
    "manner": ["c", "A", 0, None, ["a"], b"a"],
    "pair": [(1.0,), (1.0, 2.0, 3.0), 1.0, "ab", (1.0, "b"), (1.0, math.nan), (True, 1.0), None],
    "names": ["ab", (1,), None, {"a": 1}],
    "free": [[], "{}", 1],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f, values in REFUSED.items() for v in values], ids=str_or_type)
def test_a_wrong_value_is_refused_in_one_short_line_that_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}=.* is not allowed; it must be ") as caught:
        Example(**{field: value})
    message = str(caught.value)
    assert "\n" not in message and len(message) < 200


@pytest.mark.parametrize(
    ("field", "value", "plain"),
    [
        ("count", np.int64(3), 3),
        ("count", 10**30, 10**30),
        ("rate", np.float32(0.5), 0.5),
        ("rate", np.float64(0.25), 0.25),
        ("rate", Fraction(1, 2), 0.5),
        ("limit", 3, 3.0),
        ("limit", np.int8(10), 10.0),
        ("pair", [0, np.int64(2)], (0.0, 2.0)),
        ("names", ["x", "y"], ("x", "y")),
        ("free", {"any": [1]}, {"any": [1]}),
    ],
)
def test_harmless_other_types_become_plain_ones(field: str, value: Any, plain: Any) -> None:
    found = getattr(Example(**{field: value}), field)
    assert found == plain and type(found) is type(plain)
    json.dumps(found)


def test_the_range_alone_is_named_where_only_the_range_is_missed() -> None:
    with pytest.raises(ValueError, match=r"^limit=11 is not allowed; it must be at least 0 and at most 10, or None$"):
        Example(limit=11)
    with pytest.raises(
        ValueError, match=r"^limit='x' .* it must be a finite number, at least 0 and at most 10, or None$"
    ):
        Example(limit="x")  # pyright: ignore


LAYER = multi_head_moe(dim=8, moe_heads=2, num_experts=4, expert_dim=5, inner_residual=True)
MOE: Any = LAYER.inner.inner  # pyright: ignore[reportAttributeAccessIssue]
CONFIGS = (
    LAYER,
    LAYER.inner,
    MOE,
    MOE.experts,
    FeedForwardConfig(dim=4, inner_dim=3),
    NormedConfig(inner=MOE),
    BesideConfig(shared=FeedForwardConfig(dim=4, inner_dim=3), routed=MOE),
    DenseMixtureConfig(router=MOE.router.replace(top_k=4), experts=MOE.experts),
    HierarchicalMoEConfig(router=MOE.router, inner=MOE),
    LatentConfig(dim=8, inner=MOE, route_by="latent"),
    AbsentConfig(dim=4),
    ExpertChoiceConfig(router=MOE.router, experts=MOE.experts),
    PerHeadRouterConfig.of(MOE.router, 2),
    *(
        kind(dim=4, num_experts=4)
        for kind in configs._KINDS.values()
        if issubclass(kind, RouterConfig) and kind is not PerHeadRouterConfig
    ),
)
NEVER = (math.nan, math.inf, -math.inf, 1.5, 10**30, -1, "1", b"", [], {}, object(), torch.tensor(1), np.array([1]))


def test_every_field_of_every_layer_config_refuses_what_it_cannot_be() -> None:
    assert {config.kind for config in CONFIGS} == configs._KINDS.keys()
    for config in CONFIGS:
        for field in dataclasses.fields(config):
            numeric = isinstance(getattr(config, field.name), float) or field.name == "capacity_factor"
            for value in (*NEVER, *(() if isinstance(getattr(config, field.name), bool) else (True,))):
                if numeric and value == 1.5:
                    continue
                if isinstance(getattr(config, field.name), tuple) and isinstance(value, list) and not value:
                    continue  # a tuple of nothing
                expected = rf"^{config.kind}\.{field.name}=.* is not allowed; it must be "
                with pytest.raises(ValueError, match=expected) as caught:
                    config.replace(**{field.name: value})
                assert "\n" not in str(caught.value)


def test_equal_configs_are_equal_in_json_whatever_numbers_they_were_made_of() -> None:
    plain = XMoERouterConfig(dim=4, num_experts=4, temperature=1.0)
    foreign = XMoERouterConfig(dim=np.int64(4), num_experts=np.uint8(4), temperature=np.float32(1))  # pyright: ignore
    assert json.dumps(foreign.to_dict()) == json.dumps(plain.to_dict())
    assert json.dumps(plain.replace(temperature=1).to_dict()) == json.dumps(plain.to_dict())


# ---- JSON -----------------------------------------------------------------------------------


class Row(TypedDict):
    name: str
    size: Count


@dataclass(frozen=True, kw_only=True)
class Inner:
    pair: tuple[int, float]
    column: list[Annotated[float, Range(least=0)]]
    hashes: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Outer:
    inner: Inner
    maybe: Inner | None
    by_name: dict[str, Inner]
    rows: list[Row]
    anything: Any = None


INNER = Inner(pair=(1, 2.5), column=[0.0, 3.0], hashes={"a": "b"})
OUTER = Outer(inner=INNER, maybe=None, by_name={"x": INNER}, rows=[{"name": "a", "size": 1}, {"name": "b", "size": 2}])


def as_json() -> Any:
    return json.loads(json.dumps(dataclasses.asdict(OUTER)))


def test_what_was_written_as_json_is_read_as_the_very_same() -> None:
    assert from_json(Outer, as_json()) == OUTER
    filled = dataclasses.replace(OUTER, maybe=INNER)
    assert from_json(Outer, json.loads(json.dumps(dataclasses.asdict(filled)))) == filled
    given = from_json(Outer, {**as_json(), "anything": dataclasses.asdict(INNER)}, anything=Inner)
    assert given.anything == INNER


WRONG: list[tuple[str, Any, str]] = [
    ("inner", 1, "inner is a int; it must have pair, column, hashes"),
    ("maybe", {"pair": [1, 2.5]}, r"maybe: unknown fields \[\], missing fields \['column', 'hashes'\]"),
    (
        "by_name",
        {"x": {**dataclasses.asdict(INNER), "y\n": 1}},
        r"by_name.x: unknown fields \['y\\n'\], missing fields",
    ),
    (
        "rows",
        [{"name": "a", "size": 1}, {"name": "b", "size": 0}],
        "rows.1.size=0 is not allowed; it must be at least 1",
    ),
    ("inner.column", [1.0, -1.0], r"inner.column=\[1.0, -1.0\] is not allowed; it must be at least 0"),
    ("inner.column", [math.inf, 1.0], "inner.column=.* is not allowed; it must be a finite number, at least 0"),
    ("inner.pair", [1, 2.5, 3], "inner.pair=.* is not allowed; it must be a list of a whole number and a finite"),
    ("inner.hashes", {"a": 1}, "inner.hashes=.* is not allowed; it must be"),
    ("by_name\n", {}, r"unknown fields \['by_name\\n'\], missing fields \[\]"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=str_or_type)
def test_a_wrong_value_in_json_is_named_by_its_path_in_one_line(path: str, value: Any, message: str) -> None:
    raw = place = as_json()
    *parents, last = path.split(".")
    for key in parents:
        place = place[key]
    place[last] = value
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        from_json(Outer, raw)
    assert "\n" not in str(caught.value)


def test_rows_may_have_more_keys_and_lack_none() -> None:
    raw = {**as_json(), "rows": [{"name": "a", "size": 1, "more": None}]}
    assert from_json(Outer, raw).rows == raw["rows"]
    del raw["rows"][0]["name"]
    with pytest.raises(ValueError, match=r"^rows.0.name is missing$"):
        from_json(Outer, raw)
