"""Tables of words: every comparison over seeds, and whether the senses were learned."""

from collections.abc import Mapping

import numpy as np

from analysis.routing.words.known_senses import KnownSenses
from analysis.routing.words.senses import WordRouting
from analysis.statistics import CONFIDENCE
from analysis.tables import Column, Row

COMPARISONS = (
    Column("label", "system"),
    Column("compared", "compared"),
    Column("view", "view"),
    Column("seeds", "seeds"),
    Column("n", "n"),
    Column("first", "first group", ".3f"),
    Column("second", "second group", ".3f"),
    Column("difference", "difference", "+.4f"),
    Column("cohens_d", "Cohen's d", "+.3f"),
    Column("d_low", "lowest", "+.3f"),
    Column("d_high", "highest", "+.3f"),
    Column("significant", "above / below, p < 0.05"),
)
CHOICES = (
    Column("label", "system"),
    Column("router", "model"),
    Column("seeds", "seeds"),
    Column("n", "choices"),
    Column("accuracy", "right sense", ".1f", 100, "%"),
    Column("low", "lowest seed", ".1f", 100, "%"),
    Column("high", "highest seed", ".1f", 100, "%"),
    Column("margin", "margin, nats", "+.3f"),
)
EXPLAINED = (
    "null: the same on the untrained model. change: trained minus untrained. Means over seeds; lowest and highest: the "
    "lowest lower and the highest upper end of d's 95% interval in any seed, over the n words or items; the last "
    f"column counts seeds whose permutation test has p < {1 - CONFIDENCE:.2f}."
)
CHOICES_EXPLAINED = (
    "Are the senses learned? After an ambiguous word, how often the follower that stands in the text is likelier than "
    "one of another sense that the word has in the same language. Chance is 50%."
)


def choice_rows(found: Mapping[str, Mapping[int, WordRouting]]) -> list[Row]:
    """One row a system, and a router of those whose senses are known."""
    rows: list[Row] = []
    for label, seeds in found.items():
        of_seeds = [result.choices for result in seeds.values() if isinstance(result, KnownSenses)]
        for router in of_seeds[0] if of_seeds else ():
            several = [choices[router] for choices in of_seeds]
            rows.append(
                {
                    "label": label,
                    "router": router,
                    "seeds": len(seeds),
                    "n": several[0].n,
                    "accuracy": float(np.mean([one.accuracy for one in several])),
                    "low": min(one.accuracy for one in several),
                    "high": max(one.accuracy for one in several),
                    "margin": float(np.mean([one.margin for one in several])),
                }
            )
    return rows


def comparison_rows(label: str, seeds: Mapping[int, WordRouting], headings: Mapping[str, str]) -> list[Row]:
    """One row a comparison and view of a system. headings: of each comparison, by its name in the results."""
    rows: list[Row] = []
    for key, heading in headings.items():
        for view in next(iter(seeds.values())).comparisons[key]:
            found = [result.comparisons[key][view] for result in seeds.values()]
            found = [f for f in found if f.d_low is not None]  # else too few words, or all alike
            if not found:
                continue
            sure = [f for f in found if f.p_value is not None and f.p_value < 1 - CONFIDENCE]
            up = sum(f.difference is not None and f.difference > 0 for f in sure)
            rows.append(
                {
                    "label": label,
                    "compared": heading,
                    "view": view,
                    "seeds": len(found),
                    "n": " / ".join(f"{n:,}" for n in found[0].n),
                    "first": float(np.mean([f.mean[0] for f in found if f.mean is not None])),
                    "second": float(np.mean([f.mean[1] for f in found if f.mean is not None])),
                    "difference": float(np.mean([f.difference for f in found if f.difference is not None])),
                    "cohens_d": float(np.mean([f.cohens_d for f in found if f.cohens_d is not None])),
                    "d_low": min(f.d_low for f in found if f.d_low is not None),
                    "d_high": max(f.d_high for f in found if f.d_high is not None),
                    "significant": f"{up} / {len(sure) - up} of {len(found)}",
                }
            )
    return rows
