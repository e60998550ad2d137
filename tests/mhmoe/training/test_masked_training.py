"""Training on masked tokens minimises the mean over those of the global batch, however it is cut."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mhmoe.data.batches import EvaluationSet, TrainingBatches
from mhmoe.data.masking import BEIT3, MaskedBatches, Masking, masked_windows
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackedDataset, PackingConfig, load_packed, pack
from mhmoe.data.shapes import Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError
from mhmoe.layers.expert_choice import ExpertChoiceConfig
from mhmoe.layers.experts import ExpertsConfig
from mhmoe.layers.routers import XMoERouterConfig
from mhmoe.model.masked import MHMoEForMaskedLM
from mhmoe.training.config import Sharding, TrainingConfig
from mhmoe.training.evaluation import evaluate
from mhmoe.training.loop import seed_parameters, train
from mhmoe.training.objective import Objective, accumulate_gradients
from mhmoe.training.watch import Evaluated, Watch, Watcher
from tests import tiny
from tests.processes import together

SYSTEMS = ("dense", "xmoe", "mhmoe_compute")
CONFIG = dataclasses.replace(tiny.TRAINING, masked=tuple(BEIT3.items()))
SHORT = dataclasses.replace(CONFIG, steps=6, evaluations=2, evaluation_windows=8)
CORPUS = MultimodalCorpus(
    images=Shapes(side=8, images_per_split=30, train_factor=5),
    text=GeneratedCorpus(documents_per_split=8),
    patch=2,
    codes=20,
    piece_characters=120,
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return pack(CORPUS, tiny.PACKING, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Text without images."""
    return tiny.text(tmp_path_factory.mktemp("plain"))


def model(system: str, seed: int = 0, **options: Any) -> MHMoEForMaskedLM:
    made = MHMoEForMaskedLM(tiny.config(system, is_causal=False, **options))
    seed_parameters(made, seed)
    return made


def batch(text: PackedDataset, rank: int = 0, world: int = 1) -> Tensor:
    batches = TrainingBatches(text.train, CONFIG.length, CONFIG.batch_sequences, seed=0)
    return torch.from_numpy(MaskedBatches(batches=batches, masking=masking(text)).batch(0, rank, world))


def masking(text: PackedDataset) -> Masking:
    return Masking.of(text, BEIT3)


def with_one_masked(tokens: Tensor) -> Tensor:
    """All but the first masked token of a batch as they were."""
    first = (tokens < 0) & ((tokens < 0).flatten().cumsum(0).view_as(tokens) == 1)
    return torch.where((tokens < 0) & ~first, -1 - tokens, tokens)


def written_out(masked: Tensor, mask: int) -> tuple[Tensor, Tensor]:
    """What is read and what is predicted, token by token."""
    read = [[mask if token < 0 else token for token in row] for row in masked.tolist()]
    targets = [[-1 - token if token < 0 else -100 for token in row] for row in masked.tolist()]
    return torch.tensor(read), torch.tensor(targets)


def by_hand(
    text: PackedDataset, system: str, weight: float = 0.0, tokens: Tensor | None = None
) -> tuple[dict[str, Tensor], float, float]:
    """Gradients, mean nll of the masked tokens and balance loss, without the objective."""
    own = model(system)
    read, targets = written_out(batch(text) if tokens is None else tokens, masking(text).mask)
    output = own(read)
    nll = output.logits.log_softmax(dim=-1)[targets >= 0].gather(1, targets[targets >= 0][:, None])
    loss = -nll.mean()
    balance = torch.zeros(()) if output.balance_loss is None else output.balance_loss
    (loss + weight * balance).backward()
    return tiny.gradients(own), loss.item(), balance.item()


def of_objective(
    tokens: Tensor, text: PackedDataset, system: str, weight: float = 0.0, **changes: Any
) -> tuple[dict[str, Tensor], float, float]:
    own, config = model(system), dataclasses.replace(CONFIG, **changes)
    found = accumulate_gradients(Objective(own, "float32"), tokens, config, weight, masking(text).mask)
    return tiny.gradients(own), found.nll, found.balance


# ---- one step -------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batches", [1, 2, 4])
@pytest.mark.parametrize(("system", "weight"), [("dense", 0.0), ("xmoe", 0.0), ("mhmoe_compute", 0.5)])
def test_loss_and_gradient_are_of_the_mean_over_masked_tokens(
    text: PackedDataset, system: str, weight: float, micro_batches: int
) -> None:
    tokens = batch(text)
    assert tokens.shape == (CONFIG.batch_sequences, CONFIG.length)
    counts = (tokens < 0).sum(dim=1)
    assert len(set(counts.tolist())) > 3  # uneven: a mean of the rows' means would be another
    wanted, nll, balance = by_hand(text, system, weight)
    ours = of_objective(tokens, text, system, weight, micro_batches=micro_batches)
    assert ours[1:] == pytest.approx((nll, balance), rel=1e-5)
    assert tiny.worst_tensor(ours[0], wanted) < 1e-4 and tiny.difference(ours[0], wanted) < 1e-5


def test_a_part_in_which_nothing_is_masked_adds_nothing(text: PackedDataset) -> None:
    tokens = batch(text)
    tokens[:2] = torch.where(tokens[:2] < 0, -1 - tokens[:2], tokens[:2])
    four, nll, _ = of_objective(tokens, text, "dense", micro_batches=4)
    one, wanted, _ = of_objective(tokens[2:], text, "dense", micro_batches=1)
    assert nll == pytest.approx(wanted, rel=1e-6) and tiny.worst_tensor(four, one) < 1e-5


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_a_batch_in_which_nothing_is_masked_has_no_gradient_and_no_nan(text: PackedDataset, micro_batches: int) -> None:
    """As one of few and short rows may be."""
    tokens = batch(text)
    tokens = torch.where(tokens < 0, -1 - tokens, tokens)
    gradients, nll, _ = of_objective(tokens, text, "dense", micro_batches=micro_batches)
    assert nll == 0 and all(not gradient.any() for gradient in gradients.values())


def test_blocks_computed_twice_give_the_same_gradients(text: PackedDataset) -> None:
    own, tokens = model("mhmoe_compute"), batch(text)
    tiny.checkpoint_blocks(own, reentrant=False)
    accumulate_gradients(Objective(own, "float32"), tokens, CONFIG, 0.5, masking(text).mask)
    assert tiny.worst_tensor(tiny.gradients(own), of_objective(tokens, text, "mhmoe_compute", 0.5)[0]) < 1e-6


# ---- several processes ----------------------------------------------------------------------


def work(folder: Path, packed: str) -> dict[str, Any]:
    """What one of two processes does."""
    text, found, rank = load_packed(Path(packed)), dict[str, Any](), dist.get_rank()
    for system in SYSTEMS:
        for micro_batches in (1, 2):
            own = model(system)
            objective = nn.parallel.DistributedDataParallel(Objective(own, "float32"))
            config = dataclasses.replace(CONFIG, micro_batches=micro_batches)
            tokens = batch(text, rank, 2)
            losses = accumulate_gradients(objective, tokens, config, 0.5, masking(text).mask)[:2]
            found[f"{system} {micro_batches}"] = (tiny.gradients(own), losses, int((tokens < 0).sum()))
    own, tokens = model("dense"), with_one_masked(batch(text)).chunk(2)[rank]
    objective = nn.parallel.DistributedDataParallel(Objective(own, "float32"))
    losses = accumulate_gradients(objective, tokens, CONFIG, 0.0, masking(text).mask)[:2]
    found["one masked"] = (tiny.gradients(own), losses, int((tokens < 0).sum()))
    own = model("mhmoe_compute").double()
    progress = train(own, text, SHORT, seed=0)
    assert progress is not None
    found["trained"] = (own.state_dict(), progress.curve)
    own, path = model("mhmoe_compute").double(), folder / "sharded"
    progress = train(own, text, SHORT, seed=0, checkpoint=path, sharding=Sharding())
    assert progress is not None
    found["sharded"] = progress.curve
    return found


@pytest.fixture(scope="module")
def two(text: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return together(work, tmp_path_factory.mktemp("two"), 2, text.folder)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("system", SYSTEMS)
def test_two_processes_give_the_loss_and_gradient_of_one(
    text: PackedDataset, two: list[dict[str, Any]], system: str, micro_batches: int
) -> None:
    """Of all masked tokens, of which one process has more than the other."""
    wanted, nll, balance = by_hand(text, system, 0.5)
    found = [rank[f"{system} {micro_batches}"] for rank in two]
    assert found[0][2] != found[1][2]
    for gradients, _, _ in found:
        assert tiny.difference(gradients, wanted) < 1e-5
    means = [sum(losses[term] for _, losses, _ in found) / 2 for term in (0, 1)]
    assert means == pytest.approx([nll, balance], rel=1e-5)


def test_two_processes_with_one_masked_token_in_all_give_the_loss_and_gradient_of_one(
    text: PackedDataset, two: list[dict[str, Any]]
) -> None:
    wanted, nll, _ = by_hand(text, "dense", tokens=with_one_masked(batch(text)))
    found = [rank["one masked"] for rank in two]
    assert [count for _, _, count in found] == [1, 0]
    assert sum(losses[0] for _, losses, _ in found) / 2 == pytest.approx(nll, rel=1e-5)
    assert all(tiny.difference(gradients, wanted) < 1e-5 for gradients, _, _ in found)


def test_two_processes_train_to_the_weights_and_the_curve_of_one(
    text: PackedDataset, two: list[dict[str, Any]]
) -> None:
    own = model("mhmoe_compute").double()
    progress = train(own, text, SHORT, seed=0)
    assert progress is not None
    for rank in two:
        assert tiny.difference(rank["trained"][0], own.state_dict()) < 1e-5
        for curve in (rank["trained"][1], rank["sharded"]):
            for ours, wanted in zip(curve, progress.curve, strict=True):
                for name in ("step", "tokens", "task_loss", "balance_loss", "valid_nll"):
                    assert ours[name] == pytest.approx(wanted[name], rel=1e-5)


# ---- runs -----------------------------------------------------------------------------------


def test_training_lowers_the_loss_below_that_of_frequencies(text: PackedDataset) -> None:
    """What stands around a masked token says more than how frequent it is."""
    own = model("mhmoe_compute")
    before = evaluate(own, text.valid, 32, masking=masking(text))["nll_per_token"]
    config = dataclasses.replace(CONFIG, steps=90, evaluations=3)
    progress = train(own, text, config, seed=0)
    assert progress is not None
    losses = [point["valid_nll"] for point in progress.curve]
    counts = np.bincount(text.train)
    counts[text.end_of_text] = 0
    shares = counts[counts > 0] / counts.sum()
    unigram = -float((shares * np.log(shares)).sum())
    assert before > 5 and losses[0] > losses[-1] and losses[-1] < unigram - 0.1


@pytest.mark.parametrize("system", ["dense", "mhmoe_compute"])
def test_a_run_that_was_interrupted_ends_with_the_same_weights(
    text: PackedDataset, system: str, tmp_path: Path
) -> None:
    whole, path, pieces = model(system), tmp_path / "run.pt", 0
    progress = train(whole, text, SHORT, seed=3)
    own = model(system)
    while (found := train(own, text, SHORT, seed=3, checkpoint=path, deadline=0.0)) is None:
        own, pieces = model(system, seed=9), pieces + 1
    assert progress is not None and pieces >= SHORT.steps - 1
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in whole.state_dict().items())
    assert [p["valid_nll"] for p in found.curve] == [p["valid_nll"] for p in progress.curve]


def test_other_shares_are_another_run(text: PackedDataset, tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    assert train(model("dense"), text, SHORT, seed=0, checkpoint=path, deadline=0.0) is None
    other = dataclasses.replace(SHORT, masked=(("text", 0.2), ("paired_text", 0.5), ("image", 0.4)))
    with pytest.raises(UserError, match="belongs to another run"):
        train(model("dense"), text, other, seed=0, checkpoint=path)


class Kept(Watcher):
    """Of what is told, the points of the curve."""

    def __init__(self) -> None:
        self.points: list[Evaluated] = []

    def on_evaluation(self, found: Evaluated) -> None:
        self.points.append(found)


def test_a_model_of_expert_choice_trains_drops_nothing_and_has_no_balance_loss(text: PackedDataset) -> None:
    experts, kept = ExpertsConfig(dim=tiny.DIM, num_experts=4, expert_dim=16), Kept()
    moe = ExpertChoiceConfig(router=XMoERouterConfig(dim=tiny.DIM, num_experts=4, top_k=2), experts=experts)
    own = model("xmoe", moe=moe.to_dict())
    with Watch(kept) as watch:
        progress = train(own, text, dataclasses.replace(SHORT, steps=40), seed=0, watch=watch)
    assert progress is not None and progress.curve[-1]["valid_nll"] < progress.curve[0]["valid_nll"]
    assert {point["balance_loss"] for point in progress.curve} == {0.0}
    assert kept.points and all(point.dropped == [0.0] and len(point.alike) == 1 for point in kept.points)


# ---- evaluation -----------------------------------------------------------------------------


@torch.no_grad()
def plain_evaluation(
    own: nn.Module, split: EvaluationSet, length: int, of: Masking, most: int | None
) -> tuple[dict[str, float], dict[str, int]]:
    """Window by window and token by token: of each document the summed nll in nats, and its tokens."""
    nll, tokens = dict.fromkeys(split.ids, 0.0), dict.fromkeys(split.ids, 0)
    for window, owners in zip(*masked_windows(split, length, of, most), strict=True):
        read, targets = written_out(torch.from_numpy(window)[None], of.mask)
        logits = own(read).logits[0].double()
        for place in torch.nonzero(targets[0] >= 0)[:, 0].tolist():
            document = split.ids[int(owners[place])]
            nll[document] += float(logits[place].logsumexp(0) - logits[place, targets[0, place]])
            tokens[document] += 1
    return nll, tokens


@pytest.mark.parametrize(("length", "most"), [(32, None), (7, None), (32, 5)])
def test_an_evaluation_is_that_of_a_plain_loop_over_windows(text: PackedDataset, length: int, most: int | None) -> None:
    own, split = model("mhmoe_compute").eval(), text.valid.first(300)
    found = evaluate(own, split, length, batch_size=5, max_windows=most, masking=masking(text))
    nll, tokens = plain_evaluation(own, split, length, masking(text), most)
    reached = [id_ for id_ in split.ids if tokens[id_]]
    assert [row["id"] for row in found["documents"]] == reached
    for row in found["documents"]:
        assert row["nll"] == pytest.approx(nll[row["id"]], rel=1e-5) and row["tokens"] == tokens[row["id"]]
    assert found["nll_per_token"] == pytest.approx(sum(nll.values()) / sum(tokens.values()), rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["nll_per_token"]), rel=1e-6)
    sizes = dict(zip(split.ids, np.diff(split.offsets), strict=True))
    size = dict(zip(split.ids, split.num_bytes, strict=True))
    if most is None:
        assert tokens == sizes and {row["id"]: row["bytes"] for row in found["documents"]} == size
        assert found["tokens"] == len(split.tokens)
    else:
        assert 0 < len(reached) < len(split.ids)
        for row in found["documents"]:
            share = tokens[row["id"]] / sizes[row["id"]]
            assert 0 < share <= 1 and row["bytes"] == pytest.approx(share * size[row["id"]], abs=1)


def test_an_evaluation_leaves_a_model_as_it_was(text: PackedDataset) -> None:
    own = model("dense").train()
    first = evaluate(own, text.valid, 32, masking=masking(text))
    assert own.training and evaluate(own, text.valid, 32, masking=masking(text)) == first


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda text, _: train(tiny.model("dense"), text, SHORT, seed=0),
            r"is_causal=True cannot be trained with masked=\(\('text', 0.15\)",
        ),
        (
            lambda text, _: train(model("dense"), text, tiny.TRAINING, seed=0),
            r"is_causal=False cannot be trained with masked=\(\)",
        ),
        (lambda _, plain: train(model("dense"), plain, SHORT, seed=0), "this text has no images"),
    ],
    ids=["causal", "nothing masked", "no images"],
)
def test_what_does_not_fit_together_is_refused(
    act: Callable[[PackedDataset, PackedDataset], Any], message: str, text: PackedDataset, plain: PackedDataset
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        act(text, plain)
    assert "\n" not in str(caught.value)


# ---- the config -----------------------------------------------------------------------------


def test_a_config_comes_back_from_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # JSON has lists in the place of tuples
    assert TrainingConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    assert CONFIG.to_dict()["masked"] == (("text", 0.15), ("paired_text", 0.5), ("image", 0.4))


def test_without_masked_it_is_written_as_before() -> None:
    assert "masked" not in tiny.TRAINING.to_dict()
    assert TrainingConfig.from_dict(tiny.TRAINING.to_dict()) == tiny.TRAINING


@pytest.mark.parametrize(
    "value",
    [
        (("text", 0.15), ("image", 0.4)),
        (("text", 0.15), ("paired_text", 0.5)),
        (("text", 0.15), ("paired_text", 0.5), ("image", 0.0)),
        (("text", 0.15), ("paired_text", 1.5), ("image", 0.4)),
        (("text", 0.15), ("paired_text", math.nan), ("image", 0.4)),
        (("text", 0.15), ("paired_text", 0.5), ("image", 0.4), ("sound", 0.4)),
        (("text", 0.15), ("paired_text", 0.5), ("image", 0.4), ("image", 0.9)),
        {"text": 0.15, "paired_text": 0.5, "image": 0.4},
        0.15,
    ],
    ids=str,
)
def test_masked_that_lacks_a_kind_or_has_no_share_of_it_is_refused(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # users run without the type checks
    with pytest.raises(ValueError, match=r"masked=") as caught:
        dataclasses.replace(CONFIG, masked=value)
    assert "\n" not in str(caught.value)


def test_a_packing_without_room_for_more_than_bytes_trains_too(tmp_path: Path) -> None:
    """The smallest vocabulary; the largest token is the last visual one."""
    size = 257 + 1 + CORPUS.codes
    small = pack(CORPUS, PackingConfig(vocab_size=size, max_train_tokens=3000), tmp_path)
    assert train(model("dense", vocab_size=size), small, SHORT, seed=0) is not None
    with pytest.raises(UserError, match=f"the text has token {size - 1}"):
        train(model("dense", vocab_size=size - 1), small, SHORT, seed=0)
