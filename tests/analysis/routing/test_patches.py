"""Experts by the texture of patches: images whose texture is known, and against a plain count."""

from statistics import fmean

import numpy as np
import pytest
import torch

from analysis.routing.patches import measure_patches, texture
from mhmoe.data.images import VisualTokenizer, symbols
from mhmoe.data.tokenizer import train_tokenizer
from mhmoe.model.masked import language_model
from mhmoe.training.seeding import seed_parameters
from tests.small import make_config

DRAW = np.random.RandomState(0)
IMAGES = [DRAW.randint(0, 256, (8, 8, 3)).astype(np.uint8) // (1 + 7 * (n % 2)) for n in range(6)]
VISUAL = VisualTokenizer.learn(IMAGES, 8, 2)
TOKENIZER = train_tokenizer(["a word"], 270, symbols=symbols(8))
SEED = 3


def test_texture_is_the_mean_step_between_neighbours_of_a_patch_alone() -> None:
    board = np.indices((4, 4)).sum(axis=0) % 2 * 255
    image = np.repeat(board[:, :, None], 3, axis=2).astype(np.uint8)
    image[:2, :2] = 100  # flat, beside pixels of other values
    image[2:, 2:] = np.array([[10, 10], [40, 40]])[:, :, None]  # two steps of 30 and two of none
    assert texture(image, 2).tolist() == pytest.approx([0.0, 255.0, 255.0, 15.0])


def test_tenths_are_means_of_a_plain_count_over_patches_in_their_order() -> None:
    config = make_config("mhmoe compute", is_causal=False, vocab_size=270, max_position_embeddings=32)
    model = language_model(config)
    seed_parameters(model, SEED)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "o_proj" in name:
                parameter *= 3.0  # other weights than those that it started from
    found = measure_patches(model.eval(), TOKENIZER, VISUAL, IMAGES, SEED)
    assert found.patches == 6 * 16 and found.images == 6 and found.texture == sorted(found.texture)

    def counted() -> np.ndarray:
        values: list[float] = []
        for image in IMAGES:
            ids = torch.tensor([[0, *TOKENIZER.encode(VISUAL.encode(image)).ids]])
            with torch.no_grad():
                routing = model(ids, output_routing=True).routing
            for token in range(1, ids.shape[1]):
                values.append(fmean(len(set(layer.index[0, token].flatten().tolist())) for layer in routing))
        order = np.argsort(np.concatenate([texture(image, 2) for image in IMAGES]), kind="stable")
        return np.array([np.array(values)[tenth].mean() for tenth in np.array_split(order, 10)])

    assert found.trained.by_tenth == pytest.approx(counted().tolist())
    assert found.trained.flat == pytest.approx(np.mean(found.trained.by_tenth[:3]))
    model.load_state_dict(start)
    assert found.untrained.by_tenth == pytest.approx(counted().tolist())
    assert found.trained.by_tenth != found.untrained.by_tenth
