"""The models of Figure 7: eight heads, the sub-tokens of a word, under both matchings and in both arms."""

from experiments.kinds.words import HEADS
from experiments.system import System
from experiments.systems import mhmoe
from experiments.tuning import tuned

SEEDS = 5  # with fewer, no difference between words could pass the correction for so many claims

SYSTEMS: dict[str, System] = {
    f"MH-MoE, h = {HEADS}": mhmoe(8, "parameters", HEADS, seeds=SEEDS),
    f"MH-MoE, h = {HEADS}, equal FLOPs": mhmoe(8, "compute", HEADS, seeds=SEEDS),
    f"MH-MoE, h = {HEADS}, tuned": tuned("mhmoe_{}_parameters", seeds=SEEDS, parts=HEADS),
    f"MH-MoE, h = {HEADS}, equal FLOPs, tuned": tuned("mhmoe_{}_compute", seeds=SEEDS, parts=HEADS),
}
