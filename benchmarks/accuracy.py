"""Prints how far predictions are from published runs: `python -m benchmarks.accuracy [TABLE.csv] > accuracy.md`.

Without a table: the eight runs of the sequence-parallelism paper that ship with the project. With one (columns
as `validate.table.Run`): the whole score board of it as well.
"""

import platform
import sys
from datetime import date

from validate.agreement import Errors
from validate.published import TABLES, published_runs
from validate.score import Score, score_runs, score_training

PAPER = "sequence_parallelism_table5"


def percent(fraction: float | None, sign: str = "") -> str:
    """A fraction as a percentage with one decimal."""
    return "" if fraction is None else f"{100 * fraction:{sign}.1f}"


def print_paper() -> None:
    """Every run of the paper's table, and the mean beside that of one constant utilisation."""
    score = score_runs(published_runs(PAPER))
    print(f"## The sequence-parallelism paper\n\n{TABLES[PAPER]}.\n")
    print("| model | plan | measured s | predicted s | error % |\n|---|---|--:|--:|--:|")
    for row in score.scored:
        assert row.measured_seconds is not None
        error = row.predicted_seconds / row.measured_seconds - 1.0
        print(
            f"| {row.run.model} | {row.setting.plan} | {row.measured_seconds:.2f} "
            f"| {row.predicted_seconds:.2f} | {percent(error, '+')} |"
        )
    print(
        f"\nMean absolute error {percent(score.overall.mape)} %; one constant utilisation fitted on these rows: "
        f"{percent(score.baseline.mape)} %.\n"
    )


def _line(name: str, errors: Errors, naive: Errors | None) -> str:
    figures = (errors.mape, errors.median, errors.p90, errors.max)
    cells = [name, str(errors.n), *(percent(figure) for figure in figures), percent(errors.bias, "+")]
    return "| " + " | ".join([*cells, percent(naive.mape) if naive else ""]) + " |"


def print_board(title: str, score: Score) -> None:
    """The score board of a table."""
    print(f"## {title}\n\nAbsolute errors of the step time in %; the last column is the mean error of one constant")
    print("utilisation fitted on the very rows of its line.\n")
    print("| rows | n | mean | median | p90 | max | bias | constant |\n|---|--:|--:|--:|--:|--:|--:|--:|")
    print(_line("all", score.overall, score.baseline))
    for name, errors in sorted(score.by_source.items()):
        print(_line(name, errors, score.baseline_by_source[name]))
    for name, errors in sorted(score.by_accelerator.items()):
        print(_line(f"on {name}", errors, None))
    for name, errors in score.memory.items():
        print(_line(f"memory, {name}", errors, None))
    print(f"\nOut of memory: {', '.join(f'{name} {count}' for name, count in score.oom.items())}.\n")
    ranking = score.ranking
    print(
        f"Ranking over {ranking.families} families of plans: regret {percent(ranking.regret_mean)} % in the mean, "
        f"{percent(ranking.regret_max)} % at most, {percent(ranking.regret_top3_mean)} % when the best three are "
        f"run; Kendall's tau {ranking.kendall_tau or 0.0:.2f}.\n"
    )
    print("Left out, by reason:\n")
    for reason, count in score.skipped.items():
        print(f"- {count}: {reason}")


def main(arguments: list[str]) -> None:
    """Print the paper's table, then the board of each table named on the command line."""
    print(f"# Accuracy\n\n{date.today().isoformat()}, {platform.machine()}, Python {platform.python_version()}.\n")
    print_paper()
    for path in arguments:
        print_board("A table of published runs", score_training(path))


if __name__ == "__main__":
    main(sys.argv[1:])
