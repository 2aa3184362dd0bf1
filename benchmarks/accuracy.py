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
    return "| " + " | ".join([*cells, percent(errors.coverage), percent(naive.mape) if naive else ""]) + " |"


def print_board(title: str, score: Score) -> None:
    """The score board of a table."""
    print(f"## {title}\n\nAbsolute errors of step time and memory in %. `inside` is the share of measured steps within")
    print(
        "their error bar; `constant` the mean error of one constant utilisation fitted on the very rows of its line.\n"
    )
    print("| rows | n | mean | median | p90 | max | bias | inside | constant |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|")
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


FITTED = """\
## What was fitted on such runs

Most constants come from benchmarks of kernels and links (calibration.md). These come from whole steps, so that the
lines below are not blind to them:

- host time per operation of eager stacks of 2022: 62 us, on 310 single-node A100 runs (`vtrain`); on groups of runs
  that had no part in it the mean error is 8.6 %;
- what a step keeps of benchmarked compute rates: H100 0.84 (bf16) and 0.90 (fp8), GB200 0.88, GB300 0.90, B200 0.66
  in bf16, each with the error on held-out sources or rows in its record; A100 1.06, on 59 multi-node
  runs (`vtrain`) together with the rate of the element-wise kernels of its stack;
- attention kernels of 2023, and the share of a network adapter's rate that collectives reach (calibration.md);
- what allocators of 2022 reserve beyond what is allocated: 1.15, on 32 device readings (`bigscience`); 5 % mean error
  on held-out halves.

Nothing is fitted on the sequence-parallelism paper, nor on any model, source or row by name.
"""


def main(arguments: list[str]) -> None:
    """Print the paper's table, then the board of each table named on the command line."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"# Accuracy\n\n{date.today().isoformat()}, {machine}; written by `python -m benchmarks.accuracy`.\n")
    print_paper()
    if arguments:
        print(FITTED)
    for path in arguments:
        print_board("A table of published runs", score_training(path))


if __name__ == "__main__":
    main(sys.argv[1:])
