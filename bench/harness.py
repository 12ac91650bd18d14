"""Measures contenders in turn, round after round, and says what the figures allow one to say.

A B C A B C …: whatever slows the machine down for a while slows all of them. What counts is the
median of each and the ratio of medians; beside it stands the smallest and the largest ratio of a
single round. Where even the middle half of the rounds lies far apart the ratio says little, and the
report says so. Many short rounds are better than a few long ones: a pair shares its weather.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

WIDE = 0.2  # of the ratio: if the middle half of the rounds disagrees by more, it is meaningless
FEW = 3  # rounds, below which nobody knows how far they would disagree


@dataclass(frozen=True)
class Plan:
    """How long to measure."""

    rounds: int = 9
    seconds: float = 3
    quick: bool = False


@dataclass(frozen=True)
class Contender:
    """One of those that are compared; each call of `measure` is one round."""

    name: str
    what: str
    measure: Callable[[], float]


@dataclass(frozen=True)
class Claim:
    """What must hold: a median, or its ratio to a peer's, at least or at most."""

    name: str
    bound: float
    at_least: bool
    peer: str | None = None

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        return f"{word} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """A contender's rounds in short."""

    name: str
    what: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return median(self.rounds)

    @property
    def low(self) -> float:
        return min(self.rounds)

    @property
    def high(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True)
class Ratio:
    """One contender over another: of the medians, and in the rounds that ran side by side."""

    over: Figure
    under: Figure

    @property
    def value(self) -> float:
        return self.over.median / self.under.median

    @property
    def rounds(self) -> tuple[float, ...]:
        pairs = zip(self.over.rounds, self.under.rounds, strict=True)
        return tuple(over / under for over, under in pairs)

    @property
    def spread(self) -> float:
        """How far the middle half of the rounds disagrees, as a part of the ratio."""
        low, _, high = quantiles(self.rounds, n=4, method="inclusive")
        return (high - low) / self.value

    @property
    def warning(self) -> str | None:
        if len(self.rounds) < FEW:
            return f"{len(self.rounds)} round(s) do not tell how far this ratio can be trusted"
        if self.spread > WIDE:
            return (
                f"half of the rounds lie {self.spread:.0%} apart: this ratio means little; "
                "run it on a quieter machine, or with more --rounds"
            )
        return None


@dataclass(frozen=True)
class Verdict:
    """A claim beside what was measured."""

    claim: Claim
    value: float
    rounds: tuple[float, ...]
    warning: str | None = None

    @property
    def reached(self) -> bool:
        return self.claim.holds(self.value)

    @property
    def doubt(self) -> str | None:
        """A bound that some rounds keep and others miss is neither kept nor missed for certain."""
        if len({self.claim.holds(each) for each in self.rounds}) == 2:
            return "some rounds say otherwise"
        return None


@dataclass(frozen=True)
class Report:
    """All that one entry found."""

    entry: str
    title: str
    unit: str
    figures: tuple[Figure, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()

    @property
    def reached(self) -> bool:
        return all(verdict.reached for verdict in self.verdicts)


def run(
    entry: str,
    title: str,
    unit: str,
    contenders: Sequence[Contender],
    claims: Sequence[Claim],
    rounds: int,
) -> Report:
    measured = interleave(contenders, rounds)
    figures = {c.name: Figure(c.name, c.what, tuple(measured[c.name])) for c in contenders}
    verdicts = tuple(judge(claim, figures) for claim in claims)
    return Report(entry, title, unit, tuple(figures.values()), verdicts)


def interleave(contenders: Sequence[Contender], rounds: int) -> dict[str, list[float]]:
    measured: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            value = contender.measure()
            measured[contender.name].append(value)
            say(f"  round {number} of {rounds}  {contender.name:28} {value:,.2f}")
    return measured


def judge(claim: Claim, figures: dict[str, Figure]) -> Verdict:
    own = figures[claim.name]
    if claim.peer is None:
        return Verdict(claim, own.median, own.rounds)
    ratio = Ratio(own, figures[claim.peer])
    return Verdict(claim, ratio.value, ratio.rounds, ratio.warning)


def say(text: str) -> None:
    """For the person who waits."""
    print(text, file=sys.stderr, flush=True)


def as_text(report: Report) -> str:
    wide = max(len(figure.name) for figure in report.figures)
    lines = [report.title, "", f"  {'':{wide}}  {'median':>9}  {'min - max':>19}  {report.unit}"]
    lines += [
        f"  {f.name:{wide}}  {f.median:9,.2f}  {f'{f.low:,.2f} - {f.high:,.2f}':>19}  {f.what}"
        for f in report.figures
    ]
    lines += ["", *(f"  {line}" for verdict in report.verdicts for line in lines_of(verdict))]
    lines += [f"  {note}" for note in report.notes]
    return "\n".join(lines)


def lines_of(verdict: Verdict) -> list[str]:
    claim, rounds = verdict.claim, verdict.rounds
    word = "reached" if verdict.reached else "NOT REACHED"
    doubt = f" ({verdict.doubt})" if verdict.doubt else ""
    times = f" times {claim.peer}" if claim.peer else ""
    spread = f"rounds {min(rounds):,.2f} - {max(rounds):,.2f}"
    found = f"{claim.name}: {verdict.value:,.2f}{times} ({spread})"
    lines = [f"{found}; target {claim}: {word}{doubt}"]
    if verdict.warning:
        lines.append(f"  WARNING: {verdict.warning}")
    return lines


def as_dict(report: Report) -> dict[str, Any]:
    """The same for machines."""
    return {
        "entry": report.entry,
        "title": report.title,
        "unit": report.unit,
        "figures": [
            {"name": f.name, "what": f.what, "median": f.median, "rounds": list(f.rounds)}
            for f in report.figures
        ],
        "targets": [verdict_as_dict(verdict) for verdict in report.verdicts],
        "notes": list(report.notes),
        "reached": report.reached,
    }


def verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.claim.name,
        "target": str(verdict.claim),
        "value": verdict.value,
        "rounds": list(verdict.rounds),
        "reached": verdict.reached,
        "doubt": verdict.doubt,
        "warning": verdict.warning,
    }
