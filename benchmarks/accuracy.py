"""Prints how far predictions are from published runs: `python -m benchmarks.accuracy [TABLE.csv] > accuracy.md`.

Without a table: the eight runs of the sequence-parallelism paper that ship with the project. With one (columns
as `validate.runs.table.Run`): every bar of `benchmarks.bars` on it as well, in sample and without the source that is
scored.
"""

import platform
import sys
from datetime import date

from benchmarks.board import lines, print_coverage, print_failures, print_lines
from benchmarks.fit_intervals import regimes
from benchmarks.leave_one_out import leave_one_out, print_constants
from profiles.residuals import shipped_residuals
from validate.runs.published import TABLES, published_runs
from validate.runs.table import read_runs
from validate.score.training import score_runs

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


def print_table(path: str) -> None:
    """Every bar on the runs of a table, the constants that runs may set, error bars, ranking, and what is left out."""
    runs = read_runs(path)
    score, found = score_runs(runs), leave_one_out(runs)
    print(HOW_TO_READ)
    print_lines(lines(runs, score, found))
    print_failures(score)
    ranking = score.ranking
    print(
        f"Ranking over {ranking.families} families of plans: regret {percent(ranking.regret_mean)} % in the mean, "
        f"{percent(ranking.regret_max)} % at most; Kendall's tau {ranking.kendall_tau or 0.0:.2f}.\n"
    )
    print(MISSED)
    print("## Constants that whole steps may set\n")
    print(FITTED)
    print_constants(found)
    print("\n## Error bars\n")
    print(BARS_IN_WORDS)
    alike, other = shipped_residuals().same_split, shipped_residuals().other_split
    print(
        f"Two plans are tied when their predicted times differ by less than {percent(alike.miss_ratio - 1.0)} % (same "
        f"tp, pp, cp and ep; {alike.num_pairs:,} pairs) or {percent(other.miss_ratio - 1.0)} % ({other.num_pairs:,} "
        f"pairs of {other.num_families} families).\n"
    )
    print_coverage(score, regimes(found))
    print("## Rows left out\n")
    for reason, count in score.skipped.items():
        print(f"- {count}: {reason}")


SHIPPED = """\
## The table that ships

`meshwise score training published` scores some 110 runs of public sources, each row with its citation; a test fails
when the scores leave the bands of `validate/data/bands.toml`. With `--plot`:

![Measured over predicted steps of the shipped table](images/published.png)
"""

HOW_TO_READ = """\
## Published runs

Mean and largest absolute error in % of the measured figure, with the constants as shipped. `left out`: the mean
when every constant that whole steps may set is fitted without the source, and its runs are predicted with it.
`constant`: the mean error of one constant hardware utilisation fitted on the very runs of its line, which is what a
prediction has to beat. `bar`: what the mean should be. For choices of plans the figure is the regret: the measured time
of the plan predicted best over that of the best, minus 1.
"""

MISSED = """\
## Where a bar is missed

As far as the runs of public sources tell (November 2026):

- Several A100 nodes: runs at tp 2 and 4 scatter by a tenth and more from one microbatch size to the next, and three
  runs of one model are a third slower than their neighbours; nothing the source states explains either. The tp 8 runs
  are smooth, and met.
- Plans chosen: one microbatch-1 run of BLOOM (148 s, where microbatch 2 takes 103 s) and the T4 runs make most of the
  regret. Among BLOOM's plans the prediction is no better than chance where microbatch 1 is one of them.
- NVIDIA's dense runs: fine-tuning by low-rank adapters is predicted 6 to 18 % too slow; without it the mean is 5.0 %.
  The 405B models in fp8 are predicted 17 % too slow.
- Sparse models: those with windowed attention and sinks run 1.2 to 1.9 times their prediction, one release of a
  671B model three times; without both the mean is about 10 %. Time per step that is no kernel's (7 to 50 ms in
  SimuMax's runs) is not priced.
- T4: whole steps keep 17 % of the datasheet's peak, which no kernel benchmark at hand explains. The prediction is worse
  than a constant there, and its error bar says so.
- Failures for memory: of four that are not flagged one is predicted 20 % under its device, one is a V100 run, and two
  give no cause for their failure.
- Constants of one source (B200 in bf16, the attention kernels of 2023): without that source its runs are missed by 9 to
  25 %. That is what to expect of hardware and kernels that nobody has published runs of.
"""

BARS_IN_WORDS = """\
A bar holds the middle 80 % of measured over predicted of runs as near as there are (`planner.cost.intervals`):

- `seen`: runs of the same kind of stack (attention kernel; host-paced or not) on the same accelerator, with the plan's
  axes and format among them and clusters at least a quarter of its size. Other runs weigh a little.
- `new`: no such run. Every run counts as predicted without its source.
- `unmeasured`: no kernel of the accelerator was timed. Every run counts as predicted with the pool's kernels and
  without any run on its accelerator.

Sources weigh as the root of their runs, so that a table composed of few measurements does not rule; the tails of the
last two are set so that the runs of a source left out are covered to the level in the mean over sources.
"""

FITTED = """\
Most constants come from benchmarks of kernels and links (calibration.md). These may be set by whole steps, each with a
prior; one that the runs do not tell of keeps its prior. `without one source` is the range over the fits behind `left
out`. Memory: what allocators of 2022 reserve beyond what is allocated, 1.15, is from 32 device readings (`bigscience`).
Nothing is fitted on any model, source or row by name.
"""


def main(arguments: list[str]) -> None:
    """Print the paper's table, then the board of each table named on the command line."""
    machine = f"{platform.machine()}, Python {platform.python_version()}"
    print(f"# Accuracy\n\n{date.today().isoformat()}, {machine}; written by `python -m benchmarks.accuracy`.\n")
    print_paper()
    print(SHIPPED)
    for path in arguments:
        print_table(path)


if __name__ == "__main__":
    main(sys.argv[1:])
