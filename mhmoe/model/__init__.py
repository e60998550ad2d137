"""A language model of these layers, in Hugging Face's format; and the layers inside other libraries' models.

earlier_folders: reads what earlier versions saved. integrate: layers of ours in another library's model. upcycle: a
dense model becomes a mixture. checkpoints: any causal model. alike: how alike the experts of a layer are.
"""

READING_ORDER = (
    "config",
    "transformer",
    "earlier_folders",
    "outputs",
    "base_model",
    "language_model",
    "masked",
    "integrate",
    "upcycle",
    "checkpoints",
    "alike",
)
