"""The board of bars: each set's error in sample and left out, the constant utilisation beside it, and the bar."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.bars import BARS, COVERAGE, NAMED, OOM_FALSE, OOM_FLAGGED, OTHER_LIMIT, Bar
from benchmarks.fit_intervals import Ratios, calibrated_tail, coverage_by_source
from benchmarks.leave_one_out import LeftOut
from validate.runs.readings import measured_bytes, predicted_bytes, reading_of
from validate.runs.resolve import Unmodelled, resolve
from validate.runs.table import Run
from validate.score.agreement import Errors, Ranking
from validate.score.training import (
    Score,
    Scored,
    constant_utilisation,
    families,
    source_of,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line: the figure as shipped, left out and of the baseline (fractions), and what came of the bar."""

    name: str
    rule: str
    num_runs: int
    shipped: float | None
    largest: float | None
    left_out: float | None
    constant: float | None
    limit: float
    is_met: bool | None
    skipped: dict[str, int]


def lines(runs: Sequence[Run], score: Score, found: LeftOut) -> list[Line]:
    """Every bar on the runs of a table."""
    without = {one.run.id: float(seconds) for one, seconds in zip(found.table.settings, found.seconds, strict=True)}
    reasons = _reasons(runs, score)
    bars = (*BARS, *_others(runs))
    return [_line(bar, runs, score.scored, without, reasons) for bar in bars]


def _others(runs: Sequence[Run]) -> list[Bar]:
    """A bar for every source without lines of its own; sparse runs of a vendor apart from its dense ones."""
    sources = [source for source in dict.fromkeys(map(source_of, runs)) if source not in NAMED]
    made = []
    for source in sources:
        if source == "megatron-bridge":
            made.append(_other(source, "experts", lambda run: bool(run.num_experts)))
        else:
            made.append(_other(source, "", lambda run: True))
    dgxc = _other("dgxc-benchmarking", "experts", lambda run: bool(run.num_experts))
    return [*made, dgxc] if "dgxc-benchmarking" in map(source_of, runs) else made


def _other(source: str, kind: str, also: Callable[[Run], bool]) -> Bar:
    name = f"{source}, {kind}" if kind else source
    return Bar(name, name, lambda run: source_of(run) == source and also(run), OTHER_LIMIT)


def _reasons(runs: Sequence[Run], score: Score) -> dict[str, str]:
    """Run id -> why it was skipped."""
    found = {}
    scored = {row.run.id for row in score.scored}
    for run in runs:
        if run.id not in scored:
            try:
                resolve(run)
                found[run.id] = "no figure"
            except Unmodelled as reason:
                found[run.id] = str(reason)
    return found


def _line(
    bar: Bar, runs: Sequence[Run], scored: Sequence[Scored], without: Mapping[str, float], reasons: Mapping[str, str]
) -> Line:
    rows = [row for row in scored if bar.holds(row.run)]
    skipped = Counter(reasons[run.id] for run in runs if run.id in reasons and bar.holds(run))
    num_runs, shipped, largest, left_out, constant = _figures(bar, rows, without)
    is_met = None
    if shipped is not None:
        is_met = shipped <= bar.limit and (bar.max_limit is None or largest is None or largest <= bar.max_limit)
    return Line(bar.name, bar.rule, num_runs, shipped, largest, left_out, constant, bar.limit, is_met, dict(skipped))


_Figures = tuple[int, float | None, float | None, float | None, float | None]


def _figures(bar: Bar, rows: Sequence[Scored], without: Mapping[str, float]) -> _Figures:
    """(runs or families, figure, its largest, the figure left out, the baseline's)."""
    if bar.figure in ("allocated", "reserved", "device"):
        errors = _memory(rows, bar.figure)
        return errors.n, errors.mape, errors.max, None, None
    timed = [row for row in rows if row.measured_seconds is not None]
    if bar.figure in ("regret", "regret of three"):
        return _regrets(bar, timed, without)
    measured = [row.measured_seconds or 0.0 for row in timed]
    groups = _groups(bar, timed)
    shipped = _mean([row.predicted_seconds for row in timed], measured, groups)
    left_out = _mean([without[row.run.id] for row in timed], measured, groups)
    largest = Errors.of([row.predicted_seconds for row in timed], measured).max
    return len(timed), shipped, largest, left_out, constant_utilisation(timed)[1].mape


def _groups(bar: Bar, rows: Sequence[Scored]) -> list[object]:
    if bar.figure == "time by group":
        return [(row.run.hidden, row.run.micro_batch_seqs, row.run.tp) for row in rows]
    return [row.run.id for row in rows]


def _mean(predicted: Sequence[float], measured: Sequence[float], groups: Sequence[object]) -> float | None:
    """Mean over groups of their mean absolute error."""
    errors: defaultdict[object, list[float]] = defaultdict(list)
    for here, there, group in zip(predicted, measured, groups, strict=True):
        errors[group].append(abs(here / there - 1.0))
    return float(np.mean([np.mean(some) for some in errors.values()])) if errors else None


def _memory(rows: Sequence[Scored], reading: str) -> Errors:
    told = [row for row in rows if row.run.peak_memory_gb and not row.run.oom and reading_of(row.run) == reading]
    predicted = [predicted_bytes(row.estimate.memory, row.run) for row in told]
    return Errors.of(predicted, [measured_bytes(row.run) for row in told])


def _regrets(bar: Bar, rows: Sequence[Scored], without: Mapping[str, float]) -> _Figures:
    groups = families(rows)

    def ranking(seconds: Mapping[str, float]) -> Ranking:
        return Ranking.of([
            ([seconds[row.run.id] for row in family], [row.measured_seconds or 0.0 for row in family])
            for family in groups
        ])  # fmt: skip

    shipped, left = ranking({row.run.id: row.predicted_seconds for row in rows}), ranking(without)
    if bar.figure == "regret of three":
        return shipped.families, shipped.regret_top3_mean, None, left.regret_top3_mean, None
    return shipped.families, shipped.regret_mean, shipped.regret_max, left.regret_mean, None


def print_lines(found: Sequence[Line]) -> None:
    """The board as a table, worst news in bold."""
    print("| set (rule) | n | mean | largest | left out | constant | bar | |\n|---|--:|--:|--:|--:|--:|--:|---|")
    for line in found:
        digits = 2 if line.limit < 0.01 else 1
        cells = [
            _percent(one, digits) for one in (line.shipped, line.largest, line.left_out, line.constant, line.limit)
        ]
        rule = f" ({line.rule})" if line.rule != line.name else ""
        print(f"| {line.name}{rule} | {line.num_runs} | {' | '.join(cells)} | {_verdict(line)} |")


def _verdict(line: Line) -> str:
    if line.is_met is None or line.shipped is None:
        words = ["no run scored"]
    elif line.is_met:
        words = ["met"]
    else:
        over = line.shipped - line.limit
        words = [f"**{100 * over:.1f} over**" if over > 0.0 else "**its largest over**"]
    if line.skipped:
        reason, count = max(line.skipped.items(), key=lambda item: item[1])
        words.append(f"{sum(line.skipped.values())} skipped, {count}: {reason}")
    return "; ".join(words)


def print_failures(score: Score) -> None:
    """Runs out of memory that were flagged, and false alarms, against their bars."""
    oom = score.oom
    failed = oom["true_positive"] + oom["false_negative"]
    fine = oom["true_negative"] + oom["false_positive"]
    flagged = oom["true_positive"] / failed if failed else None
    alarms = oom["false_positive"] / fine if fine else None
    print(
        f"\nOut of memory: {oom['true_positive']} of {failed} decided failures flagged ({_percent(flagged)} %, bar "
        f"{_percent(OOM_FLAGGED)}), {oom['false_positive']} false alarms in {fine} ({_percent(alarms)} %, bar "
        f"{_percent(OOM_FALSE)}).\n"
    )


def print_coverage(score: Score, groups: Mapping[str, Ratios]) -> None:
    """Share of each source's runs inside their error bars as shipped; and in bars that its runs had no part in."""
    print(
        "Share of runs inside their 80 % error bars, by source, %:\n\n"
        "| source | n | inside | width |\n|---|--:|--:|--:|"
    )
    rows_of: defaultdict[str, list[Scored]] = defaultdict(list)
    for row in score.scored:
        if row.measured_seconds is not None:
            rows_of[source_of(row.run)].append(row)
    for source, rows in rows_of.items():
        width = np.exp(np.mean([np.log(row.interval.high_seconds / row.interval.low_seconds) for row in rows]))
        inside = float(np.mean([row.is_inside for row in rows]))
        print(f"| {source} | {len(rows)} | {_percent(inside)} | x{width:.2f} |")
    low, high = COVERAGE
    print(f"\nWithout the runs of a source, constants and bars from the others (bar {low:.0%} to {high:.0%}):\n")
    print("| runs | mean over sources | each source |\n|---|--:|---|")
    for name, ratios in groups.items():
        shares = coverage_by_source(ratios, calibrated_tail(ratios))
        each = ", ".join(f"{source} {_percent(share, 0)}" for source, share in shares.items())
        mean = float(np.mean(list(shares.values()))) if shares else None
        print(f"| {name.replace('.', ', ')} | {_percent(mean)} | {each} |")
    print()


def _percent(fraction: float | None, digits: int = 1) -> str:
    return "" if fraction is None else f"{100 * fraction:.{digits}f}"
