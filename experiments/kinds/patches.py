"""A figure of how many experts the patches of images reach, by their texture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from analysis.figures import Panel, trend_figure
from analysis.plotting import Point
from analysis.routing.patches import (
    FLAT,
    GAP,
    GAP_BEFORE,
    TENTHS,
    TEXTURED,
    PatchDivergence,
    PatchRouting,
    measure_patches,
)
from analysis.routing.text import load_checkpoint, routes
from analysis.statistics import summarise
from analysis.tables import Column, Row, seeds_text, table_markdown
from experiments.claims import higher
from experiments.report.captions import caption_of, measured_systems, of_all, setting_of
from experiments.report.looks import looks
from experiments.runner.measurements import Measurement, Subject
from experiments.runner.page import Page, Section, unique
from experiments.runner.store import Records
from experiments.scales import Scale
from experiments.system import System
from mhmoe.data.local_images import FILES

COLUMNS = (
    Column("label", "system"),
    Column("weights", "weights"),
    Column("seeds", "seeds"),
    Column("flat", "flat patches", ".3f"),
    Column("textured", "patches with texture", ".3f"),
    Column("gap", "difference", "+.3f"),
    Column("correlation", "rank correlation with texture", "+.3f"),
)


@dataclass(frozen=True, kw_only=True)
class PatchesFigure(Page):
    """The first of `measurements`, for each of the systems by its label."""

    measurements: Sequence[Measurement[PatchRouting]] = ()
    systems: Mapping[str, System]

    def all_systems(self) -> list[System]:
        return unique([*self.systems.values()])

    def section(self, scale: Scale, records: Records, folder: Path) -> Section | None:
        found, runs = measured_systems(self.measurements[0], self.systems, scale, records, self.task)
        if not found:
            return None
        picture, first = f"{self.slug}_{scale.name}.png", of_all(found)[0]
        panels = [
            Panel(
                f"different experts of a patch, {weights}",
                {label: _points([getattr(one, weights) for one in seeds.values()]) for label, seeds in found.items()},
            )
            for weights in ("trained", "untrained")
        ]
        trend_figure(
            panels,
            folder / picture,
            title=self.title,
            x_label=f"patches of {first.images} images, in tenths by texture",
            note=f"{setting_of(runs)}; {seeds_text(found.values())}. Bars: lowest to highest seed.",
            looks=looks({label: self.systems[label] for label in found}),
        )
        rows = [
            {
                "label": label,
                "weights": weights,
                "seeds": len(seeds),
                **_means([getattr(s, weights) for s in seeds.values()]),
            }
            for label, seeds in found.items()
            for weights in ("trained", "untrained")
        ]
        lines = caption_of(runs, of_all(found))
        lines.append(
            f"Different experts that the sub-tokens of a patch reach, means over {first.patches:,} patches of "
            f"{first.images} images, MoE layers and seeds. Flat are the three tenths of the patches with the least "
            "texture, with texture the three with the most. Untrained: the same seed before training."
        )
        return Section(f"![{self.title}]({picture})\n\n" + table_markdown(COLUMNS, rows, caption=lines), COLUMNS, rows)


def _points(seeds: Sequence[PatchDivergence]) -> list[Point]:
    points: list[Point] = []
    for tenth in range(TENTHS):
        values = [one.by_tenth[tenth] for one in seeds]
        points.append(Point(tenth + 1, summarise(values).mean, min(values), max(values), len(values)))
    return points


def _means(seeds: Sequence[PatchDivergence]) -> Row:
    flat, textured = (summarise(getattr(one, name) for one in seeds).mean for name in ("flat", "textured"))
    known = [one.correlation for one in seeds if one.correlation is not None]
    correlation = summarise(known).mean if known else None
    return {"flat": flat, "textured": textured, "gap": textured - flat, "correlation": correlation}


def patch_claims(systems: Mapping[str, System]) -> list[Any]:
    """What v1 sees in its Figure 8, of each system; and that training makes it."""
    return [
        higher(f"{label}: {statement}", source, IMAGE_PATCHES, (system, first), (system, second))
        for label, system in systems.items()
        for statement, source, first, second in (
            ("patches with texture reach more experts than flat ones", "v1 Figure 8", TEXTURED, FLAT),
            ("they do so by more than before training", "v1 Figure 8", GAP, GAP_BEFORE),
        )
    ]


# ---- what is measured ------------------------------------------------------------------------


def _patches(subject: Subject, settings: Mapping[str, Any]) -> PatchRouting | None:
    model, tokenizer = load_checkpoint(subject.model)
    if not routes(model):
        return None
    corpus, source = subject.images(settings["files"])
    images = [image for _, image in islice(corpus.images.images(settings["split"]), settings["images"])]
    found = measure_patches(model, tokenizer, corpus.visual_tokenizer(), images, subject.seed)
    return replace(found, data=source)


IMAGE_PATCHES = Measurement(
    name="image_patches",
    settings={"split": "test", "images": 500, "files": FILES},
    smoke={"images": 100, "files": []},
    result=PatchRouting,
    measure=_patches,
    files=lambda settings: settings["files"],
)
