"""What a training run is told: the optimiser and schedule of v1, the batch, and how it is computed."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Optimiser and schedule of v1 (Adam 0.9, 0.98, eps 1e-6, decoupled weight decay 0.01, linear decay).

    A step takes `batch_sequences` sequences of `length` tokens, in `micro_batches` parts per process.
    The rate rises linearly over `warmup` of the steps and falls linearly to 0. Weight decay is for
    matrices alone. `clip_norm` is the released script's. `evaluations` points make the curve.

    `scaled_rates` names matrices of feed-forward networks ("up_proj", "down_proj") whose rate is multiplied
    by the input width that they have in v1's network (dim, 4 dim) over their own, as muP asks of Adam
    (Yang et al. 2022, arXiv 2203.03466, Table 3): experts of unequal width then learn alike.
    """

    steps: int
    batch_sequences: int
    length: int
    learning_rate: float
    warmup: float = 0.04
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    weight_decay: float = 0.01
    clip_norm: float = 2.0
    micro_batches: int = 1
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    evaluations: int = 10
    evaluation_windows: int = 256
    scaled_rates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "steps",
            "batch_sequences",
            "length",
            "micro_batches",
            "evaluations",
            "evaluation_windows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be at least 1")
        for name in ("learning_rate", "eps", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; it must be above 0")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay={self.weight_decay} is not allowed; it must be at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas={self.betas} are not allowed; they must be at least 0 and below 1")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup={self.warmup} is not allowed; it is a fraction of the steps, from 0 to 1")
        if self.batch_sequences % self.micro_batches:
            raise ValueError(
                f"micro_batches={self.micro_batches} does not divide batch_sequences={self.batch_sequences}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision={self.precision!r} is not known; choose float32 or bfloat16")
        if set(self.scaled_rates) - {"up_proj", "down_proj"}:
            raise ValueError(f"scaled_rates={self.scaled_rates} is not allowed; choose from up_proj, down_proj")

    def to_dict(self) -> dict[str, Any]:
        """As records have it: without fields that came later, where they are at their defaults."""
        fields = dataclasses.asdict(self)
        if not self.scaled_rates:
            del fields["scaled_rates"]
        return fields

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
