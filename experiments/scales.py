"""The five scales at which every experiment can be run.

Models have the sizes of the presets of `python -m mhmoe train`. All systems of a scale share model, text, data order,
steps and optimiser; they differ in the feed-forward config of their MoE blocks alone (systems.py).
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from experiments.stand_in.folder import GeneratedFolder
from mhmoe.commands.presets import PRESETS
from mhmoe.data.corpora import SLIMPAJAMA, HubCorpus, LocalCorpus
from mhmoe.data.embedded import EmbeddedCorpus
from mhmoe.data.masking import BEIT3
from mhmoe.data.multilingual import XNLI_LANGUAGES, MultilingualCorpus
from mhmoe.data.multimodal import MultimodalCorpus
from mhmoe.data.packing import PackingConfig
from mhmoe.data.partly_synthetic import PartlyGeneratedCorpus
from mhmoe.data.shapes import Shapes
from mhmoe.data.synthetic import GeneratedCorpus
from mhmoe.io import UserError

Corpora = Callable[
    [],
    EmbeddedCorpus
    | LocalCorpus
    | HubCorpus
    | MultilingualCorpus
    | MultimodalCorpus
    | GeneratedCorpus
    | PartlyGeneratedCorpus,
]


MULTIMODAL = "multimodal"
"""The task of masked images and text."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """What a scale reads for another pre-training task than English; its vocabulary is the packing's. model, training:
    what replaces the scale's arguments."""

    corpus: Corpora
    packing: PackingConfig
    seeds: Sequence[int]
    model: Mapping[str, Any] = field(default_factory=dict[str, Any])
    training: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A size at which every experiment can be run.

    model: arguments of MHMoEConfig other than the layers. training: arguments of TrainingConfig other than
    the learning rate. learning_rates: the grid that every system gets, tried with the first of `tuning_seeds` on
    `tuning_share` of the steps; a grid of one is taken as it is, and without a grid what was chosen at `settled_at`.
    Searches take both `tuning_seeds`. seeds: of the final runs. multiple_of: inner widths are multiples of it. texts:
    what other tasks than English read. stand_in: what takes the place of the data folder where none is given; None
    where one must be. trials: at most so many points of a search. settled_at: the scale whose searches settle this
    one's tuned systems; "" for itself. ffn: of its networks (activation, bias, inner_norm), the same for every system.
    """

    name: str
    purpose: str
    model: Mapping[str, Any]
    corpus: Corpora
    packing: PackingConfig
    training: Mapping[str, Any]
    learning_rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seeds: tuple[int, int] = (1000, 1001)
    tuning_share: float = 1 / 3
    multiple_of: int = 8
    device: str = "cpu"
    texts: Mapping[str, Text] = field(default_factory=dict[str, Text])
    stand_in: GeneratedFolder | None = None
    trials: int = 32
    settled_at: str = ""
    ffn: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __hash__(self) -> int:
        return hash(self.name)  # equal scales have one; the mappings have no hash

    def on(self, device: str) -> "Scale":
        """The scale on a device: cpu, cuda, auto for CUDA where there is any, "" for its own."""
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device not in ("", "cpu", "cuda"):
            raise UserError(f"device={device!r} is not known; choose auto, cpu or cuda")
        return dataclasses.replace(self, device=device or self.device)

    def reserves(self, seed: int) -> bool:
        """Whether a seed chooses rates and settings, and so is none of a final run."""
        return seed in self.tuning_seeds and len(self.learning_rates) > 1

    def reads(self, task: str) -> bool:
        """Whether the scale has text for a task."""
        return task == "english" or task in self.texts

    def for_task(self, task: str) -> "Scale":
        """The scale with a task's text, vocabulary and seeds. Raises UserError if it has no text for the task."""
        if task == "english":
            return self
        if not self.reads(task):
            known = ", ".join(["english", *self.texts])
            raise UserError(f"scale {self.name} has no text for task {task!r}; it has {known}")
        text = self.texts[task]
        model = {**self.model, "vocab_size": text.packing.vocab_size, **text.model}
        training = {**self.training, **text.training}
        read = {"corpus": text.corpus, "packing": text.packing, "seeds": text.seeds}
        return dataclasses.replace(self, model=model, training=training, **read)


def _masked(corpus: Corpora, packing: PackingConfig, seeds: Sequence[int]) -> Text:
    """Images and text, of which tokens are masked; v1's weight decay for it (Table 10)."""
    return Text(
        corpus=corpus,
        packing=packing,
        seeds=seeds,
        model={"is_causal": False},
        training={"masked": tuple(BEIT3.items()), "weight_decay": 0.05},
    )


def hub_revision() -> str:
    """The pinned revision of the paper scale's text, from MHMOE_HUB_REVISION; recorded with every run."""
    return os.environ.get("MHMOE_HUB_REVISION", "")


def _as_preset(name: str) -> dict[str, Any]:
    """How a preset trains, but for its learning rate, which is chosen here."""
    return {option: value for option, value in PRESETS[name].training.items() if option != "learning_rate"}


# Of the smoke scale, where nothing needs a download: what questions are asked about.
_ENGLISH = GeneratedCorpus(
    languages=2, topics=10, headwords=200, most_senses=8, documents_per_split=400, train_factor=6, sentences=1
)
_LANGUAGES = GeneratedCorpus(
    languages=len(XNLI_LANGUAGES), topics=28, headwords=280, documents_per_split=280, train_factor=6, sentences=2
)
_SMOKE = PackingConfig(
    vocab_size=512,
    max_train_tokens=130_000,
    tokenizer_characters=500_000,
    max_valid_tokens=20_000,
    max_test_tokens=20_000,
)

SMOKE = Scale(
    name="smoke",
    purpose="CI and first contact: minutes on two cores, the environment's own documentation and generated text",
    model=PRESETS["smoke"].model,
    corpus=lambda: PartlyGeneratedCorpus(embedded=EmbeddedCorpus(max_characters=2_000_000), generated=_ENGLISH),
    packing=_SMOKE,
    training={**_as_preset("smoke"), "steps": 60},
    learning_rates=(8e-3,),
    seeds=(1,),
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,  # of `stand_in`, unless a folder is given
            packing=dataclasses.replace(_SMOKE, vocab_size=1024),
            seeds=(1,),
        ),
        "generated": Text(
            corpus=lambda: GeneratedCorpus(languages=2, headwords=180, documents_per_split=240, sentences=1),
            packing=dataclasses.replace(_SMOKE, max_valid_tokens=None, max_test_tokens=None),
            seeds=(1,),
        ),
        MULTIMODAL: _masked(
            corpus=lambda: MultimodalCorpus(
                images=Shapes(), text=GeneratedCorpus(documents_per_split=240), codes=64, learned_from=200
            ),
            packing=_SMOKE,
            seeds=(1,),
        ),
    },
    stand_in=GeneratedFolder(english=_ENGLISH, multilingual=_LANGUAGES),
    trials=4,
)

_CPU = PackingConfig(vocab_size=2048, max_train_tokens=2_000_000, max_valid_tokens=200_000, max_test_tokens=400_000)
_MASKED = PackingConfig(vocab_size=2560, max_train_tokens=2_000_000, max_valid_tokens=24_000, max_test_tokens=64_000)
_GPU = PackingConfig(vocab_size=16_384, max_train_tokens=28_000_000, max_valid_tokens=400_000, max_test_tokens=400_000)

CPU = Scale(
    name="cpu",
    purpose="a laptop; the default. Trends, not the paper's numbers",
    model=PRESETS["laptop"].model,
    corpus=LocalCorpus,
    packing=_CPU,
    training={**_as_preset("laptop"), "steps": 976, "precision": "bfloat16"},
    learning_rates=(2e-3, 4e-3, 8e-3, 1.6e-2),
    tuning_share=1 / 4,
    seeds=(1, 2, 3, 4, 5),
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,
            packing=dataclasses.replace(_CPU, vocab_size=4096),
            seeds=(1, 2, 3),
        ),
        "generated": Text(
            corpus=lambda: GeneratedCorpus(languages=2, topics=12, headwords=1200, documents_per_split=1600),
            packing=PackingConfig(vocab_size=2048, max_train_tokens=2_000_000),
            seeds=(1, 2, 3, 4, 5),
        ),
        MULTIMODAL: _masked(MultimodalCorpus, _MASKED, seeds=(1, 2, 3)),
    },
)

LONG = dataclasses.replace(
    CPU,
    name="long",
    purpose="the model of cpu on six times the tokens, any device; many runs share one GPU",
    packing=dataclasses.replace(_CPU, max_train_tokens=24_000_000),
    training={**CPU.training, "steps": 2930, "batch_sequences": 32, "evaluations": 20},
    learning_rates=(4e-3, 8e-3, 1.6e-2),
    seeds=(1, 2, 3),
    texts={MULTIMODAL: _masked(MultimodalCorpus, dataclasses.replace(_MASKED, max_train_tokens=7_500_000), (1, 2, 3))},
    settled_at="cpu",
)

GPU = Scale(
    name="gpu",
    purpose="one large GPU: three seeds of Table 1 in ten minutes, when many runs share it",
    model=PRESETS["gpu"].model,
    corpus=LocalCorpus,
    packing=_GPU,
    training={**_as_preset("gpu"), "steps": 600, "precision": "bfloat16"},
    learning_rates=(),
    seeds=(1, 2, 3),
    device="cuda",
    settled_at="cpu",
    texts={
        "multilingual": Text(
            corpus=MultilingualCorpus,
            packing=_GPU,
            seeds=(1, 2, 3),
        )
    },
)

PAPER = Scale(
    name="paper",
    purpose="a cluster: v1's sizes, whose parameter counts equal its Table 11",
    model={**PRESETS["paper"].model, "vocab_size": 100_277},  # of cl100k_base
    ffn=PRESETS["paper"].network,
    corpus=lambda: HubCorpus(dataset=SLIMPAJAMA, revision=hub_revision()),
    packing=PackingConfig(
        vocab_size=100_277,
        max_train_tokens=6_000_000_000,
        max_valid_tokens=4_000_000,
        max_test_tokens=4_000_000,
    ),
    training={**_as_preset("paper"), "steps": 250_000, "precision": "bfloat16"},
    learning_rates=(5e-4,),
    seeds=(1,),
    multiple_of=1,
    device="cuda",
)

SCALES = {scale.name: scale for scale in (SMOKE, CPU, LONG, GPU, PAPER)}
