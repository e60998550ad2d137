"""The model as a graph: exported or traced from one input, right for inputs of other shapes and routings."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.commands import program
from tests.small import make, tokens

SHAPES = [(2, 9), (4, 12), (3, 5), (7, 2)]
SYSTEMS = ["dense", "xmoe with biases and norms", "mhmoe compute"]


def assert_right_for_other_inputs(graph: Any, model: Any) -> None:
    for shape in SHAPES:
        ids: Tensor = tokens(*shape)
        assert torch.allclose(graph(ids)["logits"], model(ids).logits, atol=1e-5), shape


@pytest.mark.parametrize("attention", ["sdpa", pytest.param("eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_model_exported_with_any_batch_and_length_is_right_for_others(system: str, attention: str) -> None:
    model, any_size = make(system, attention=attention), torch.export.Dim.DYNAMIC
    shapes = {"input_ids": {0: any_size, 1: any_size}}
    program = torch.export.export(model, (tokens(3, 7),), dynamic_shapes=shapes, strict=False)
    assert_right_for_other_inputs(program.module(), model)


COMPILED = """
import torch
from tests.commands import program
from tests.small import make, tokens
model, ids = make("mhmoe compute"), tokens(3, 7)
compiled = torch.compile(model, backend="eager", fullgraph=True)
for training, options in ((True, {"labels": ids}), (False, {"attention_mask": torch.ones_like(ids)})):
    model.train(training)
    ours, plain = compiled(ids, **options), model(ids, **options)
    assert ours.keys() == plain.keys()
    assert torch.allclose(ours.logits, plain.logits, atol=1e-5)
"""


def test_the_whole_model_is_one_graph_for_the_compiler() -> None:
    """In a process of its own, as the checks of shapes in tests are none of the compiler's."""
    done = program(COMPILED).wait()
    assert done.code == 0, done.err


# The tracer reads every attribute of a model, also those that transformers has given up.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_traced_model_is_right_for_other_inputs(system: str) -> None:
    model = make(system)
    assert_right_for_other_inputs(torch.jit.trace(model, tokens(3, 7), strict=False), model)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_the_meta_device_tells_the_shapes_of_every_output(system: str, attention: str) -> None:
    model, ids = make(system, attention=attention), tokens(2, 9)
    options: dict[str, Any] = {"labels": ids, "output_routing": True, "output_hidden_states": True}
    real, meta = model(ids, **options), model.to("meta")(ids.to("meta"), **options | {"labels": ids.to("meta")})
    assert real.keys() == meta.keys()
    assert meta.logits.is_meta and meta.logits.shape == real.logits.shape and meta.loss.shape == ()
    for ours, theirs in zip(real.routing, meta.routing, strict=True):
        assert [part.shape for part in ours] == [part.shape for part in theirs]


@pytest.mark.parametrize("system", SYSTEMS)
def test_no_rows_and_no_tokens_give_no_logits(system: str) -> None:
    model = make(system)
    for batch, length in ((0, 5), (2, 0), (0, 0)):
        assert model(tokens(batch, length)).logits.shape == (batch, length, 61)
