"""To how many different experts the sub-tokens of an image's patches go, by how much texture a patch has.

    texture(patch) = mean absolute difference of luminance between neighbouring pixels, from 0 to 255
    divergence     different experts that its h sub-tokens reach, mean over layers, as of words (words/sub_tokens.py)

v1's Figure 8 shows a few images at three points of training, and concludes that sub-tokens of "high-frequency texture
regions" spread over more experts and those of flat regions over fewer. Here it is counted: patches of many images in
tenths by texture, in the trained model and in the one that it started from. Images are read whole, nothing masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from tokenizers import Tokenizer

from analysis.claims.measured import Quantity
from analysis.results import Result
from analysis.routing.text import encode, end_of_text, untrained, windows_of_ids
from analysis.routing.words.sub_tokens import token_divergence
from mhmoe.data.images import Pixels, VisualTokenizer
from mhmoe.model.language_model import MHMoEForCausalLM

TENTHS = 10
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_SIDE = 3  # tenths that count as flat, and as full of texture


@dataclass(frozen=True, kw_only=True)
class PatchDivergence:
    """by_tenth: mean divergence of each tenth of the patches, those with the least texture first. correlation: of
    divergence and texture, in ranks (Spearman); None where one of them is the same everywhere."""

    by_tenth: list[float]
    correlation: float | None

    @property
    def flat(self) -> float:
        return float(np.mean(self.by_tenth[:_SIDE]))

    @property
    def textured(self) -> float:
        return float(np.mean(self.by_tenth[-_SIDE:]))


@dataclass(frozen=True, kw_only=True)
class PatchRouting(Result):
    """Of a model, and of the one that it started from. texture: mean of each tenth."""

    images: int
    patches: int
    texture: list[float]
    trained: PatchDivergence
    untrained: PatchDivergence


FLAT = Quantity[PatchRouting](name="flat patches", unit="experts", of=lambda found: found.trained.flat)
TEXTURED = Quantity[PatchRouting](name="textured patches", unit="experts", of=lambda found: found.trained.textured)
GAP = Quantity[PatchRouting](
    name="textured above flat", unit="experts", of=lambda found: found.trained.textured - found.trained.flat
)
GAP_BEFORE = Quantity[PatchRouting](
    name="textured above flat, before training",
    unit="experts",
    of=lambda found: found.untrained.textured - found.untrained.flat,
)


def texture(image: Pixels, patch: int) -> npt.NDArray[np.float64]:
    """Of each patch of an image [side, side, 3], row by row."""
    grey = image.astype(np.float64) @ np.array(_LUMINANCE)
    rows, columns = (size // patch for size in grey.shape)
    tiles = grey.reshape(rows, patch, columns, patch).transpose(0, 2, 1, 3).reshape(rows * columns, patch, patch)
    steps = [np.abs(np.diff(tiles, axis=axis)).reshape(len(tiles), -1) for axis in (1, 2)]
    return np.concatenate(steps, axis=1).mean(axis=1)


def measure_patches(
    model: MHMoEForCausalLM, tokenizer: Tokenizer, visual: VisualTokenizer, images: Sequence[Pixels], seed: int
) -> PatchRouting:
    """seed: that the model started from. Raises ValueError without images, or if the model has no MoE layer."""
    ids = [encoding.ids for encoding in encode([visual.encode(image) for image in images], tokenizer)]
    windows = windows_of_ids(ids, model.config.max_position_embeddings, end_of_text(model))
    textures = np.concatenate([texture(image, visual.patch) for image in images])
    order = np.argsort(textures, kind="stable")
    tenths = np.array_split(order, TENTHS)

    def measured(of: MHMoEForCausalLM) -> PatchDivergence:
        divergence = np.concatenate(token_divergence(of, windows, [len(one) for one in ids]))
        return PatchDivergence(
            by_tenth=[float(divergence[tenth].mean()) for tenth in tenths],
            correlation=_rank_correlation(textures, divergence),
        )

    return PatchRouting(
        images=len(images),
        patches=len(textures),
        texture=[float(textures[tenth].mean()) for tenth in tenths],
        trained=measured(model),
        untrained=measured(untrained(model, seed)),
    )


def _rank_correlation(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float | None:
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])
