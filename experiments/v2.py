"""The systems of v2 (arXiv 2411.16205) and what it claims of them, for its five tables.

v2's models are SwiGLU throughout, with a mixture in every second block: SMoE, k = 1 of 8 experts as wide as the other
blocks' network (8/3 dim); fine-grained SMoE, each cut in two; MH-MoE with h = 2 and 3, k = h, of equal FLOPs and
parameters. All have X-MoE's router here. Two ways to train:

    published    at the paper scale, k = 1; MH-MoE as it is printed, and as its own equations solve for SwiGLU
    tuned        elsewhere: SMoE with k = 2, as all of the tuned arm, and MH-MoE with k = 2 h; at the best points that
                 the search found for Dense, X-MoE, fine-grained X-MoE and MH-MoE
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from analysis.claims.measured import MeasuredClaim, Quantity
from analysis.claims.rules import Claim
from analysis.texts import TextLosses
from baselines.xmoe import xmoe
from experiments.claims import higher, lower
from experiments.kinds.texts import TEXT_LOSSES, TextRow, TextsTable
from experiments.paper import paper_number, paper_pair
from experiments.scales import PAPER, Scale
from experiments.system import System
from experiments.tuning import TOP_K, at_best
from mhmoe.layers.bitnet import in_precision
from mhmoe.layers.config import LayerConfig
from mhmoe.layers.experts import FeedForwardConfig
from mhmoe.layers.fine_grained import fine_grained
from mhmoe.layers.matching import match, with_sizes
from mhmoe.layers.multi_head import MultiHeadConfig
from mhmoe.layers.sparse_moe import SparseMoEConfig

EXPERTS, SEEDS = 8, 3
TEXTS = {"books": "RedPajama", "Wikipedia": "Wikipedia", "web": "C4"}
HEADS = (2, 3)


def network(scale: Scale) -> FeedForwardConfig:
    """Of the ordinary blocks: 2048 at 768."""
    dim = scale.model["hidden_size"]
    inner = max(round(8 * dim / 3 / scale.multiple_of), 1) * scale.multiple_of
    return FeedForwardConfig(dim=dim, inner_dim=inner, activation="swiglu")


def smoe(scale: Scale, top_k: int) -> SparseMoEConfig:
    width = network(scale).inner_dim
    return xmoe(scale.model["hidden_size"], EXPERTS, top_k, expert_dim=width, activation="swiglu")


def mhmoe(scale: Scale, top_k: int, heads: int, layers: int = 1) -> MultiHeadConfig:
    """Of the FLOPs and parameters of SMoE with `top_k`, by v2's equations for SwiGLU."""
    sizes = {"heads": heads, "top_k": heads * top_k, "layers": layers}
    return match("compute", smoe(scale, top_k), **sizes, multiple_of=scale.multiple_of)


def printed(scale: Scale, top_k: int, heads: int) -> MultiHeadConfig:
    """As v2 prints it, at its own width; elsewhere as it is solved."""
    if scale.name != PAPER.name:
        return mhmoe(scale, top_k, heads)
    return with_sizes(smoe(scale, top_k), heads=heads, **paper_number(("v2_mhmoe_sizes", str(heads))))


@dataclass(frozen=True, kw_only=True)
class Model:
    """layer: at a scale, of the size of SMoE with so many choices. at: where the search's best point is taken from.
    matching: as of a System."""

    name: str
    label: str
    at: str
    layer: Callable[[Scale, int], LayerConfig] = field(repr=False, hash=False, compare=False)
    bitnet: bool = False
    matching: str = ""

    def system(self, top_k: int) -> System:
        def in_its_precision(layer: LayerConfig) -> LayerConfig:
            return in_precision(layer, "bitnet") if self.bitnet else layer

        return System(
            self.name,
            self.label,
            lambda scale: in_its_precision(self.layer(scale, top_k)),
            model={"attention_precision": "bitnet"} if self.bitnet else {},
            feed_forward=lambda scale: in_its_precision(network(scale)),
            matching=self.matching,
        )

    @property
    def published(self) -> System:
        return self.system(1)

    @property
    def tuned(self) -> System:
        system = at_best(self.at, self.name, self.label, lambda point: self.system(TOP_K), SEEDS)
        return replace(system, role="", matching=self.matching)

    def but(self, name: str, label: str, layer: Callable[[Scale, LayerConfig], LayerConfig]) -> "Model":
        """The model with its layer changed."""
        old = self.layer
        label = f"{self.label}, {label}"
        return replace(
            self, name=f"{self.name}_{name}", label=label, layer=lambda scale, k: layer(scale, old(scale, k))
        )


MHMOE_POINT = "mhmoe_{}_compute"
DENSE = Model(
    name="v2_dense",
    label="Dense",
    at="dense",
    layer=lambda scale, k: network(scale).replace(inner_dim=k * network(scale).inner_dim),
)
SMOE = Model(name="v2_smoe", label="SMoE, 8 experts", at="xmoe_{}", layer=smoe)
FINE = Model(
    name="v2_fine",
    label="fine-grained SMoE, 16 experts",
    at="fine_{}",
    layer=lambda scale, k: fine_grained(smoe(scale, k), 2),
)
MHMOE = {
    heads: Model(
        name=f"v2_mhmoe_h{heads}",
        label=f"MH-MoE, h = {heads}",
        at=MHMOE_POINT,
        layer=lambda scale, k, heads=heads: mhmoe(scale, k, heads),
        matching="compute",
    )
    for heads in HEADS
}
AS_PRINTED = {
    heads: replace(
        MHMOE[heads],
        name=f"v2_mhmoe_h{heads}_printed",
        label=f"MH-MoE, h = {heads}, as printed",
        layer=lambda scale, k, heads=heads: printed(scale, k, heads),
    )
    for heads in HEADS
}
NAMES = ("dense", "smoe", "fine_grained", "mhmoe_h2", "mhmoe_h3")
MODELS = dict(zip(NAMES, (DENSE, SMOE, FINE, *MHMOE.values()), strict=True))


def with_shared(model: Model) -> Model:
    """With a network for every row beside the experts, as wide as that of the other blocks. Inside heads it sees
    sub-tokens: it has its FLOPs there, and 1/h of its parameters."""

    def shared(scale: Scale, layer: LayerConfig) -> LayerConfig:
        if isinstance(layer, MultiHeadConfig):
            return layer.replace(inner=shared(scale, layer.inner))
        assert isinstance(layer, SparseMoEConfig)
        return layer.replace(shared=network(scale).replace(dim=layer.dim))

    return model.but("shared", "shared expert", shared)


def in_bitnet(model: Model) -> Model:
    """Ternary weights and 8 bits in every projection, network and expert of every block."""
    return replace(model, name=f"{model.name}_bitnet", label=f"{model.label}, BitNet", bitnet=True)


def with_layers(model: Model) -> Model:
    """With a head and a merge layer around, nothing split and nothing matched."""

    def around(scale: Scale, layer: LayerConfig) -> LayerConfig:
        return MultiHeadConfig(dim=scale.model["hidden_size"], heads=1, inner=layer)

    return model.but("mlp", "with head and merge layers", around)


def at_point_of_mhmoe(model: Model) -> Model:
    """The model at MH-MoE's best point, for pages on which one thing alone may differ."""
    return replace(model, name=f"{model.name}_there", at=MHMOE_POINT)


# ---- rows and claims -------------------------------------------------------------------------


def where(*path: str | int, offset: int = 0) -> list[tuple[str | int, ...]]:
    """The paths of the three printed numbers of a row."""
    return [(*path, offset + place) for place in range(len(TEXTS))]


def table_of_models(
    *,
    slug: str,
    title: str,
    paper: str,
    source: str,
    change: Callable[[Model], Model] = lambda model: model,
    arms: Sequence[str] = ("tuned", "published"),
    notes: Sequence[str] = (),
) -> TextsTable:
    """v2's models, all changed alike, and the claim that each lies above the next. paper: where it is printed, after
    100,000 steps. arms: of the claims about the rows, and about those as printed if they have any."""
    found = {name: change(model) for name, model in MODELS.items() if name in paper_number((paper, "100000"))}
    as_printed = {
        name: change(AS_PRINTED[int(name[-1])]) if name.startswith("mhmoe") else model for name, model in found.items()
    }
    places = {name: where(paper, "100000", name) for name in found}
    rows = [TextRow(system=model.tuned, paper=places[name]) for name, model in found.items()]
    printed_rows = [TextRow(system=model.published, paper=places[name]) for name, model in as_printed.items()]
    solved = [TextRow(system=found[name].published) for name in found if name.startswith("mhmoe")]
    return TextsTable(
        slug=slug,
        title=title,
        texts=TEXTS,
        rows=rows,
        as_printed=[*printed_rows, *solved],
        reference=list(found).index("smoe"),
        measurements=(TEXT_LOSSES,),
        claims=[
            claim
            for of, arm in zip((rows, printed_rows), arms, strict=False)
            for pair in pairwise(of)
            for claim in above(*pair, arm=arm, table=source)
        ],
        notes=notes,
    )


def above(worse: TextRow, better: TextRow, *, arm: str, table: str) -> list[Claim | MeasuredClaim]:
    """That the first row has higher perplexity than the second, on the training text's `test` and on every text."""
    source = table + ("" if arm == "published" else f", {arm}")
    poor, good = worse.system, better.system
    test = lower(f"test: {good.label} has lower perplexity than {poor.label}", source, good, poor, arm=arm)
    on_texts = [
        higher(
            f"{text}: {poor.label} has higher perplexity than {good.label}",
            source,
            TEXT_LOSSES,
            (poor, _nats(text)),
            (good, _nats(text)),
            paper=paper_pair(worse.paper[i], better.paper[i]) if worse.paper and better.paper else None,
            matching=good.matching,
            arm=arm,
        )
        for i, text in enumerate(TEXTS)
    ]
    return [test, *on_texts]


def _nats(text: str) -> Quantity[TextLosses]:
    return Quantity(name=f"loss on {text}", unit="nats a token", of=lambda found: found.texts[text].nll_per_token)
