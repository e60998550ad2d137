"""Every annotation of the package is checked while the tests run, those without shapes too."""

import dataclasses
from typing import Any

import jaxtyping
import pytest
import torch
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import Float
from torch import Tensor

from mhmoe.layers.config import divisors
from mhmoe.layers.matching import follow_up_sizes
from mhmoe.layers.routers import DotProductRouterConfig
from tests.checked_types import checked
from tests.tiny import TRAINING

check: Any = checked(typechecker=beartype)


@check
def weighted(x: Float[Tensor, "tokens dim"], weight: Float[Tensor, " tokens"] | None) -> Float[Tensor, "tokens dim"]:
    return x[:-1] if weight is None else x * weight[:, None]


@check
def halved(number: int) -> int:
    return number / 2  # pyright: ignore[reportReturnType]


@check
@dataclasses.dataclass
class Sizes:
    dim: int

    @classmethod
    @check
    def of(cls, dim: int) -> int:
        return dim

    @staticmethod
    @check
    def twice(dim: int) -> int:
        return 2 * dim

    @property
    @check
    def half(self) -> int:
        return self.dim / 2  # pyright: ignore[reportReturnType]


WRONG = {
    "argument": lambda: halved("4"),
    "result": lambda: halved(4),
    "field": lambda: Sizes("4"),  # pyright: ignore[reportArgumentType]
    "argument of a class method": lambda: Sizes.of("4"),
    "argument of a static method": lambda: Sizes.twice("4"),
    "property": lambda: Sizes(4).half,
    "argument of the package": lambda: divisors("12"),  # pyright: ignore[reportArgumentType]
    "keyword of the package": lambda: follow_up_sizes(dim=8, heads="2", top_k=1, inner_dim=4, num_experts=2),  # pyright: ignore[reportArgumentType]
    "method of the package": lambda: TRAINING.evaluates_after("1"),  # pyright: ignore[reportArgumentType]
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_of_another_type_is_refused_where_no_shape_stands(case: str) -> None:
    with pytest.raises(BeartypeCallHintViolation):
        WRONG[case]()


def test_shapes_are_refused_that_do_not_agree_with_each_other() -> None:
    x, weight = torch.ones(3, 2), torch.ones(3)
    assert weighted(x, weight).shape == (3, 2)
    with pytest.raises(jaxtyping.TypeCheckError, match="parameters"):
        weighted(x, torch.ones(2))
    with pytest.raises(jaxtyping.TypeCheckError, match="return value"):
        weighted(x, None)  # which loses a row
    router = DotProductRouterConfig(dim=4, num_experts=2).build()
    with pytest.raises(jaxtyping.TypeCheckError):
        router(torch.ones(3, 4, dtype=torch.long))


def test_nothing_is_checked_where_a_test_asks_for_what_users_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    assert halved(3) == 1.5 and Sizes(3).half == 1.5 and weighted(torch.ones(3, 2), None).shape == (2, 2)
