"""Which experts a text goes to.

text: a text through a model. activation: counts; measures: what follows from them; dropped: what a
capacity drops; heatmaps, activation_figure: their
figures. inspect: a command that shows a text's routing. words: the same by words.
"""

READING_ORDER = (
    "text",
    "measures",
    "activation",
    "dropped",
    "heatmaps",
    "activation_figure",
    "inspect",
    "words",
)
