"""How fast the layer and the training are, against peers and against what the machine could do.

peers, contenders: the layers that are compared, of equal work. timing: one measurement of several
contenders, in turns. roofline: what the machine reaches, and the time that the work needs at least.
layer_speed, training_speed: two benchmarks, each also the process that measures one setting. zero_shot_speed: lm-eval's
command beside ours. measured_page: a measurement with a page of its own, as a command: routing_speed (as experts grow
in number), generation_speed (at equal total parameters), generation_peers (beside transformers' Mixtral).
verdicts: the bounds, met or not. figure, report: what is written. `make bench` runs it all.
"""

READING_ORDER = (
    "peers",
    "fused_products",
    "contenders",
    "timing",
    "roofline",
    "layer_speed",
    "measured_page",
    "card_table",
    "card_speed",
    "training_speed",
    "routing_speed",
    "generation_speed",
    "generation_peers",
    "zero_shot_speed",
    "verdicts",
    "figure",
    "report",
)
