"""A published model's parameters, from its printed sizes: the layers' own counts, plus attention and embeddings.

    total   = embeddings + attention + norms + other + sum over blocks of the feed-forward layer's parameters
    active  = the same with the feed-forward layers' active parameters: what one token makes use of

Attention with grouped queries has dim (q + 2 kv) + q dim parameters, q and kv being heads times head width. Embeddings
count whole in both, as the papers count them. Left out: biases and relative-position tables, below 0.1% here.
"""

from dataclasses import dataclass

from mhmoe.layers.config import LayerConfig


@dataclass(frozen=True, kw_only=True)
class Published:
    """A model as it is printed. `total` and `active` are what is printed of its parameters, in billions."""

    layers: int
    moe: LayerConfig
    moe_layers: int
    dense: LayerConfig | None = None
    heads: int
    head_dim: int
    kv_heads: int | None = None
    attentions: int | None = None
    """Attention layers: by default one a block. A decoder that reads an encoder has two a block."""
    vocab_size: int
    tied: bool = False
    other: int = 0
    """Parameters of parts that this package does not build, such as Mamba's."""
    total: float
    active: float | None = None

    @property
    def dim(self) -> int:
        return self.moe.dim  # pyright: ignore[reportAttributeAccessIssue]  # every feed-forward config has it

    def parameters(self) -> int:
        return self._shared() + self.moe_layers * self.moe.parameters() + self._dense()

    def active_parameters(self) -> int:
        return self._shared() + self.moe_layers * self.moe.active_parameters() + self._dense()

    def _dense(self) -> int:
        return 0 if self.dense is None else (self.layers - self.moe_layers) * self.dense.parameters()

    def _shared(self) -> int:
        queries = self.heads * self.head_dim
        keys = (self.heads if self.kv_heads is None else self.kv_heads) * self.head_dim
        attention = self.dim * (queries + 2 * keys) + queries * self.dim
        attentions = self.layers if self.attentions is None else self.attentions
        embeddings = self.vocab_size * self.dim * (1 if self.tied else 2)
        norms = (attentions + self.layers + 1) * self.dim
        return embeddings + attentions * attention + norms + self.other
