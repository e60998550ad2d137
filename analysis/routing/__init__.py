"""Which experts a text goes to.

text: a text through a model. activation: counts; measures: what follows from them; dropped: what a capacity drops;
heatmaps, activation_figure: their figures. routing_page: token by token; explorer: such pages for any text; inspect:
the command. words: the same by words; patches: by patches of images.
"""

READING_ORDER = (
    "text",
    "measures",
    "activation",
    "dropped",
    "heatmaps",
    "activation_figure",
    "routing_page",
    "explorer",
    "inspect",
    "words",
    "patches",
)
