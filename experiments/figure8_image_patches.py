"""Figures 8 and 10: do the sub-tokens of patches with texture go to more different experts?

Paper (v1, Section 5.2, Figure 8, and with h = 8 Figure 10): a few images at 100k, 200k and 250k steps, in which regions
with texture grow brighter and flat ones darker. Here patches of 500 images are counted, before training and after it.
The models with four heads are those of Table 1 (masked multi-modal).
Cost beyond that table: cpu a quarter of an hour on two cores. Run: make figure8 SCALE=cpu
"""

from collections.abc import Mapping

from experiments.kinds.patches import IMAGE_PATCHES, PatchesFigure, patch_claims
from experiments.layers import HEADS
from experiments.scales import MULTIMODAL
from experiments.systems import mhmoe
from mhmoe.layers.matching import Matching

MATCHINGS: Mapping[Matching, str] = {"parameters": "equal parameters", "compute": "equal FLOPs"}
SYSTEMS = {
    f"MH-MoE, h = {heads}, {name}": mhmoe(8, matching, heads)
    for heads in (HEADS, 8)
    for matching, name in MATCHINGS.items()
}

PAGE = PatchesFigure(
    slug="figure8_image_patches",
    title="Figure 8: different experts of an image patch's sub-tokens",
    task=MULTIMODAL,
    systems=SYSTEMS,
    measurements=(IMAGE_PATCHES,),
    claims=patch_claims(SYSTEMS),
)
