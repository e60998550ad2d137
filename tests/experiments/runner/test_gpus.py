"""What a run is said to need on GPUs, against models that are built, trained and watched."""

import dataclasses
import json
import re
import statistics

import pytest
import torch

from experiments.runner import gpus
from experiments.runner.dry_run import gpu_table
from experiments.runner.gpus import GPUS, GPUs, needs
from experiments.runner.plan import final_runs
from experiments.runner.runs import model_config
from experiments.runner.store import RESULTS, Records
from experiments.scales import PAPER, Scale
from experiments.system import System
from experiments.systems import dense, mhmoe, xmoe
from mhmoe.io import UserError
from mhmoe.model.config import MHMoEConfig
from mhmoe.model.language_model import MHMoEForCausalLM
from mhmoe.training.config import TrainingConfig
from mhmoe.training.loop import train
from mhmoe.training.objective import Objective
from mhmoe.training.optimizer import make_optimizer
from mhmoe.training.seeding import seed_parameters
from tests import tiny

EIGHT = GPUs.parse("8xH100@0.2")
BATCH, LENGTH = 4, 128


def test_the_share_of_the_peak_that_is_assumed_is_what_was_measured_on_a_card() -> None:
    rows = json.loads((RESULTS / "speed" / "card.json").read_text())["rows"]
    reached = {
        row["layer"]: round(row["flops"] / statistics.median(row["seconds"]) / 1e12)
        for row in rows
        if row["path"] == "torch"
    }
    assert GPUs.parse("8xH100").share == reached["MH-MoE at equal FLOPs, 8"] / GPUS["H100"].peak["bfloat16"]
    for layer in ("X-MoE, 8", "X-MoE, 256", "MH-MoE at equal parameters, 8", "MH-MoE at equal FLOPs, 64", "dense FFN"):
        assert str(reached[layer]) in re.findall(r"\d+", (gpus.__doc__ or "").partition("A share of the peak")[2])


def small(blocks: int, **model: object) -> Scale:
    """The paper's model, narrow and shallow."""
    sizes = {"vocab_size": 512, "hidden_size": 96, "num_attention_heads": 4, "num_hidden_layers": blocks}
    return dataclasses.replace(PAPER, name="small", model={**PAPER.model, **sizes, **model}, multiple_of=8)


def on_one(model: MHMoEConfig, precision: str = "float32") -> int:
    """What one GPU keeps for the backward pass of a micro-batch."""
    training = {"batch_sequences": BATCH, "length": LENGTH, "precision": precision}
    return needs(model, training, GPUs.parse("1xH100")).kept


@pytest.mark.parametrize("system", [dense(), xmoe(8), mhmoe(8, "compute")], ids=lambda system: system.name)
def test_the_states_are_the_bytes_of_parameters_gradients_and_moments(system: System) -> None:
    config = model_config(small(2), system)
    model = MHMoEForCausalLM(config)
    training = TrainingConfig(steps=1, batch_sequences=1, length=8, learning_rate=0.01)
    optimizer = make_optimizer(model, training)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    tensors = [t for p in model.parameters() for t in (p.detach(), p.grad)] + moments
    held = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    found = needs(config, {"batch_sequences": 8, "length": 8}, EIGHT)
    assert (found.states, found.sharded_states) == (held, held / 8)


def kept_bytes(config: MHMoEConfig, precision: str) -> tuple[int, int]:
    """What autograd holds after a forward pass beside the parameters: whatever the batch, and of BATCH sequences."""
    model = MHMoEForCausalLM(config)
    seed_parameters(model, 0)
    objective = Objective(model, precision)

    def kept(sequences: int) -> int:
        held: dict[int, torch.UntypedStorage] = {}  # held, so that no other takes its place

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

        tokens = torch.randint(config.vocab_size, (sequences, LENGTH))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            objective(tokens, tokens)
        return sum(storage.nbytes() for place, storage in held.items() if place not in own)

    one, more = kept(1), kept(BATCH + 1)
    return one - (more - one) // BATCH, more - one


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "system", [dense(), xmoe(8), mhmoe(8, "compute"), mhmoe(8, "parameters")], ids=lambda system: system.name
)
def test_what_two_more_blocks_keep_is_within_a_sixth_of_what_autograd_holds(system: System, precision: str) -> None:
    two, four = (model_config(small(blocks), system) for blocks in (2, 4))
    measured = kept_bytes(four, precision)[1] - kept_bytes(two, precision)[1]
    assert on_one(four, precision) - on_one(two, precision) == pytest.approx(measured, rel=1 / 6)


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("system", [dense(), xmoe(8), xmoe(64), mhmoe(8, "compute")], ids=lambda system: system.name)
def test_weights_that_are_kept_whatever_the_batch_are_a_sixth_off_at_most(system: System, precision: str) -> None:
    """Of one GPU; of several each has as many, as sharding does not divide what it does not know."""
    config = model_config(small(2, hidden_size=192), system)
    training = {"batch_sequences": 8, "length": LENGTH, "precision": precision}
    found = [needs(config, training, GPUs.parse(gpus)).weights for gpus in ("1xH100", "8xH100")]
    measured, bytes_of_all = kept_bytes(config, precision)[0], 4 * config.parameters()
    assert found == pytest.approx([measured] * 2, rel=1 / 6, abs=bytes_of_all / 50)


def test_with_256_experts_it_is_these_weights_that_32_v100s_have_no_room_for() -> None:
    found = needs(model_config(PAPER, xmoe(256)), PAPER.training, GPUs.parse("32xV100"))
    room = GPUS["V100"].memory * 2**30
    assert found.sharded - found.weights < room < found.sharded


def test_tokens_a_second_and_days_follow_from_flops_peak_and_share() -> None:
    """A dense model's step is three forward passes; with micro-batches a routed one's blocks run once more."""
    training = {"batch_sequences": 512, "length": 2048, "precision": "bfloat16"}
    config = model_config(PAPER, xmoe(8))
    forward = config.flops_per_token(2048)
    peak = 8 * 989e12 * 0.2
    assert needs(config, training, EIGHT).tokens_per_second == pytest.approx(peak / (3 * forward))
    blocks = forward - 2 * 768 * 100_277
    in_parts = needs(config, {**training, "micro_batches": 8}, EIGHT).tokens_per_second
    assert in_parts == pytest.approx(peak / (3 * forward + blocks))
    runs = list(final_runs(PAPER, "english", xmoe(8), (1,), Records(PAPER)))
    (row,) = (line for line in gpu_table(runs, [EIGHT]).splitlines() if "X-MoE" in line)
    days = 250_000 * 512 * 2048 / in_parts / 86_400
    assert row.split("|")[-2].strip() == f"{days:.1f}"


def test_a_card_without_bfloat16_computes_in_float32_and_keeps_twice_the_numbers() -> None:
    training = {"batch_sequences": 512, "length": 2048, "precision": "bfloat16"}
    config = model_config(PAPER, dense())
    old, new = (needs(config, training, GPUs.parse(f"32x{kind}")) for kind in ("V100", "H100"))
    assert old.tokens_per_second / new.tokens_per_second == pytest.approx(15.7 / 989) and old.kept > new.kept


@pytest.mark.parametrize("text", ["H100", "0xH100", "8xB300", "8xH100@1.5", "8xH100@0.0", "8 x H100"])
def test_gpus_that_are_not_known_are_refused_with_those_that_are(text: str) -> None:
    with pytest.raises(UserError, match="is not known; write how many of V100, A100, H100"):
        GPUs.parse(text)


def test_gpus_that_do_not_divide_the_batch_are_refused_by_number() -> None:
    with pytest.raises(UserError, match="3 GPUs with micro_batches=8 do not divide batch_sequences=512"):
        needs(model_config(PAPER, dense()), PAPER.training, GPUs.parse("3xH100"))


@pytest.mark.slow
@pytest.mark.parametrize("system", [xmoe(8), mhmoe(8, "parameters")], ids=lambda system: system.name)
def test_a_block_of_the_papers_width_and_vocabulary_trains_a_few_steps_on_a_cpu(system: System, tmp_path) -> None:
    scale = dataclasses.replace(PAPER, model={**PAPER.model, "num_hidden_layers": 1, "moe_every": 1})
    config = model_config(scale, system)
    model = MHMoEForCausalLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters()
    seed_parameters(model, 1)
    training = TrainingConfig(
        **{**PAPER.training, "steps": 4, "batch_sequences": 2, "length": 32, "micro_batches": 1, "compile": False},
        learning_rate=5e-4,
    )
    training = dataclasses.replace(training, evaluations=4, evaluation_windows=2)
    progress = train(model, tiny.text(tmp_path), training, seed=1)
    assert progress is not None and progress.step == 4
    losses = [point["valid_nll"] for point in progress.curve]
    assert losses[-1] < losses[0]
