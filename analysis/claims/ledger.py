"""The ledger as a page: every claim with what the paper says, what the records say, and the verdict."""

import math
from collections.abc import Mapping, Sequence

from analysis.claims.learning_speed import COSTS, log_costs
from analysis.claims.measured import MeasuredClaim
from analysis.claims.rules import LEVEL, Claim, Statement, Verdict, percent_of_perplexity
from analysis.statistics import Interval, effect_found, summarise
from mhmoe.layers.matching import in_words

RULE = f"""Each line is a claim of the papers, or a control that they lack, and what the committed records say about it.
The rule was fixed before the runs. Two systems are compared seed by seed on the same data in the same order.

- **holds**: the 95% interval of the paired difference over seeds (t distribution) excludes zero in the
  claimed direction, and p after Holm's correction within the table is below {LEVEL}.
- **not reproduced at this scale**: the same in the other direction. **cannot tell**: neither.
- **not testable here**: at this scale a known effect of the same kind is not seen (for what mixtures gain, X-MoE below
  Dense of equal active FLOPs; for what experts gain, 32 below 8), or a side does not beat the model without the layer.
  Such claims are in no family of Holm's. A difference that is tested twice counts once.
- **not run**: a side has no records, or they share fewer than two seeds.

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


HEADINGS = "statement", "source", "matching", "paper", "ours", "documents", "n", "p (Holm)", "found at", "verdict"


def ledger_markdown(verdicts: Sequence[Verdict], titles: Mapping[str, str] | None = None) -> str:
    """The ledger as Markdown: one table for each scale and stem, in the order of the verdicts."""
    lines = [f"# The ledger of claims\n\n{RULE}"]
    for (scale, stem), rows in ledger_tables(verdicts).items():
        lines += [f"## {(titles or {}).get(stem, stem)}, scale {scale}", ""]
        lines += [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|---|---|---:|---:|---:|---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for _, row in rows]
        lines.append("")
    return "\n".join(lines)


def ledger_tables(verdicts: Sequence[Verdict]) -> dict[tuple[str, str], list[tuple[Verdict, list[str]]]]:
    """(scale, stem) -> its verdicts, each with its cells under HEADINGS, in Markdown."""
    tables: dict[tuple[str, str], list[tuple[Verdict, list[str]]]] = {}
    for scale, stem in dict.fromkeys((verdict.scale, verdict.claim.slug) for verdict in verdicts):
        family = [v for v in verdicts if (v.scale, v.claim.slug) == (scale, stem)]
        tested = {v.claim.difference for v in family if not math.isnan(v.adjusted_p) and not v.repeats}
        tables[scale, stem] = [(verdict, _cells(verdict, len(tested))) for verdict in family]
    return tables


def _cells(verdict: Verdict, tested: int) -> list[str]:
    """tested: differences of its family."""
    claim = verdict.claim
    return [
        in_words(claim.statement),
        claim.source,
        in_words(f"`{claim.matching}`") if claim.matching else "-",
        _paper(claim),
        _ours(verdict),
        _documents(verdict),
        str(verdict.n),
        _p(verdict.adjusted_p),
        _found_at(verdict, tested),
        _said(verdict),
    ]


def _found_at(verdict: Verdict, tested: int) -> str:
    if math.isnan(verdict.adjusted_p) or math.isnan(effect := effect_found(verdict.tested, max(tested, 1), LEVEL)):
        return "-"
    claim = verdict.claim
    if isinstance(claim, MeasuredClaim):
        return f"{effect:.3g}"
    if verdict.tested is verdict.difference:
        return f"{100 * math.expm1(effect):.2f}%"
    return f"{math.exp(-effect):.2f} x"


def _said(verdict: Verdict) -> str:
    if verdict.verdict in ("holds", "not reproduced"):
        said = f"**{'holds' if verdict.verdict == 'holds' else 'not reproduced at this scale'}**"
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
