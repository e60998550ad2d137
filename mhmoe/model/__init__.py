"""A language model of these layers, in Hugging Face's format; and the layers inside other libraries' models.

earlier_folders: reads what earlier versions saved. integrate: HiddenOnly. checkpoints: any causal model. alike: how
alike the experts of a layer are.
"""

READING_ORDER = (
    "integrate",
    "config",
    "transformer",
    "earlier_folders",
    "outputs",
    "base_model",
    "language_model",
    "checkpoints",
    "alike",
)
