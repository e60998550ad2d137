"""Sizes: solved from the counts, equal to the papers' printed numbers."""

import jaxtyping
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mhmoe.layers.experts import ExpertsConfig, FeedForwardConfig
from mhmoe.layers.matching import Matching, beta, follow_up_sizes, match, of_cost, of_size, with_sizes
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.routers import DotProductRouterConfig, XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig

# v1 (arXiv 2404.15045) Table 11, language tasks, millions: non-expert, expert, sum. Multilingual has rows 8 and 32.
DENSE = 162
XMOE = {
    8: (134, 227, 361),
    16: (134, 454, 588),
    32: (134, 908, 1042),
    64: (134, 1815, 1949),
    128: (134, 3631, 3765),
    256: (134, 7263, 7397),
}
MHMOE = {
    8: (141, 213, 354),
    16: (141, 430, 571),
    32: (141, 898, 1039),
    64: (141, 1797, 1938),
    128: (141, 3624, 3765),
    256: (141, 7230, 7371),
}
MHMOE_BETA = {8: 0.933, 16: 0.942, 32: 0.983, 64: 0.984, 128: 0.992, 256: 0.990}  # which that implies
HEADS, MOE_BLOCKS = 4, 6


def reference(
    dim: int = 96,
    num_experts: int = 8,
    expert_dim: int | None = None,
    activation: str = "gelu",
    style: bool = False,
    top_k: int = 1,
) -> SparseMoEConfig:
    return SparseMoEConfig(
        router=XMoERouterConfig(dim=dim, num_experts=num_experts, top_k=top_k),
        experts=ExpertsConfig(
            dim=dim,
            num_experts=num_experts,
            expert_dim=expert_dim or 4 * dim,
            activation=activation,  # pyright: ignore[reportArgumentType]
            bias=style,
            inner_norm=style,
        ),
    )


def moe(config: MultiHeadConfig) -> SparseMoEConfig:
    assert isinstance(config.inner, SparseMoEConfig)
    return config.inner


@settings(max_examples=40)
@given(
    heads=st.sampled_from([1, 2, 3, 4, 6, 8, 12]),
    dim=st.sampled_from([48, 96, 384, 768]),
    num_experts=st.integers(2, 64),
    activation=st.sampled_from(["gelu", "swiglu"]),
    style=st.booleans(),
    multiple_of=st.sampled_from([1, 8]),
)
def test_parameters_come_within_half_a_step_of_the_experts_width(
    heads: int, dim: int, num_experts: int, activation: str, style: bool, multiple_of: int
) -> None:
    x_moe = reference(dim, num_experts, activation=activation, style=style)
    solved = match("parameters", x_moe, heads=heads, multiple_of=multiple_of)
    width = moe(solved).experts.expert_dim
    assert width % multiple_of == 0 and moe(solved).experts.num_experts == num_experts

    def total(expert_dim: int) -> int:
        return with_sizes(x_moe, heads=heads, top_k=1, expert_dim=expert_dim, num_experts=num_experts).parameters()

    step = total(width + multiple_of) - total(width)
    assert abs(solved.parameters() - x_moe.parameters()) <= step / 2
    assert solved.parameters() == total(width)


@settings(max_examples=40)
@given(
    heads=st.sampled_from([1, 2, 3, 4, 6]),
    num_experts=st.integers(2, 256),
    activation=st.sampled_from(["gelu", "swiglu"]),
    top_k=st.integers(1, 2),
)
def test_compute_equals_flops_and_parameters_at_the_papers_width(
    heads: int, num_experts: int, activation: str, top_k: int
) -> None:
    """FLOPs without routers, which v2 leaves out: half a step of the width. Parameters: half an expert."""
    x_moe = reference(768, num_experts, activation=activation)
    solved = match("compute", x_moe, heads=heads, top_k=top_k)
    ours, theirs = moe(solved), x_moe
    without_routers = (
        solved.flops_per_token() - heads * ours.router.flops_per_token(),
        theirs.flops_per_token() - theirs.router.flops_per_token(),
    )
    width = ours.experts.expert_dim
    one_wider = (
        heads * top_k * (ours.experts.replace(expert_dim=width + 1).network_flops() - ours.experts.network_flops())
    )
    assert abs(without_routers[0] - without_routers[1]) <= one_wider / 2
    one_expert = ours.experts.network_parameters() + ours.router.router_dim  # pyright: ignore
    assert abs(solved.parameters() - x_moe.parameters()) <= one_expert / 2


def test_the_equation_reading_is_the_parameters_reading_with_a_width_h_times_smaller() -> None:
    x_moe = reference(768, 16)
    wide, narrow = match("parameters", x_moe, heads=4), match("equation", x_moe, heads=4)
    assert moe(narrow).experts.expert_dim == round(moe(wide).experts.expert_dim / 4)
    # 2 d^2 of head and merge layers out of N experts of 8 d^2: v1 Appendix D's 63/64 at N = 16
    assert beta(wide, x_moe) == pytest.approx(1 - 1 / (4 * 16), abs=5e-4)
    assert moe(wide).experts.expert_dim == pytest.approx(4 * 4 * 768 * beta(wide, x_moe))


def test_the_parameters_reading_costs_h_times_the_experts_flops() -> None:
    x_moe = reference(768, 8)
    solved = moe(match("parameters", x_moe, heads=4))
    ratio = 4 * solved.experts.flops_per_token() / x_moe.experts.flops_per_token()
    assert ratio == pytest.approx(4 * beta(match("parameters", x_moe, heads=4), x_moe), rel=1e-3)


def test_v2_example_four_d_one_choice_three_heads() -> None:
    # v2 (arXiv 2411.16205) Eq. 8-9: d_moe = 4d, k = 1, h = 3 give d_mh = 3d and E_mh = 4E - 1
    for d in (96, 768):
        for experts in (8, 32):
            assert follow_up_sizes(dim=d, heads=3, top_k=1, inner_dim=4 * d, num_experts=experts) == (
                pytest.approx(3 * d),
                pytest.approx(4 * experts - 1),
            )
    solved = moe(match("compute", reference(96, 8), heads=3))
    assert (solved.experts.expert_dim, solved.experts.num_experts) == (3 * 96, 31)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("matching", ["parameters", "compute"])
def test_whatever_the_depth_of_the_mlps_the_layer_has_the_references_size(matching: Matching, layers: int) -> None:
    x_moe = reference(96, 8)
    solved = match(matching, x_moe, heads=4, layers=layers)
    assert (solved.head_layers, solved.merge_layers) == (layers, layers)
    # Half of the unit that is solved, and a router row an expert.
    unit = moe(solved).experts.network_parameters() if matching == "compute" else 8 * 2 * 24
    assert abs(solved.parameters() - x_moe.parameters()) <= unit / 2 + 16
    if matching == "compute":
        without_router = solved.flops_per_token() - 4 * moe(solved).router.flops_per_token()
        assert without_router == x_moe.flops_per_token() - x_moe.router.flops_per_token()


def test_a_reference_with_a_shared_network_is_refused() -> None:
    shared = reference(96, 8).replace(shared=FeedForwardConfig(dim=96, inner_dim=32))
    with pytest.raises(ValueError, match="shared network"):
        match("compute", shared, heads=4)


@pytest.mark.parametrize(("heads", "width", "experts"), [(2, 768, 41.33), (3, 512, 93.0)])
def test_v2_with_swiglu(heads: int, width: int, experts: float) -> None:
    # v2's runs: d = 768, SMoE of 8 experts with inner width 2048; it prints 40 and 96 experts
    sizes = follow_up_sizes(dim=768, heads=heads, top_k=heads, inner_dim=2048, num_experts=8, matrices=3)
    assert sizes == (pytest.approx(width), pytest.approx(experts, abs=0.01))
    solved = match("compute", reference(768, 8, 2048, "swiglu"), heads=heads, top_k=heads)
    assert moe(solved).experts.expert_dim == width
    assert moe(solved).experts.num_experts == round(experts)


def test_the_solved_layer_keeps_the_references_manner() -> None:
    x_moe = SparseMoEConfig(
        router=DotProductRouterConfig(dim=96, num_experts=8, renormalize=True),
        experts=ExpertsConfig(dim=96, num_experts=8, expert_dim=384, bias=True, inner_norm=True),
        capacity_factor=1.5,
        overflow="next",
        balance=(("z", 0.1),),
    )
    matchings: tuple[Matching, ...] = ("equation", "parameters", "compute")
    for matching in matchings:
        solved = moe(match(matching, x_moe, heads=4, top_k=2))
        assert isinstance(solved.router, DotProductRouterConfig)
        assert (solved.router.renormalize, solved.router.top_k, solved.router.dim) == (True, 2, 24)
        assert (solved.experts.bias, solved.experts.inner_norm) == (True, True)
        assert (solved.capacity_factor, solved.overflow, solved.balance) == (1.5, "next", (("z", 0.1),))


def test_an_unknown_reading_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # it would refuse it first, in tests
    with pytest.raises(ValueError, match="matching='flops' is not known; choose one of equation, parameters, comp"):
        match("flops", reference(), heads=4)  # pyright: ignore


def test_a_size_that_cannot_be_matched_is_refused() -> None:
    with pytest.raises(ValueError, match="no positive inner width has the reference's size"):
        match("compute", reference(expert_dim=96), heads=4)  # the head and merge layers cost that already
    with pytest.raises(ValueError, match="no positive inner width has the reference's size"):
        match("parameters", reference(num_experts=1, expert_dim=32), heads=4)
    with pytest.raises(ValueError, match="moe_heads=5 does not divide dim=96; choose one of 1, 2, 3, 4"):
        match("parameters", reference(), heads=5)


def paper_model(layer: SparseMoEConfig | MultiHeadConfig | None, inner_norm: bool = False) -> MHMoEConfig:
    """v1 at its full size; `inner_norm` is that of the dense feed-forward blocks."""
    dense = FeedForwardConfig(dim=768, inner_dim=3072, bias=True, inner_norm=inner_norm)
    return MHMoEConfig(
        vocab_size=100_277,  # cl100k_base, tied
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=2048,
        norm="layer",
        attention_bias=True,
        feed_forward=dense.to_dict(),
        moe=None if layer is None else layer.to_dict(),
    )


def printed_width(num_experts: int) -> int:
    """MH-MoE's inner width at which its experts have the printed number of parameters."""
    millions = MHMOE[num_experts][1]

    def experts(width: int) -> int:
        one = ExpertsConfig(dim=768 // HEADS, num_experts=num_experts, expert_dim=width, bias=True, inner_norm=True)
        return MOE_BLOCKS * one.parameters()

    return round(1 + (millions * 1e6 - experts(1)) / (experts(2) - experts(1)))


def check_cells(config: MHMoEConfig, experts: ExpertsConfig, printed: tuple[int, int, int]) -> None:
    expert = MOE_BLOCKS * experts.parameters()
    found = (config.parameters() - expert, expert, config.parameters())
    for ours, theirs in zip(found, printed, strict=True):
        assert abs(ours / 1e6 - theirs) <= 1, (found, printed)


@pytest.mark.parametrize("inner_norm", [False, True], ids=["plain dense blocks", "inner norm in dense blocks"])
def test_table_11_dense(inner_norm: bool) -> None:
    assert abs(paper_model(None, inner_norm).parameters() / 1e6 - DENSE) <= 1


@pytest.mark.parametrize("inner_norm", [False, True], ids=["plain dense blocks", "inner norm in dense blocks"])
@pytest.mark.parametrize("num_experts", XMOE)
def test_table_11_x_moe(num_experts: int, inner_norm: bool) -> None:
    layer = reference(768, num_experts, style=True)
    check_cells(paper_model(layer, inner_norm), layer.experts, XMOE[num_experts])


@pytest.mark.parametrize("num_experts", MHMOE)
def test_table_11_mh_moe(num_experts: int) -> None:
    x_moe = reference(768, num_experts, style=True)
    layer = with_sizes(x_moe, heads=HEADS, top_k=1, expert_dim=printed_width(num_experts), num_experts=num_experts)
    check_cells(paper_model(layer), moe(layer).experts, MHMOE[num_experts])
    assert beta(layer, x_moe) == pytest.approx(MHMOE_BETA[num_experts], abs=0.006)


def test_without_biases_and_inner_norm_the_experts_do_not_fit_table_11() -> None:
    layer = reference(768, 256)
    with pytest.raises(AssertionError):
        check_cells(paper_model(layer), layer.experts, XMOE[256])


# ---- families of layers at one cost ----------------------------------------------------------


def _family(count: int, width: int) -> SparseMoEConfig:
    router = DotProductRouterConfig(dim=64, num_experts=count, top_k=2)
    return SparseMoEConfig(router=router, experts=ExpertsConfig(dim=64, num_experts=count, expert_dim=width))


@given(width=st.integers(8, 500), step=st.sampled_from([1, 8]), count=st.integers(2, 40))
def test_a_layer_of_a_cost_is_the_one_of_the_nearest_width(width: int, step: int, count: int) -> None:
    flops = _family(count, width).flops_per_token()
    found = of_cost(lambda w: _family(count, w), flops, step).experts.expert_dim
    assert found % step == 0 and abs(found - width) <= step / 2


def test_routers_and_all_else_count_in_the_cost_and_may_exceed_it() -> None:
    router = _family(40, 8).router.flops_per_token()
    with pytest.raises(ValueError, match="no positive inner width has the reference's size"):
        of_cost(lambda width: _family(40, width), router - 1)


def test_of_several_numbers_of_experts_the_one_of_nearest_parameters_is_taken() -> None:
    target = _family(8, 96)
    sizes = {count: of_cost(lambda w, c=count: _family(c, w), target.flops_per_token()) for count in range(2, 40)}
    nearest = min(sizes.values(), key=lambda layer: abs(layer.parameters() - target.parameters()))
    assert of_size(_family, target, range(2, 40)) == nearest == target


def test_numbers_of_experts_whose_router_costs_too_much_are_passed_over() -> None:
    target = _family(8, 96)
    assert of_size(_family, target, [8, 10_000]) == target
    with pytest.raises(ValueError, match="no positive inner width has the reference's size"):
        of_size(_family, target, [10_000, 20_000])
