"""A figure of routing on any text, and what is claimed of it (v1 Section 5.1).

    effective experts                exp of the entropy of a layer's load, over all of them, mean over layers
    experts that a token reaches     different experts of a layer over all of them, mean over tokens and layers
    bits about the group             mutual information of a choice and the text's group (specialisation)

The paper's activation ratio counts experts above a threshold that it does not print; these two need none. Between
systems of unequal k and h the second is decided by their arithmetic (X-MoE reaches k of N whatever its router does),
so systems are compared by the first, and a system with itself before training by the second. The most bits that a
choice can tell fall with k h too: systems of equal k h and as many experts are compared.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.claims.measured import MeasuredClaim, Quantity
from analysis.routing.activation import (
    ExpertActivation,
    GroupRouting,
    QuestionRouting,
    measure_activation,
    measure_groups,
    uniform_null,
)
from analysis.routing.activation_figure import activation_curves
from analysis.routing.heatmaps import activation_heatmaps, group_heatmaps
from analysis.routing.measures import Counts, Summary, summary, total
from analysis.routing.text import end_of_text, load_checkpoint, routes, untrained, windows_of_texts
from analysis.tables import Column, Row, seeds_text, table_markdown
from analysis.zero_shot.harness import questions
from analysis.zero_shot.tasks import find
from experiments.claims import higher
from experiments.kinds.score_table import files_of_tasks
from experiments.report.captions import caption_of, generated_note, measured_systems, of_all, setting_of
from experiments.report.looks import looks
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.layers.per_head import PerHeadRouterConfig

COLUMNS = (
    Column("label", "system"),
    Column("router", "router"),
    Column("seeds", "seeds"),
    Column("distinct_share", "experts that a token reaches", ".2f", 100, "%"),
    Column("effective_experts", "effective experts", ".2f"),
    Column("collapsed_share", "collapsed", ".1f", 100, "%"),
    Column("largest_load", "largest load", ".3f"),
    Column("bits", "bits about the group", ".3f"),
    Column("normalised", "of the most possible", ".1f", 100, "%"),
    Column("permuted_bits", "permuted groups", ".3f"),
    Column("permuted_quantile", "95% of them below", ".3f"),
    Column("dominant_share", "of an expert, its busiest group", ".1f", 100, "%"),
)
_EXPLAINED = (
    "Means over MoE layers and seeds. Experts that a token reaches: different experts of a layer, of all. Effective: "
    "exp of the entropy of the load. Collapsed: experts with less than a tenth of the even share. Largest load: share "
    "of the busiest expert. Bits about the group: what the choice of an expert tells of the {group}; of the most "
    "possible: log2 of the number of groups or experts, which choices of several experts cannot reach; groups dealt "
    "out anew: bits when the texts' groups are permuted, mean and 95% quantile. Of an expert, its busiest group: the "
    "largest share that a {group} has of it, mean over experts, all {group}s counting equally; {even:.1%} if it takes "
    "no sides. Untrained: the same seed before training. Random: every sub-token or token takes experts at random, of "
    "those that it may choose."
)


@dataclass(frozen=True, kw_only=True)
class RoutingFigure(Page):
    """Which experts a text goes to: heatmaps, activation against the threshold, groups of texts, and nulls.

    The first of `measurements`, for the systems by the label they have in the figures. text: what was read, and
    group: what its groups are. printed: what the paper prints for the activation ratio, by its label.
    """

    measurements: Sequence[Measurement[QuestionRouting]] = ()
    systems: Mapping[str, System]
    text: str
    group: str
    printed: Mapping[str, float] = field(default_factory=dict[str, float])

    def all_systems(self) -> list[System]:
        return unique([*self.systems.values()])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        found, runs = measured_systems(self.measurements[0], self.systems, scale, records, self.task)
        if not found:
            return None
        counts = {label: {seed: total(v.trained.groups) for seed, v in seeds.items()} for label, seeds in found.items()}
        first = {label: next(iter(seeds)) for label, seeds in found.items()}
        tokens = next(iter(next(iter(counts.values())).values())).tokens
        lines = caption_of(runs, of_all(found))
        read = f"Read: questions of {self.text}, {tokens:,} tokens.{generated_note(of_all(found))}"
        note = f"{setting_of(runs)}; {seeds_text(seeds for seeds in found.values())}. {read}"
        one = f"{setting_of(runs)}. {read} Models of seed {' and '.join(map(str, sorted(set(first.values()))))} alone."
        stem = f"{self.slug}_{scale.name}"
        activation_heatmaps(
            {self.text: {label: seeds[first[label]] for label, seeds in counts.items()}},
            folder / f"{stem}.png",
            title=self.title,
            note=f"{one} A layer makes h k selections a token, which is most of how systems differ in colour.",
        )
        random = {
            label: [uniform_null(c, seed, heads_apart=self._apart(label, records)) for seed, c in seeds.items()]
            for label, seeds in counts.items()
        }
        nulls = {
            "untrained": {label: [total(v.untrained.groups) for v in seeds.values()] for label, seeds in found.items()},
            "random": random,
        }
        activation_curves(
            {label: list(seeds.values()) for label, seeds in counts.items()},
            folder / f"{stem}_thresholds.png",
            title="Activation ratio against its threshold",
            note=note,
            paper=self.printed,
            nulls=nulls,
            looks=looks({label: self.systems[label] for label in found}),
        )
        group_heatmaps(
            {label: seeds[first[label]].trained.groups for label, seeds in found.items()},
            folder / f"{stem}_groups.png",
            title=f"Experts by {self.group}",
            note=f"{one} Any routing has a diagonal in this order; what a choice tells of the {self.group}: "
            "see the table.",
            group=self.group,
        )
        rows = [row for label, seeds in found.items() for row in _rows(label, seeds, random[label])]
        groups = len(of_all(found)[0].trained.groups)
        lines.append(_EXPLAINED.format(group=self.group, even=1 / groups))
        pictures = "".join(
            f"![{title}]({stem}{part}.png)\n\n"
            for title, part in ((self.title, ""), ("Thresholds", "_thresholds"), (f"By {self.group}", "_groups"))
        )
        return Section(pictures + table_markdown(COLUMNS, rows, caption=lines), COLUMNS, rows)

    def _apart(self, label: str, records: Records) -> bool:
        """Whether each head of what is trained as this system has experts of its own."""
        system = self.systems[label].chosen(records) or self.systems[label]
        layer = system.layer(records.scale)
        return layer is not None and any(isinstance(part, PerHeadRouterConfig) for part in layer.parts())


def _rows(label: str, seeds: Mapping[int, QuestionRouting], random: Sequence[Counts]) -> list[Row]:
    """Trained, untrained and random."""
    rows: list[Row] = []
    routers = {"trained": [v.trained for v in seeds.values()], "untrained": [v.untrained for v in seeds.values()]}
    for router, found in routers.items():
        told = {
            "bits": [of.specialisation.bits for of in found],
            "normalised": [of.specialisation.normalised for of in found],
            "dominant_share": [of.specialisation.dominant_share for of in found],
            "permuted_bits": [of.permuted.mean_bits for of in found],
            "permuted_quantile": [of.permuted.quantile_95_bits for of in found],
        }
        means = {name: float(np.mean(values)) for name, values in told.items()}
        rows.append({"label": label, "router": router, **_means([total(of.groups) for of in found]), **means})
    return [*rows, {"label": label, "router": "random", **_means(random)}]


def _means(seeds: Sequence[Counts]) -> Row:
    measures = [dataclasses.asdict(summary(counts)) for counts in seeds]
    return {"seeds": len(seeds), **{name: float(np.mean([m[name] for m in measures])) for name in measures[0]}}


def _share(
    name: str, measure: Callable[[Summary], float], router: Callable[[QuestionRouting], GroupRouting]
) -> Quantity[QuestionRouting]:
    return Quantity(
        name=name,
        unit="points (% of a layer's experts)",
        of=lambda result: 100 * measure(summary(total(router(result).groups))),
    )


EFFECTIVE = _share("experts in effective use", lambda s: s.effective_share, lambda r: r.trained)
REACHED = _share("experts that a token reaches", lambda s: s.distinct_share, lambda r: r.trained)
REACHED_UNTRAINED = _share(
    "experts that a token reaches before training", lambda s: s.distinct_share, lambda r: r.untrained
)
BITS = Quantity[QuestionRouting](
    name="bits about the group", unit="bits", of=lambda r: float(np.mean(r.trained.specialisation.bits))
)


def routing_claims(
    systems: Mapping[str, System],
    measurement: Measurement[QuestionRouting],
    group: str,
    *,
    denser: Sequence[tuple[str, str, str]],
    telling: Sequence[tuple[str, str, str]] = (),
) -> list[MeasuredClaim]:
    """That each of `denser` (labels of the denser and the sparser system, who says so) has more experts in effective
    use; that the choices of the first of `telling` tell more of the group; and that training makes the tokens of
    systems with heads reach more."""
    claims = [
        higher(
            f"{dense}: more {EFFECTIVE.name} than {sparse}",
            source,
            measurement,
            (systems[dense], EFFECTIVE),
            (systems[sparse], EFFECTIVE),
        )
        for dense, sparse, source in denser
    ]
    claims += [
        higher(
            f"{more}: a choice tells more of the {group} than with {less}",
            source,
            measurement,
            (systems[more], BITS),
            (systems[less], BITS),
            matching=systems[more].matching or systems[less].matching,
        )
        for more, less, source in telling
    ]
    claims += [
        higher(
            f"{label}: more {REACHED.name} than before training",
            "ours: against the untrained router",
            measurement,
            (system, REACHED),
            (system, REACHED_UNTRAINED),
        )
        for label, system in systems.items()
        if system.matching
    ]
    return claims


# ---- what is measured -----------------------------------------------------------------------


def _activation(subject: Subject, settings: Mapping[str, Any]) -> ExpertActivation | None:
    model, windows = subject.read(settings["split"])
    if not routes(model):
        return None
    return ExpertActivation(counts=measure_activation(model, windows.spaced(settings["max_windows"])))


def _question_routing(subject: Subject, settings: Mapping[str, Any]) -> QuestionRouting | None:
    model, tokenizer = load_checkpoint(subject.model)
    if not routes(model):
        return None
    tasks = {task.folder: task for task in find(settings["tasks"])}  # the same questions once
    texts, source = questions([*tasks.values()], subject.data.path, settings["items"])
    groups = [name for name, several in zip(tasks, texts.values(), strict=True) for _ in several]
    length = model.config.max_position_embeddings
    asked = [text for several in texts.values() for text in several]
    windows = windows_of_texts(asked, tokenizer, length, end_of_text(model))
    return QuestionRouting(
        data=source,
        trained=measure_groups(model, windows, groups),
        untrained=measure_groups(untrained(model, subject.seed), windows, groups),
    )


def _routed(name: str, tasks: Sequence[str]) -> Measurement[QuestionRouting]:
    """Which experts the questions of some tasks go to."""
    return Measurement(
        name=name,
        settings={"tasks": [*tasks], "items": 250},
        smoke={"items": 20},
        result=QuestionRouting,
        measure=_question_routing,
        files=files_of_tasks,
    )


EXPERT_ACTIVATION = Measurement(
    name="expert_activation",  # how often each expert is chosen on the test text
    settings={"split": "test", "max_windows": 1024},
    result=ExpertActivation,
    measure=_activation,
)
ROUTING_ENGLISH = _routed("routing_english", ["english"])
ROUTING_XNLI = _routed("routing_xnli", ["xnli"])
