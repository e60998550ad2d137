"""One model on two or four processes trains as on one: FSDP2, expert parallelism, Head Parallel, checkpoints."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

from baselines.multi_head_latentmoe import multi_head_latentmoe
from mhmoe.data.batches import TrainingBatches
from mhmoe.data.packing import PackedDataset, load_packed
from mhmoe.io import RunError, UserError
from mhmoe.layers.balanced_router import BalancedRouterConfig
from mhmoe.layers.config import config_from_dict
from mhmoe.layers.dense_mixture import DenseMixtureConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.hierarchical import HierarchicalMoEConfig
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.layers.routers import DotProductRouterConfig, XMoERouterConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import Sharding, identity
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import train
from mhmoe.training.objective import Objective, accumulate_gradients
from mhmoe.training.sharded_checkpoint import whole_model
from mhmoe.training.sharding import check_layout, check_trainable, shard
from tests import tiny
from tests.processes import start, together

CONFIG = dataclasses.replace(tiny.TRAINING, steps=20, length=16, evaluations=20, evaluation_windows=4)
LOW = dataclasses.replace(CONFIG, steps=4, evaluations=4, precision="bfloat16")
SHARDED, REPLICATED = Sharding(), Sharding(parameters="replicated", expert_parallel=2)
BOTH = Sharding(expert_parallel=2)


def mhmoe() -> MHMoEForCausalLM:
    return tiny.model("mhmoe_compute", balance_weight=0.1)


def top_two() -> MHMoEForCausalLM:
    """All kinds of parameters that experts have."""
    router = XMoERouterConfig(dim=tiny.DIM, num_experts=4, top_k=2, router_dim=8)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16, bias=True, inner_norm=True)
    return tiny.model("xmoe", moe=SparseMoEConfig(router=router, experts=experts).to_dict(), balance_weight=0.1)


def one_expert() -> MHMoEForCausalLM:
    """A bias makes all tokens choose the last expert, and the others have none."""
    router = BalancedRouterConfig(dim=tiny.DIM, num_experts=4, bias_step=0.001)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16)
    moe = SparseMoEConfig(router=router, experts=experts, balance=(("importance", 1.0), ("z", 0.1)))
    model = tiny.model("xmoe", moe=moe.to_dict(), balance_weight=0.1)
    for name, bias in model.named_buffers():
        if name.endswith("balancing_bias"):
            bias[-1] = 100.0
    return model


def heads() -> MHMoEForCausalLM:
    """Each of four heads has a router and four experts of its own."""
    moe = multi_head_latentmoe(tiny.DIM, 4, 4, expert_dim=8)
    return tiny.model("xmoe", moe=moe.to_dict(), balance_weight=0.1)


SYSTEMS: dict[str, Callable[[], MHMoEForCausalLM]] = {
    "mhmoe": mhmoe,
    "top_two": top_two,
    "one_expert": one_expert,
    "heads": heads,
    "full": lambda: tiny.model("full"),
}
QUICK = {
    "mhmoe sharded": ("mhmoe", SHARDED),
    "top_two replicated": ("top_two", REPLICATED),
    "one_expert both": ("one_expert", BOTH),
    "heads both": ("heads", BOTH),
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return tiny.text(tmp_path_factory.mktemp("cache"))


def gradients_on(model: MHMoEForCausalLM, text: PackedDataset, micro_batches: int = 1) -> dict[str, torch.Tensor]:
    """Of the first batch; whole tensors, of the parameters that this process has a part of."""
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    batches = TrainingBatches(text.train, CONFIG.length, CONFIG.batch_sequences, seed=0)
    tokens = torch.from_numpy(batches.batch(0, rank, processes))
    config = dataclasses.replace(CONFIG, micro_batches=micro_batches)
    accumulate_gradients(Objective(model, "float32"), tokens, config, 0.5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    whole = {name: g.full_tensor() if isinstance(g, DTensor) else g.clone() for name, g in found.items()}
    model.zero_grad()
    return whole


def trained(name: str, sharding: Sharding | None, text: PackedDataset, folder: Path) -> dict[str, Any]:
    model = SYSTEMS[name]().double()
    progress = train(model, text, CONFIG, seed=0, checkpoint=folder, sharding=sharding)
    assert progress is not None
    return {"curve": progress.curve, "gradients": gradients_on(model, text, micro_batches=2)}


def quick(folder: Path, packed: str) -> dict[str, Any]:
    text, found = load_packed(Path(packed)), dict[str, Any]()
    for case, (name, sharding) in QUICK.items():
        found[case] = trained(name, sharding, text, folder / case)
    for name in ("full", "heads"):
        found[f"{name} made"] = made_on_meta(name, BOTH)
    found["broken"] = broken_in_the_second(text)
    low = train(SYSTEMS["top_two"](), text, LOW, seed=0, sharding=dataclasses.replace(BOTH, gather_in="bfloat16"))
    found["low"] = None if low is None else low.curve
    for count in (2, 4):
        with pytest.raises(UserError) as refused:
            shard(three_experts(), Sharding(expert_parallel=count), seed=0)
        found[f"refused {count}"] = str(refused.value)
    return found


def broken_in_the_second(text: PackedDataset) -> str:
    """How training ends where the second process alone reads what is no number."""
    model = mhmoe()
    if os.environ["RANK"] == "1":
        model.get_input_embeddings().register_forward_hook(lambda *given: torch.inf * given[2])
    with pytest.raises(RunError) as stopped:
        train(model, text, CONFIG, seed=0, sharding=SHARDED)
    return str(stopped.value)


def three_experts() -> MHMoEForCausalLM:
    router = XMoERouterConfig(dim=tiny.DIM, num_experts=3)
    moe = SparseMoEConfig(router=router, experts=ExpertsConfig(dim=tiny.DIM, num_experts=3, expert_dim=16))
    return tiny.model("xmoe", moe=moe.to_dict())


def made_on_meta(name: str, sharding: Sharding) -> dict[str, torch.Tensor]:
    """Whole parameters, of which this process has a part, of a model that no process had whole."""
    with torch.device("meta"):
        model = MHMoEForCausalLM(SYSTEMS[name]().config)
    shard(model, sharding, seed=0)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    own = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    assert own < 0.6 * sum(p.numel() for p in model.parameters())
    parameters = {n: p.full_tensor() for n, p in model.named_parameters() if isinstance(p, DTensor)}
    return {n: p.detach() for n, p in parameters.items()} | dict(model.named_buffers())


@pytest.fixture(scope="module")
def two(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and what each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    return folder, together(quick, folder, 2, text.folder)


@pytest.fixture(scope="module")
def one(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("one")
    return {name: trained(name, None, text, folder / name) for name in SYSTEMS if name != "full"}


def assert_same(ours: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for rank in ours:
        assert len(rank["curve"]) == CONFIG.steps
        for name in ("task_loss", "balance_loss", "valid_nll"):
            found, wanted = ([point[name] for point in run["curve"]] for run in (rank, expected))
            assert found == pytest.approx(wanted, rel=1e-5)
        own = {name: expected["gradients"][name] for name in rank["gradients"]}
        assert tiny.worst_tensor(rank["gradients"], own) < 1e-5
    assert {name for rank in ours for name in rank["gradients"]} == expected["gradients"].keys()


@pytest.mark.parametrize("case", QUICK)
def test_two_processes_train_a_sharded_model_as_one_does(
    one: dict[str, Any], two: tuple[Path, list[dict[str, Any]]], case: str
) -> None:
    assert_same([rank[case] for rank in two[1]], one[QUICK[case][0]])


def test_some_of_these_experts_have_no_tokens_and_others_unequal_numbers(text: PackedDataset) -> None:
    tokens = torch.from_numpy(TrainingBatches(text.train, CONFIG.length, 8, seed=0).batch(0))[:, :-1]
    for name, empty in (("top_two", 0), ("mhmoe", 0), ("one_expert", 3)):
        index = torch.cat([routing.index.flatten() for routing in SYSTEMS[name]()(tokens, output_routing=True).routing])
        counts = index.bincount(minlength=4)
        assert (counts == 0).sum() == empty and counts.max() > 1.2 * counts.float().mean()


@pytest.mark.parametrize("name", ["full", "heads"])
def test_a_model_made_in_parts_starts_with_the_parameters_of_one_made_whole(
    two: tuple[Path, list[dict[str, Any]]], name: str
) -> None:
    model = SYSTEMS[name]()
    expected = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    seen = set[str]()
    for rank in two[1]:
        for part, tensor in rank[f"{name} made"].items():
            assert torch.equal(tensor, expected[part]), part
        seen |= rank[f"{name} made"].keys()
    assert seen == expected.keys()


@pytest.mark.parametrize("case", QUICK)
def test_a_checkpoint_in_parts_is_the_one_model_in_one_folder(
    text: PackedDataset, two: tuple[Path, list[dict[str, Any]]], tmp_path: Path, case: str
) -> None:
    """And one process without sharding goes on from it: here, evaluates."""
    folder, name = two[0] / case, QUICK[case][0]
    whole_model(folder, SYSTEMS[name]().config).save_pretrained(tmp_path / "model")
    model = MHMoEForCausalLM.from_pretrained(tmp_path / "model")
    assert [path.name for path in (tmp_path / "model").glob("*.safetensors")] == ["model.safetensors"]
    last = two[1][0][case]["curve"][-1]
    found = evaluate(model, text.valid, CONFIG.length, max_windows=CONFIG.evaluation_windows)
    assert found["nll_per_token"] == pytest.approx(last["valid_nll"], rel=1e-5)
    again = SYSTEMS[name]().double()
    progress = train(again, text, CONFIG, seed=0, checkpoint=folder)
    assert progress is not None and progress.curve[-1] == last
    assert tiny.difference(model.double().state_dict(), again.state_dict()) < 1e-6


def test_parameters_gathered_in_bfloat16_train_as_those_of_autocast(
    text: PackedDataset, two: tuple[Path, list[dict[str, Any]]]
) -> None:
    progress = train(SYSTEMS["top_two"](), text, LOW, seed=0)
    assert progress is not None
    for rank in two[1]:
        for ours, expected in zip(rank["low"], progress.curve, strict=True):
            assert ours["task_loss"] == pytest.approx(expected["task_loss"], rel=2e-3)
            assert ours["valid_nll"] == pytest.approx(expected["valid_nll"], rel=1e-2)


def test_numbers_that_do_not_divide_are_refused_by_name(two: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank in two[1]:
        assert rank["refused 2"] == "expert_parallel=2 does not divide num_experts=3; choose one that does"
        assert rank["refused 4"] == "expert_parallel=4 does not divide the 2 processes; choose one that does"


def test_a_loss_that_is_no_number_in_one_process_stops_all_of_them(two: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (rank["broken"] for rank in two[1])
    assert "the gradient's norm is not finite at step 0" in first and "loss is not finite at step 0" in second


def test_heads_within_a_hierarchical_mixture_are_not_shared_out_by_heads() -> None:
    width = tiny.DIM // 2
    own = PerHeadRouterConfig.of(DotProductRouterConfig(dim=width, num_experts=4), 2)
    experts = ExpertsConfig(dim=width, num_experts=8, expert_dim=8)
    heads = MultiHeadConfig(dim=tiny.DIM, heads=2, inner=SparseMoEConfig(router=own, experts=experts))
    router = DotProductRouterConfig(dim=tiny.DIM, num_experts=2)
    model = tiny.model("xmoe", moe=HierarchicalMoEConfig(router=router, inner=heads).to_dict())
    with pytest.raises(UserError, match=r"as many everywhere; give Sharding\(by_heads=False\), in Python"):
        check_layout(model, Sharding(expert_parallel=2), 2)
    check_layout(model, Sharding(expert_parallel=2, by_heads=False), 2)
    alone = tiny.model("xmoe", moe=heads.to_dict())
    with pytest.raises(UserError, match=r"expert_parallel=4 does not divide heads=2; .*Sharding\(by_heads=False\)"):
        check_layout(alone, Sharding(expert_parallel=4), 4)
    check_layout(alone, Sharding(expert_parallel=4, by_heads=False), 4)


def test_experts_that_would_not_be_offloaded_are_refused() -> None:
    router = DotProductRouterConfig(dim=tiny.DIM, num_experts=4)
    experts = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16)
    every = DenseMixtureConfig(router=router.replace(top_k=4), experts=experts)
    dense = tiny.model("xmoe", moe=every.to_dict())
    check_layout(dense, SHARDED, 2)
    with pytest.raises(UserError, match="offload_experts is for sparse mixtures, and experts of 1 layers here are of"):
        check_layout(dense, dataclasses.replace(SHARDED, offload_experts=True), 2)
    sparse = tiny.model("xmoe", moe=SparseMoEConfig(router=router, experts=experts).to_dict())
    check_layout(sparse, dataclasses.replace(SHARDED, offload_experts=True), 2)


@pytest.mark.parametrize(("changes", "match"), [({"compile": True}, "compile=True"), ({}, "gather_in='bfloat16'")])
def test_what_a_sharded_model_cannot_train_with_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        check_trainable(Sharding(gather_in="bfloat16"), dataclasses.replace(CONFIG, **changes))


def test_how_a_model_is_sharded_is_no_part_of_a_run_but_where_it_changes_numbers() -> None:
    model = SYSTEMS["heads"]().config
    moe = config_from_dict(model.moe)
    assert isinstance(moe, MultiHeadConfig) and isinstance(moe.inner, SparseMoEConfig)
    tight = tiny.config("xmoe", moe=moe.replace(inner=moe.inner.replace(capacity_factor=1.0)).to_dict())

    def run(config: MHMoEConfig, sharding: Sharding | None) -> dict[str, Any]:
        return identity(config, CONFIG, {}, 4, sharding)

    assert run(model, None) == run(model, BOTH) == run(model, REPLICATED) == identity(model, CONFIG, {})
    assert run(tight, None) == run(tight, SHARDED) != identity(tight, CONFIG, {})
    assert run(tight, BOTH) != run(tight, SHARDED) == run(tight, dataclasses.replace(BOTH, by_heads=False))
    assert run(model, dataclasses.replace(SHARDED, gather_in="bfloat16")) != run(model, None)


# ---- more processes, and killed ones ---------------------------------------------------------

FOUR = {
    "mhmoe sharded": ("mhmoe", SHARDED),
    "mhmoe replicated by experts": ("mhmoe", REPLICATED),
    "top_two both": ("top_two", BOTH),
    "top_two, four shares": ("top_two", Sharding(expert_parallel=4)),
    "one_expert both": ("one_expert", BOTH),
    "heads both": ("heads", BOTH),
    "heads by experts": ("heads", Sharding(expert_parallel=4, by_heads=False)),
    "top_two offloaded, recomputed": ("top_two", Sharding(expert_parallel=2, offload_experts=True, recompute=True)),
}


def many(folder: Path, packed: str, *cases: str) -> dict[str, Any]:
    text = load_packed(Path(packed))
    return {case: trained(*FOUR[case], text, folder / case) for case in cases}


@pytest.fixture(scope="module", params=[0, 1])
def four(
    request: pytest.FixtureRequest, text: PackedDataset, tmp_path_factory: pytest.TempPathFactory
) -> list[dict[str, Any]]:
    """Every second case, so that no process lives for minutes."""
    return together(many, tmp_path_factory.mktemp("four"), 4, text.folder, *list(FOUR)[request.param :: 2])


@pytest.mark.slow
def test_four_processes_train_a_sharded_model_as_one_does(one: dict[str, Any], four: list[dict[str, Any]]) -> None:
    assert len(four[0]) == len(FOUR) // 2
    for case in four[0]:
        assert_same([rank[case] for rank in four], one[FOUR[case][0]])


def stepping(folder: Path, packed: str, processes: str) -> list[Any]:
    """Trains with a checkpoint after every step."""
    count = min(int(processes), 2)
    progress = train(
        SYSTEMS["top_two"]().double(),
        load_packed(Path(packed)),
        CONFIG,
        seed=0,
        checkpoint=folder / "run",
        checkpoint_seconds=0.0,
        sharding=Sharding(expert_parallel=count),
    )
    assert progress is not None
    return progress.curve


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 1])
def test_after_one_of_four_was_killed_fewer_go_on_to_the_same_loss(
    one: dict[str, Any], text: PackedDataset, tmp_path: Path, processes: int
) -> None:
    commands = start(stepping, tmp_path, 4, text.folder, "4")
    try:
        while not (tmp_path / "run" / "000005").is_dir():
            assert all(command.process.is_alive() for command in commands)
            time.sleep(0.005)
        commands[2].process.kill()
        for command in commands:
            command.process.join(60)
        assert [command.process.exitcode != 0 for command in commands] == [True] * 4
    finally:
        for command in commands:
            command.process.kill()
    saved = max(int(path.name) for path in (tmp_path / "run").iterdir() if path.name.isdecimal())
    assert 5 <= saved < CONFIG.steps
    for curve in together(stepping, tmp_path, processes, text.folder, str(processes)):
        for point, wanted in zip(curve, one["top_two"]["curve"], strict=True):
            assert point["task_loss"] == pytest.approx(wanted["task_loss"], rel=1e-5)
