"""What a training run is told: the optimiser and schedule of v1, the batch, how it is computed, and where it lies."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from mhmoe.data.masking import Kind
from mhmoe.fields import Count, Range, check_fields
from mhmoe.layers.config import Config, config_from_dict
from mhmoe.layers.per_head import PerHeadRouterConfig
from mhmoe.model.config import MHMoEConfig

Multiplier = Annotated[float, Range(above=0, most=10**3)]
_LATER = ("mup_scaled", "lr_multipliers", "base_width", "masked")  # fields that the first records lack
_OLD_NAMES = {"mup_scaled": "scaled_rates"}  # in records
Beta = Annotated[float, Range(least=0, below=1)]
Share = Annotated[float, Range(above=0, most=1)]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimiser and schedule of v1 (Adam 0.9, 0.98, eps 1e-6, decoupled weight decay 0.01, linear decay).

    A step takes `batch_sequences` sequences of `length` tokens, in `micro_batches` parts per process.
    The rate rises linearly over `warmup` of the steps and falls linearly to 0. Weight decay is for
    matrices alone. `clip_norm` is the released script's. `evaluations` points make the curve. Departure: no dropout,
    where v1's Table 10 has 0.1 in the transformer.

    `mup_scaled` names matrices of feed-forward networks ("up_proj", "down_proj") whose rate is multiplied
    by the input width that they have in v1's network (dim, 4 dim) over their own, as muP asks of Adam
    (Yang et al. 2022, arXiv 2203.03466, Table 3): experts of unequal width then learn alike. `lr_multipliers` are
    of the learning rate of all parameters of a part of the feed-forward layers. With `base_width` all matrices
    whose input grows with the model's width learn at the rate times that width over the model's own: a rate found at
    that width then fits, also by muP. Token embeddings do not, nor expert embeddings in X-MoE's space of 16 numbers.

    `masked`: of images and text, which share of each kind of token is masked and predicted (data/masking.py); empty for
    models of the next token.
    """

    steps: Count
    batch_sequences: Count
    length: Count
    learning_rate: Annotated[float, Range(above=0)]
    warmup: Annotated[float, Range(least=0, most=1)] = 0.04
    betas: tuple[Beta, Beta] = (0.9, 0.98)
    eps: Annotated[float, Range(above=0)] = 1e-6
    weight_decay: Annotated[float, Range(least=0)] = 0.01
    clip_norm: Annotated[float, Range(above=0)] = 2.0
    micro_batches: Count = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    evaluations: Count = 10
    evaluation_windows: Count = 256
    mup_scaled: tuple[Literal["up_proj", "down_proj"], ...] = ()
    lr_multipliers: tuple[tuple[Literal["head", "merge", "experts", "router"], Multiplier], ...] = ()
    base_width: Count | None = None
    masked: tuple[tuple[Kind, Share], ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        if self.batch_sequences % self.micro_batches:
            raise ValueError(
                f"micro_batches={self.micro_batches} does not divide batch_sequences={self.batch_sequences}; "
                "choose one that does"
            )
        if self.masked:
            if sorted(kind for kind, _ in self.masked) != sorted(get_args(Kind)):
                kinds = ", ".join(get_args(Kind))
                raise ValueError(f"masked={self.masked} is not allowed; give one share to each of {kinds}")
            in_order = sorted(self.masked, key=lambda pair: get_args(Kind).index(pair[0]))
            object.__setattr__(self, "masked", tuple(in_order))
        if twice := len(self.lr_multipliers) - len(dict(self.lr_multipliers)):
            raise ValueError(f"lr_multipliers={self.lr_multipliers} names {twice} parts twice; name each once")

    def to_dict(self) -> dict[str, Any]:
        """As records have it: without fields that came later, where they are at their defaults, and by old names."""
        fields = dataclasses.asdict(self)
        kept = {name: value for name, value in fields.items() if value or name not in _LATER}
        return {_OLD_NAMES.get(name, name): value for name, value in kept.items()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "TrainingConfig":
        """What `to_dict` says. Raises TypeError and ValueError as the class does."""
        names = {old: name for name, old in _OLD_NAMES.items()}
        return cls(**{names.get(key, key): value for key, value in raw.items()})

    @property
    def tokens_per_step(self) -> int:
        return self.batch_sequences * self.length

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup = max(round(self.warmup * self.steps), 1)
        return self.learning_rate * min((step + 1) / warmup, (self.steps - step) / max(self.steps - warmup, 1))

    def evaluates_after(self, done: int) -> bool:
        """Whether the curve has a point after `done` steps: evenly spaced, the last step included."""
        return done * self.evaluations // self.steps > (done - 1) * self.evaluations // self.steps


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """How one model lies on several processes; which numbers come out does not depend on it, but for what `identity`
    says.

    parameters: "sharded" among all processes, gathered block by block when they are needed (FSDP2), or "replicated" in
    all. expert_parallel: so many processes that follow each other share out the experts of every `SparseMoE`; it
    divides the number of processes. by_heads: layers whose heads have routers of their own share out heads instead
    (Head Parallel). gather_in: what blocks' parameters are cast to before they are gathered; routers and blocks' two
    norms stay in float32, gradients are added up in it, and evaluation computes as training does. offload_experts:
    experts and their optimiser states rest in the CPU's memory. recompute: blocks keep their inputs alone for the
    backward pass (activation checkpointing).
    """

    parameters: Literal["sharded", "replicated"] = "sharded"
    expert_parallel: Count = 1
    by_heads: bool = True
    gather_in: Literal["float32", "bfloat16"] = "float32"
    offload_experts: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        check_fields(self)


def identity(
    model: MHMoEConfig,
    training: TrainingConfig,
    data: Mapping[str, Any],
    processes: int = 1,
    sharding: Sharding | None = None,
) -> dict[str, Any]:
    """All that determines a run's numbers but its seed; `data` is the packed text's fingerprint.

    The number of processes is part of it where experts have a capacity or routers draw: what is dropped or drawn
    depends on each process's share of the batch; and so is the number of those that share out heads, which see each
    other's tokens. Elsewhere it changes the order of sums and nothing else. Parameters gathered in another type are
    other numbers.
    """
    whole: dict[str, Any] = {"model": model.identity(), "training": training.to_dict(), "data": dict(data)}
    found = list(parts(model))
    if processes > 1 and any(part.draws or part.mixes_rows for part in found):
        whole["processes"] = processes
        per_head = any(isinstance(part, PerHeadRouterConfig) for part in found)
        if sharding is not None and sharding.by_heads and sharding.expert_parallel > 1 and per_head:
            whole["head_parallel"] = sharding.expert_parallel
    if sharding is not None and sharding.gather_in != "float32":
        whole["gathered_in"] = sharding.gather_in
    return whole


def parts(model: MHMoEConfig) -> Iterator[Config]:
    """The configs of the model's feed-forward layers, and all in them."""
    layers: list[Any] = [model.feed_forward, model.moe]
    for raw in layers:
        if raw is not None:
            yield from config_from_dict(raw).parts()
