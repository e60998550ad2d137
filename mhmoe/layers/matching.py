"""What "the same size as X-MoE" means: three matchings, solved from the configs' own counts.

    equation     inner width 4 beta d, as v1 Eq. 16 and Table 9 print it; beta from `parameters`
    parameters   as many parameters as the reference, by the inner width alone (v1 Table 11: 4 beta h d);
                 each token then costs about h times the reference's expert FLOPs
    compute      as many parameters and as many FLOPs per token, by inner width and number of experts (v2)

The reference is a plain MoE of width d. Parameters are all of the layer's: head and merge layers, router,
biases, inner norms. FLOPs are v2's (Eq. 8): head and merge layers and experts, not the router, which is
negligible at the paper's width but not at small ones. Widths and counts are whole numbers, so a small
difference remains too: every complexity table prints the totals with everything counted.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Literal, TypeVar, get_args

from mhmoe.layers.config import LayerConfig
from mhmoe.layers.multi_head import MultiHeadConfig, check_heads
from mhmoe.layers.sparse_moe import SparseMoEConfig

Matching = Literal["equation", "parameters", "compute"]
SomeLayer = TypeVar("SomeLayer", bound=LayerConfig)
MATCHINGS: dict[Matching, str] = {
    "equation": "as printed",
    "parameters": "equal parameters",
    "compute": "equal FLOPs",
}
"""What people are shown; in text that is for both, a matching's own name stands in backticks."""


class NoWidthError(ValueError):
    """All else costs as much as the reference, or more."""


def in_words(text: str) -> str:
    """The text with `matchings` as people are shown them."""
    for name, words in MATCHINGS.items():
        text = text.replace(f"`{name}`", words)
    return text


def match(
    matching: Matching,
    reference: SparseMoEConfig,
    *,
    heads: int,
    top_k: int = 1,
    layers: int = 1,
    multiple_of: int = 1,
) -> MultiHeadConfig:
    """The MH-MoE layer of the reference's size under a matching; the inner width is a multiple of `multiple_of`.

    `layers` is the depth of the head and of the merge MLP. Raises ValueError when the matching is unknown, the
    reference has a shared network (v2's equations have none), or no positive width has that size.
    """
    if reference.shared is not None:
        raise ValueError("the reference has a shared network, which no matching takes in; leave it out")
    if matching not in get_args(Matching):
        raise ValueError(f"matching={matching!r} is not known; choose one of {', '.join(get_args(Matching))}")

    def layer(expert_dim: int, num_experts: int) -> MultiHeadConfig:
        sizes = {"expert_dim": expert_dim, "num_experts": num_experts}
        return with_sizes(reference, heads=heads, top_k=top_k, layers=layers, **sizes)

    num_experts = reference.experts.num_experts
    if matching == "compute":
        experts = reference.experts
        width, _ = follow_up_sizes(
            dim=reference.dim,
            heads=heads,
            top_k=top_k,
            inner_dim=reference.router.top_k * experts.expert_dim,
            num_experts=num_experts,
            matrices=(experts.up_width + experts.inner) // experts.inner,
            projections=2 * layers,
        )
        width = _rounded(width, multiple_of)
        count = _solve(lambda n: layer(width, n).parameters(), reference.parameters(), start=top_k)
        return layer(width, max(round(count), top_k))
    width = _solve(lambda w: layer(w, num_experts).parameters(), reference.parameters())
    return layer(_rounded(width if matching == "parameters" else width / heads, multiple_of), num_experts)


def with_sizes(
    reference: SparseMoEConfig, *, heads: int, top_k: int, expert_dim: int, num_experts: int, layers: int = 1
) -> MultiHeadConfig:
    """MH-MoE in all else as the reference (router, networks, capacity, balance, precision), with these sizes."""
    dim, experts = reference.dim, reference.experts
    check_heads("moe_heads", heads, dim)
    width = dim // heads
    inner = reference.replace(
        router=reference.router.replace(dim=width, num_experts=num_experts, top_k=top_k),
        experts=experts.replace(dim=width, num_experts=num_experts, expert_dim=expert_dim),
    )
    return MultiHeadConfig(
        dim=dim, heads=heads, inner=inner, head_layers=layers, merge_layers=layers, precision=experts.precision
    )


def of_cost(build: Callable[[int], SomeLayer], flops: int, multiple_of: int = 1) -> SomeLayer:
    """The layer with so many FLOPs a token, routers and all; `build` gives it with an inner width.

    The width is the nearest multiple of `multiple_of`, at least one. Raises ValueError where all else costs more.
    """
    width = _solve(lambda w: build(w).flops_per_token(), flops)
    return build(_rounded(width, multiple_of))


def of_size(
    build: Callable[[int, int], SomeLayer], reference: LayerConfig, counts: Iterable[int], multiple_of: int = 1
) -> SomeLayer:
    """The layer with the reference's FLOPs a token whose parameters are nearest to the reference's.

    `build` gives it with a number of experts, of which `counts` are tried, and an inner width. Numbers that leave no
    positive width, as their router alone costs too much, are passed over. Raises ValueError where all do.
    """
    found, refused = list[SomeLayer](), NoWidthError("there is no number of experts to try")
    for count in counts:
        try:
            found.append(of_cost(partial(build, count), reference.flops_per_token(), multiple_of))
        except NoWidthError as error:
            refused = error
    if not found:
        raise refused
    return min(found, key=lambda layer: abs(layer.parameters() - reference.parameters()))


def beta(config: MultiHeadConfig, reference: SparseMoEConfig) -> float:
    """The inner width over h times the reference's: the paper's beta as v1 Table 11 has it."""
    inner = config.inner
    assert isinstance(inner, SparseMoEConfig)
    return inner.experts.expert_dim / (config.heads * reference.experts.expert_dim)


def follow_up_sizes(
    *,
    dim: int,
    heads: int,
    top_k: int,
    inner_dim: int | float,
    num_experts: int,
    matrices: int = 2,
    projections: int = 2,
) -> tuple[float, float]:
    """(expert_dim, num_experts) of v2 Eq. 8 and 9, not rounded.

    The reference is a top-1 MoE with `num_experts` experts of inner width `inner_dim`; with m `matrices` an
    expert (2, or 3 for SwiGLU) and p `projections` (v2's head and merge layer: 2),
    k m d w + p d^2 = m d inner_dim, and m d inner_dim E = p d^2 + m (d/h) w E_mh.
    Raises ValueError where the projections alone cost more than the reference.
    """
    spent = projections * dim / matrices
    width = (inner_dim - spent) / top_k
    _check_positive(width)
    count = (inner_dim * num_experts - spent) * heads / width
    return width, count


def _solve(count: Callable[[int], int], target: int, start: int = 1) -> float:
    """Where a count that is linear in its argument reaches the target."""
    low, high = count(start), count(start + 1)
    return start + (target - low) / (high - low)


def _check_positive(width: float) -> None:
    if width <= 0:
        solved = f"no positive inner width has the reference's size (solved: {width:.1f})"
        raise NoWidthError(f"{solved}; give the reference's experts a larger expert_dim")


def _rounded(width: float, multiple_of: int) -> int:
    _check_positive(width)
    return max(round(width / multiple_of), 1) * multiple_of
