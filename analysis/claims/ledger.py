"""The ledger as a page and as a table: every claim with what the paper says, what the records say, and the verdict."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from analysis.claims.learning_speed import COSTS, log_costs
from analysis.claims.measured import MeasuredClaim
from analysis.claims.rules import LEVEL, Claim, Statement, Verdict, percent_of_perplexity
from analysis.statistics import Interval, effect_found, summarise
from analysis.tables import Column, Row, table_csv
from mhmoe.layers.matching import in_words

RULE = f"""Each line is a claim of the papers, or a control that they lack, and what the committed records say about it;
pages of which no claim can be judged yet are listed at the end, with how many they declare.
The rule is of 22 November 2026, before the first runs of Table 1. "Not testable here" was added on the 26th, when the
model without the layer had been measured (LOG.md). Two systems are compared seed by seed on the same data in the same
order.

- **holds**: the 95% interval of the paired difference over seeds (t distribution) excludes zero in the
  claimed direction, and p after Holm's correction within the table is below {LEVEL}.
- **not reproduced at this scale**: the same in the other direction. **cannot tell**: neither.
- **not testable here**: at this scale a known effect of the same kind is not seen or was not run (for what mixtures
  gain, X-MoE below Dense of equal active FLOPs; for what experts gain, 32 below 8), or a side does not beat the model
  without the layer. Known effects are looked for without Holm's correction: one may be seen that its table, among other
  claims, cannot tell.
- **not run**: a side has no records, or they share fewer than two seeds.

Holm's family is all that a table claims at a scale. What is not run (since the 28th) or not testable counts in it, so
that no claim is judged more easily because others are missing; a difference that is tested twice counts once. Where
seeds were added, or runs trained again, after a look at a difference, p counts twice.

"found at": a true difference of this size is found with 80% chance, given the spread over seeds and as the clearest
of its table's claims; below it "cannot tell" says nothing against the claim.

"ours" is the difference in percent of the other system's perplexity, negative where the claim's favourite
is lower, with its interval over seeds; "documents" is the interval when the test documents are resampled with
the same models (a second source of chance, shown and not judged). For claims of faster learning "ours" is
what the favourite spends until its validation loss is at or below the other's final one, as a ratio to what
the other spent in all: the judged cost with its interval over seeds, then the other costs. Where no seed
reaches that loss, although it spent as much, the claim is not reproduced if the final validation losses differ
by the same rule; where some seeds reach it and some do not, it is "cannot tell". For claims about measured
values "ours" is the difference in the unit that is named, positive where the side named first is higher, and
"documents" its interval over the questions with the same models, where it is a mean of such. Where gains are
compared, each over a system of its own, "ours" is the difference between the two differences, and of perplexities
the percent by which one's ratio is below the other's.
"""


HEADINGS = "verdict", "statement", "ours", "n", "p (Holm)", "found at", "documents", "paper", "matching", "source"
NUMBERS = ("n", "p (Holm)", "found at")
VERDICTS = {
    "holds": "holds",
    "not reproduced": "not reproduced at this scale",
    "cannot tell": "cannot tell",
    "not testable here": "not testable here",
    "not run": "not run",
}
COLUMNS = tuple(
    Column(name, name)
    for name in (
        *("scale", "page", "verdict", "statement", "first", "second", "quantity", "mean", "low", "high", "unit"),
        *("n", "p", "looks"),
        *("paper_first", "paper_second", "objection", "repeats", "task", "arm", "matching", "source"),
    )
)
"""first, second: the systems; quantity: what of them is compared; mean, low, high: the difference in `unit` that was
judged, first less second; p: after Holm's correction, over the looks; repeats: judged, and counted, on another page."""
DECIDED = ("holds", "not reproduced")
JUDGED = (*DECIDED, "cannot tell")


def ledger_markdown(verdicts: Sequence[Verdict], titles: Mapping[str, str] | None = None) -> str:
    """The ledger as Markdown: what could be judged, and one table for each scale and stem, what was not run last.

    Of a page whose claims are all "not run" at a scale, their number stands for them; its file declares them.
    """
    found = ledger_tables(verdicts)
    counts = verdict_counts(verdicts)
    summary = ", ".join(f"{n} {VERDICTS[name]}" for name, n in counts.items())
    lines = [f"# The ledger of claims\n\n{RULE}", f"**{sum(counts.values())} claims: {summary}.**"]
    if decided := [v for v in verdicts if v.verdict in DECIDED and not v.repeats]:
        different = len({(v.scale, v.claim.difference) for v in decided})
        lines += ["", f"The {len(decided)} that hold or are not reproduced rest on {different} differences."]
    judged = [row for rows in found.values() for row in rows if row[0].verdict in JUDGED and not row[0].repeats]
    if judged:
        lines += ["", "## What could be judged", "", *_table(judged, titles or {})]
    waiting: list[str] = []
    for (scale, stem), rows in found.items():
        title = f"{(titles or {}).get(stem, stem)}, scale {scale}"
        if all(verdict.verdict == "not run" for verdict, _ in rows):
            waiting.append(f"- {title}: {len(rows)} claim{'s' if len(rows) > 1 else ''}")
        else:
            lines += ["", f"## {title}", "", *_table(rows)]
    if waiting:
        lines += ["", "## Pages of which no claim can be judged yet", "", *waiting]
    return "\n".join([*lines, ""])


def ledger_csv(verdicts: Sequence[Verdict]) -> str:
    """A row a claim, for programs."""
    return table_csv(COLUMNS, [_row(verdict) for verdict in verdicts])


def _row(verdict: Verdict) -> Row:
    claim = verdict.claim
    assert isinstance(claim, Claim | MeasuredClaim)
    first, second = (
        " + ".join(part if isinstance(part, str) else part.system for part in side) for side in claim.sides
    )
    return {
        **{name: getattr(claim, name) for name in ("task", "arm", "matching", "source")},
        **dict(zip(("paper_first", "paper_second"), claim.paper or (), strict=False)),
        **dict(zip(("mean", "low", "high", "unit"), _judged(verdict), strict=True)),
        "scale": verdict.scale,
        "page": claim.slug,
        "verdict": verdict.verdict,
        "statement": in_words(claim.statement),
        "first": first,
        "second": second,
        "quantity": _quantity(claim),
        "n": verdict.n,
        "p": verdict.adjusted_p,
        "looks": verdict.looks,
        "objection": verdict.objection,
        "repeats": "yes" if verdict.repeats else None,
    }


def _quantity(claim: Claim | MeasuredClaim) -> str:
    if isinstance(claim, MeasuredClaim):
        return ", ".join(dict.fromkeys((claim.higher.quantity.name, claim.lower.quantity.name)))
    return f"{claim.split} perplexity" if claim.metric == "perplexity" else f"{claim.metric} to the other's loss"


def _judged(verdict: Verdict) -> tuple[float, float, float, str]:
    """Mean, low and high of what was judged, and their unit."""
    tested, claim = verdict.tested, verdict.claim
    if isinstance(claim, MeasuredClaim):
        return tested.mean, tested.low, tested.high, claim.unit
    assert isinstance(claim, Claim)
    if tested is verdict.difference:
        return *percent_of_perplexity(tested), "% of perplexity"
    mean, low, high = (math.exp(x) for x in (tested.mean, tested.low, tested.high))
    return mean, low, high, f"x {claim.metric}"


def verdict_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """How many claims have each verdict; a difference that is judged elsewhere too counts once."""
    found = Counter(verdict.verdict for verdict in verdicts if not verdict.repeats)
    return {name: found[name] for name in VERDICTS}


def _table(rows: Sequence[tuple[Verdict, list[str]]], titles: Mapping[str, str] | None = None) -> list[str]:
    """The clearest verdicts first; with `titles`, of several pages, which are named with their scales."""
    of_pages = [] if titles is None else ["page", "scale"]
    headings = [*HEADINGS, *of_pages]
    lines = [f"| {' | '.join(headings)} |", "|" + "|".join("---:" if h in NUMBERS else "---" for h in headings) + "|"]
    for verdict, cells in sorted(rows, key=lambda row: list(VERDICTS).index(row[0].verdict)):
        place: list[str] = []
        if titles is not None:
            place = [titles.get(verdict.claim.slug, verdict.claim.slug).partition(":")[0], verdict.scale]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in [*cells, *place]) + " |")
    return lines


def ledger_tables(verdicts: Sequence[Verdict]) -> dict[tuple[str, str], list[tuple[Verdict, list[str]]]]:
    """(scale, stem) -> its verdicts, each with its cells under HEADINGS, in Markdown."""
    families: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        families.setdefault((verdict.scale, verdict.claim.slug), []).append(verdict)
    tested = {
        place: len({v.claim.difference for v in family if not math.isnan(v.p_in_family)})
        for place, family in families.items()
    }
    judged_in = {(v.scale, v.claim.question): (v.scale, v.claim.slug) for v in verdicts if not v.repeats}

    def size(verdict: Verdict) -> int:
        """Of the family in which it was judged."""
        return tested[judged_in.get((verdict.scale, verdict.claim.question), (verdict.scale, verdict.claim.slug))]

    return {place: [(verdict, _cells(verdict, size(verdict))) for verdict in f] for place, f in families.items()}


def _cells(verdict: Verdict, tested: int) -> list[str]:
    """tested: differences of the family in which it was judged."""
    claim = verdict.claim
    return [
        _said(verdict),
        in_words(claim.statement),
        _ours(verdict),
        str(verdict.n),
        _p(verdict.adjusted_p),
        _found_at(verdict, tested),
        _documents(verdict),
        _paper(claim),
        in_words(f"`{claim.matching}`") if claim.matching else "-",
        claim.source,
    ]


def _found_at(verdict: Verdict, tested: int) -> str:
    if math.isnan(verdict.adjusted_p) or math.isnan(
        effect := effect_found(verdict.tested, verdict.looks * max(tested, 1), LEVEL)
    ):
        return "-"
    claim = verdict.claim
    if isinstance(claim, MeasuredClaim):
        return f"{effect:.3g}"
    if verdict.tested is verdict.difference:
        return f"{-100 * math.expm1(-effect):.2f}%"
    return f"{math.exp(-effect):.2f} x"


def _said(verdict: Verdict) -> str:
    if verdict.verdict in ("holds", "not reproduced"):
        said = f"**{VERDICTS[verdict.verdict]}**"
    else:
        said = verdict.verdict + (f": {verdict.objection}" if verdict.objection else "")
    return said + (" (as above: the same difference)" if verdict.repeats else "")


def _paper(claim: Statement) -> str:
    if claim.paper is None:
        return "-"
    better, worse = claim.paper
    of_perplexity = isinstance(claim, Claim) and claim.metric == "perplexity"
    percent = f" ({100 * (better / worse - 1):+.1f}%)" if of_perplexity else ""
    return f"{better:g} against {worse:g}{percent}"


def _documents(verdict: Verdict) -> str:
    if isinstance(verdict.claim, MeasuredClaim):
        return _measured_bounds(verdict.documents)
    return _bounds(percent_of_perplexity(verdict.documents))


def _ours(verdict: Verdict) -> str:
    if verdict.verdict == "not run":
        return "not run"
    claim = verdict.claim
    if isinstance(claim, MeasuredClaim):
        bounds = _measured_bounds(verdict.difference)
        return f"{verdict.difference.mean:+.3g} {claim.unit}" + ("" if bounds == "-" else f" {bounds}")
    assert isinstance(claim, Claim)
    metric, n = claim.metric, len(verdict.costs)
    mean, _, _ = verdict.percent
    if metric == "perplexity":
        return f"{mean:+.2f}% {_bounds(verdict.percent)}"
    reached = log_costs(verdict.costs, metric)
    if not reached:
        return f"never (0 of {n} seeds); final perplexity {mean:+.2f}% {_bounds(verdict.percent)}"
    ratios = {cost: math.exp(summarise(log_costs(verdict.costs, cost).values()).mean) for cost in COSTS}
    others = ", ".join(f"{ratios[cost]:.2f} x {cost}" for cost in COSTS if cost != metric)
    if len(reached) < n:
        return f"{ratios[metric]:.2f} x {metric}, in {len(reached)} of {n} seeds, never in the others; {others}"
    low, high = math.exp(verdict.tested.low), math.exp(verdict.tested.high)
    bounds = "" if math.isnan(low) else f" [{low:.2f}, {high:.2f}]"
    return f"{ratios[metric]:.2f} x {metric}{bounds}; {others}"


def _bounds(percent: tuple[float, float, float]) -> str:
    _, low, high = percent
    return "-" if math.isnan(low) else f"[{low:+.2f}%, {high:+.2f}%]"


def _measured_bounds(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"[{interval.low:+.3g}, {interval.high:+.3g}]"


def _p(p_value: float) -> str:
    if math.isnan(p_value):
        return "-"
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"
