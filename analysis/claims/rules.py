"""The ledger: what the papers (and we) claim, and what the records say about it.

A claim compares two systems that it names. The rule:

    holds               the 95% interval of the paired difference over seeds excludes zero in the
                        claimed direction, and the p-value, after Holm's correction within the
                        claim's table at that scale, is below 0.05
    not reproduced      the same in the other direction
    cannot tell         neither
    not testable here   a known effect of its kind is not seen, or a side is worth nothing (controls.py)
    not run             a side has no records, or they share fewer than two seeds

Holm's family is all that the table claims at that scale: what is not run counts in it with a p of 1, and what is not
testable with its own, so that no claim is judged more easily because others are missing. Where seeds were added after a
look at a difference, p counts twice (Bonferroni over two looks).

Two kinds. "Lower perplexity": the difference is of nll per token (the log of perplexity); or that
one gains more than the other, each over a system of its own: the difference of two differences.
"Learns faster": for each seed, what the better system spends (tokens, training FLOPs or
seconds) until its validation nll is at or below the worse system's final one, over what the
worse system spent in all; the difference is the log of that ratio.

A seed for which that loss is never reached has no ratio. When all seeds reach it, the rule above
judges the log ratio. When none does, although each spent at least as much as the worse system,
the claim is not reproduced if the paired difference of the final validation nll is above zero by
the same rule: never reaching a loss means ending above it, and that can be tested. Anything
between the two is "cannot tell", as is a run that stopped before it had spent as much.
"""

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis.claims.learning_speed import COSTS, Spent, cost_ratio, final_point, log_costs, total
from analysis.statistics import Documents, Interval, document_bootstrap, holm, paired_difference
from mhmoe.io import UserError
from mhmoe.training.record import Record, by_seed

LEVEL = 0.05
Metric = Literal["perplexity", "tokens", "flops", "seconds"]
Decision = Literal["holds", "not reproduced", "cannot tell", "not testable here", "not run"]
UNKNOWN = Interval(math.nan, math.nan, math.nan, 0, math.nan)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What every claim says, whatever is compared.

    slug, task: of the page that declares it, which gives them; a page is a family for Holm's correction. source: who
    says it. matching: under which matching of equal size. paper: the two printed values, if any. arm: how its systems
    are trained, as published or tuned. control: the known effect without which it is not judged (controls.py); "" for
    none. raised_at: the scales at which seeds were added, or runs trained again, after a look at the difference.
    """

    slug: str = ""
    statement: str
    source: str
    matching: str = ""
    paper: tuple[float, float] | None = None
    task: str = "english"
    arm: str = "published"
    control: str = "mixture"
    raised_at: tuple[str, ...] = ()

    @property
    def systems(self) -> set[str]:
        """Those that it compares."""
        raise NotImplementedError

    @property
    def difference(self) -> Hashable:
        """What it tests: equal for two claims about one difference, such as its cost in tokens and in FLOPs."""
        raise NotImplementedError

    @property
    def question(self) -> Hashable:
        """Equal for two claims that have one answer."""
        return self.difference


@dataclass(frozen=True, kw_only=True)
class Claim(Statement):
    """That `better` has lower perplexity than `worse`, gains more, or reaches its final loss at a lower cost.

    over: for gains, that `better` lowers the perplexity of over[0] by a larger factor than `worse` that of over[1].
    metric: "perplexity", or the cost that is judged: "tokens", "flops", "seconds".
    split: where perplexity is measured; costs are always read off the validation curve.
    """

    better: str
    worse: str
    over: tuple[str, str] | None = None
    metric: Metric = "perplexity"
    split: str = "test"

    def __post_init__(self) -> None:
        if self.metric not in ("perplexity", *COSTS):
            raise ValueError(f"metric={self.metric!r} is unknown; choose perplexity, {', '.join(COSTS)}")
        if self.better == self.worse:
            raise ValueError(f"better and worse are both {self.better!r}; a claim compares two systems")
        if self.over and self.metric != "perplexity":
            raise ValueError(f"metric={self.metric!r} with over={self.over}: gains are of perplexity alone")
        if self.over and len(self.systems) < 4:
            raise ValueError(f"over={self.over}: gains are compared of two pairs, so of four systems")

    @property
    def difference(self) -> Hashable:
        return self.task, self.better, self.worse, self.over, self.split, self.metric == "perplexity"

    @property
    def question(self) -> Hashable:
        return self.difference, self.metric

    @property
    def sides(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The systems whose nll are added on either side: b - ob < w - ow is b + ow < w + ob."""
        if self.over is None:
            return (self.better,), (self.worse,)
        return (self.better, self.over[1]), (self.worse, self.over[0])

    @property
    def systems(self) -> set[str]:
        return {system for side in self.sides for system in side}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim judged at one scale.

    difference: of nll per token, better - worse, over seeds (for gains: each less what it is counted from; for a
    cost: at the end of the curves; for measured values: in their unit). documents: the same over documents or
    items, with the same models. costs: per seed, what `better` spent over what `worse` spent, None where it never
    got there. tested: the interval that was judged. objection: why it is not testable here. repeats: judged on
    another page.
    """

    claim: Statement
    scale: str
    verdict: Decision
    difference: Interval
    tested: Interval
    adjusted_p: float = math.nan
    objection: str = ""
    repeats: bool = False
    documents: Interval = UNKNOWN
    costs: Mapping[int, Spent | None] = dataclasses.field(default_factory=dict[int, Spent | None])

    @property
    def n(self) -> int:
        return self.difference.n

    @property
    def looks(self) -> int:
        """How often the difference was looked at."""
        return 2 if self.scale in self.claim.raised_at else 1

    @property
    def p_value(self) -> float:
        """Before Holm's correction, over the looks; nan where there is nothing to test."""
        p = self.tested.p_value
        return p if math.isnan(p) else min(1.0, self.looks * p)

    @property
    def p_in_family(self) -> float:
        """With which it counts for Holm's correction: 1 where there is nothing to test; nan, which does not count, of a
        claim that another page judges."""
        if self.repeats:
            return math.nan
        return 1.0 if math.isnan(self.p_value) else self.p_value

    @property
    def percent(self) -> tuple[float, float, float]:
        """Mean, low, high of the difference as percent of the worse system's perplexity (of its gain's ratio)."""
        return percent_of_perplexity(self.difference)


def percent_of_perplexity(interval: Interval) -> tuple[float, float, float]:
    """100 (exp(difference of nll) - 1) for mean, low and high."""
    mean, low, high = (100 * math.expm1(x) for x in (interval.mean, interval.low, interval.high))
    return mean, low, high


def not_run(claim: Statement, scale: str, seeds: int) -> Verdict:
    """Of a claim whose sides share so many seeds, fewer than two."""
    nothing = dataclasses.replace(UNKNOWN, n=seeds)
    return Verdict(claim=claim, scale=scale, verdict="not run", difference=nothing, tested=nothing)


def measure(claim: Claim, records: Sequence[Record], scale: str, *, resample: bool = True) -> Verdict:
    """Everything but the decision: "not run" or, until `decide`, "cannot tell". resample: the documents, too."""
    of_task = [record for record in records if record.task == claim.task]
    found = {system: by_seed([r for r in of_task if r.system == system]) for system in claim.systems}
    seeds = sorted(set.intersection(*(set(of_system) for of_system in found.values())))
    if len(seeds) < 2:
        return not_run(claim, scale, len(seeds))
    for seed in seeds:
        for system in sorted(claim.systems - {claim.worse}):
            _check_same_data(found[system][seed], found[claim.worse][seed], claim.split)
    if claim.metric == "perplexity":
        lower, higher = ({seed: [found[system][seed] for system in side] for seed in seeds} for side in claim.sides)
        difference = paired_difference(_nll_per_token(lower, claim.split), _nll_per_token(higher, claim.split))
        documents = UNKNOWN
        if resample:
            documents = document_bootstrap(_documents(lower, claim.split), _documents(higher, claim.split))
        tested, costs = difference, {}
    else:
        better, worse = ({seed: found[system][seed] for seed in seeds} for system in (claim.better, claim.worse))
        difference = paired_difference(
            {seed: final_point(r)["valid_nll"] for seed, r in better.items()},
            {seed: final_point(r)["valid_nll"] for seed, r in worse.items()},
        )
        documents, costs = UNKNOWN, {seed: cost_ratio(better[seed], worse[seed]) for seed in seeds}
        tested = _tested_cost(claim.metric, costs, difference, better, worse)
    return Verdict(
        claim=claim,
        scale=scale,
        verdict="cannot tell",
        difference=difference,
        tested=tested,
        documents=documents,
        costs=costs,
    )


def _tested_cost(
    metric: str,
    costs: Mapping[int, Spent | None],
    difference: Interval,
    better: Mapping[int, Record],
    worse: Mapping[int, Record],
) -> Interval:
    """The interval that decides a claim of faster learning; see the module's docstring for the rule."""
    reached = log_costs(costs, metric)
    if len(reached) == len(costs):
        return paired_difference(reached, dict.fromkeys(reached, 0.0))
    spent_enough = all(getattr(total(better[seed]), metric) >= getattr(total(worse[seed]), metric) for seed in costs)
    if not reached and spent_enough:
        return difference
    return dataclasses.replace(UNKNOWN, n=len(costs))


def decide(family: Sequence[Verdict]) -> list[Verdict]:
    """The decisions on all claims of a table at a scale, by the rule of the module's docstring; none on what is not
    testable or not run, which count in the family.

    Claims about one difference count once: of them the smallest p takes their place in Holm's order.
    """
    decided: list[Verdict] = []
    smallest: dict[Hashable, float] = {}
    for verdict in family:
        p, known = verdict.p_in_family, smallest.get(verdict.claim.difference, math.nan)
        smallest[verdict.claim.difference] = p if math.isnan(known) else known if math.isnan(p) else min(p, known)
    adjusted = dict(zip(smallest, holm(list(smallest.values())), strict=True))
    for measured in family:
        least, p = smallest[measured.claim.difference], measured.p_value
        p = p if math.isnan(p) else min(1.0, adjusted[measured.claim.difference] * (p / least if least else 1.0))
        decision = measured.verdict
        if decision == "not testable here":
            p = math.nan
        if p < LEVEL and measured.tested.high < 0:
            decision = "holds"
        elif p < LEVEL and measured.tested.low > 0:
            decision = "not reproduced"
        decided.append(dataclasses.replace(measured, verdict=decision, adjusted_p=p))
    return decided


def _check_same_data(better: Record, worse: Record, split: str) -> None:
    names = f"records {better.name} and {worse.name}"
    if better.config.get("data") != worse.config.get("data"):
        raise UserError(f"{names} were trained on different data and cannot be compared; run them on the same data")
    documents = [[(d["id"], d["tokens"]) for d in r.metrics[split]["documents"]] for r in (better, worse)]
    if documents[0] != documents[1]:
        raise UserError(f"{names} were evaluated on different documents of {split}; run them on the same data")


def _nll_per_token(side: Mapping[int, Sequence[Record]], split: str) -> dict[int, float]:
    return {seed: sum(r.metrics[split]["nll_per_token"] for r in records) for seed, records in side.items()}


def _documents(side: Mapping[int, Sequence[Record]], split: str) -> dict[int, Documents]:
    """By seed the documents' losses, added over the records, all of which have the same documents."""
    found: dict[int, Documents] = {}
    for seed, records in side.items():
        of_record = [[d for d in r.metrics[split]["documents"] if d["tokens"] > 0] for r in records]
        nll = [sum(d["nll"] for d in same) for same in zip(*of_record, strict=True)]
        found[seed] = Documents(nll, [d["tokens"] for d in of_record[0]])
    return found
