"""The numbers of docs/benchmarks.md for this machine: calibrate, then run one split of each kind for real.

`python -m benchmarks.validate_here [CLUSTER.toml] [--keep FILE] [--only NAME ...]` takes some fifteen minutes, in which
nothing else should run. With a cluster file, written by `meshwise calibrate`, the calibration is not repeated. With
`--keep` every launch is written to FILE as soon as it ends, and the next call with it goes on from there: a long run
can be taken in slices, and what was measured can be set beside another cluster file. Splits of four ranks run on
machines with fewer cores too, where ranks take turns: they are labelled emulated, and predicted so.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from planner.plan import Plan
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.units import MIB, MILLI
from profiles.workload import TrainingJob
from validate.calibration.calibrate import calibrate
from validate.calibration.journal import Journal
from validate.compare import rank
from validate.launch import num_cores
from validate.measured import NOISE_FRACTION
from validate.runner import Runner, setting
from validate.sweep.outcome import Outcome, Sweep
from validate.sweep.run import Sweeper

MODEL = "gpt-20m"
PLANS = {
    "dp=2": Plan(dp=2, micro_batch=2),
    "zero-1": Plan(dp=2, micro_batch=2, zero_stage=1),
    "fsdp": Plan(dp=2, micro_batch=2, zero_stage=3),
    "tp=2": Plan(tp=2, micro_batch=2),
    "tp=2 mb=1": Plan(tp=2, micro_batch=1),
    "tp=2 sp": Plan(tp=2, micro_batch=2, sequence_parallel=True),
    "pp=2": Plan(pp=2, micro_batch=2),
    "pp=2 gpipe": Plan(pp=2, micro_batch=2, schedule="gpipe"),
    "pp=2 vp=2": Plan(pp=2, vp=2, micro_batch=2, schedule="interleaved"),
    "cp=2": Plan(cp=2, micro_batch=2),
    "ulysses": Plan(cp=2, cp_a2a=2, micro_batch=2),
    "dp=2 tp=2": Plan(dp=2, tp=2, micro_batch=2),
    "dp=2 pp=2": Plan(dp=2, pp=2, micro_batch=2),
}
"""One rank, with the microbatch of the first of them, runs beside them."""
NUM_LAUNCHES, NUM_STEPS, NUM_WARMUP = 3, 6, 2
TIMEOUT_SECONDS = 600.0


def main(arguments: Sequence[str] = ()) -> None:
    """Print the tables of the job below; see the module's words for the arguments."""
    asked = _arguments(arguments)
    model = catalog.model(MODEL)
    assert isinstance(model, TransformerShape)
    job = TrainingJob(model=model, global_batch=8, sequence_length=128, precision="fp32")
    runner = Runner(job, NUM_WARMUP, NUM_STEPS, "auto", TIMEOUT_SECONDS, True, None, NUM_LAUNCHES)
    runner.journal = Journal.beside(asked.keep, setting(job, runner)) if asked.keep else None
    plans = {name: PLANS[name] for name in asked.only or PLANS}
    stack = catalog.software("pytorch-eager-cpu")
    sweeper = Sweeper(job, _cluster(asked.cluster), stack, list(plans.values()), runner)
    sweeper.run()
    print_tables({plan: name for name, plan in plans.items()}, sweeper.cluster, job, sweeper.result())


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.validate_here")
    parser.add_argument("cluster", type=Path, nargs="?", help="cluster file to predict with; default: calibrate now")
    parser.add_argument("--keep", type=Path, help="file whose journal holds every launch")
    parser.add_argument("--only", nargs="+", choices=PLANS, metavar="NAME", help=f"some of: {', '.join(PLANS)}")
    return parser.parse_args(arguments)


def _cluster(path: Path | None) -> Cluster:
    if path is not None:
        return catalog.cluster(path)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder, "here.toml")
        print(calibrate(here).notes)
        return catalog.cluster(here)


def print_tables(names: dict[Plan, str], cluster: Cluster, job: TrainingJob, found: Sweep) -> None:
    """Steps, parts and memory of every plan, predicted and measured, and the figures asked for."""
    print(f"{job.model.name}, batch {job.global_batch} x {job.sequence_length}, {job.precision}, on {cluster.name}")
    rows = {"one rank": found.alone, **{names[outcome.plan]: outcome for outcome in found.outcomes}}
    for table in (_steps(rows, found), _parts(rows), _memory(rows)):
        print("\n".join(table) + "\n")
    for failure in found.failures:
        print(f"{names.get(failure.plan, failure.plan)} failed: {failure.reason}")
    print("\n".join([*_figures(found), *found.doubts]))


def _steps(rows: dict[str, Outcome], found: Sweep) -> list[str]:
    """Each plan's step and speed-up over one rank."""
    lines = [f"{'plan':<14}{'predicted':>11}{'measured':>11}{'error':>8}{'speed-up':>10}{'measured':>10}  launches"]
    for name, row in rows.items():
        (low, high), speedups = row.measured.range_seconds, found.speedups(row)
        lines.append(
            f"{name + (' *' if row.ranks_per_core > 1.0 else ''):<14}{float(row.estimated.step_seconds):>9.3f} s"
            f"{row.measured.step_seconds:>9.3f} s{row.error_fraction:>+8.1%}{speedups[0]:>9.2f}x{speedups[1]:>9.2f}x"
            f"  {low:.3f} .. {high:.3f} s, {row.measured.num_discarded} run again, "
            f"{row.measured.num_contended} contended"
        )
    return lines


def _parts(rows: dict[str, Outcome]) -> list[str]:
    """Predicted / measured milliseconds of every part of a step."""
    sides = {name: (row.estimated.breakdown.parts(), row.measured.breakdown.parts()) for name, row in rows.items()}
    parts = [
        part for part in next(iter(sides.values()))[0] if any(pair[0][part] + pair[1][part] for pair in sides.values())
    ]
    lines = [f"{'parts, ms':<14}" + "".join(f"{part:>16}" for part in parts)]
    for name, (predicted, measured) in sides.items():
        cells = (f"{predicted[part] / MILLI:.0f} / {measured[part] / MILLI:.0f}" for part in parts)
        lines.append(f"{name:<14}" + "".join(f"{cell:>16}" for cell in cells))
    return lines


def _memory(rows: dict[str, Outcome]) -> list[str]:
    """Predicted and measured MiB of the fullest rank: what tensors hold, and the resident set."""
    lines = [
        f"{'memory, MiB':<14}{'predicted':>11}{'tensors':>11}{'error':>8}{'predicted':>11}{'resident':>11}{'error':>8}"
    ]
    for name, row in rows.items():
        cells = ""
        for predicted, measured in memory_pairs(row):
            cells += f"{predicted / MIB:>11.1f}{measured / MIB:>11.1f}{predicted / measured - 1.0:>+8.1%}"
        lines.append(f"{name:<14}{cells}")
    return lines


def memory_pairs(row: Outcome) -> tuple[tuple[float, float], tuple[float, float]]:
    """(predicted, measured) bytes of tensors, and of the resident set."""
    memory = row.estimated.memory
    return (
        (float(memory.allocated_bytes), row.peak.allocated_bytes),
        (float(memory.peak_bytes), row.peak.resident_bytes or row.peak.allocated_bytes),
    )


def _figures(found: Sweep) -> list[str]:
    """Mean and worst errors, of real and of emulated splits."""
    lines = []
    kinds = {f"splits of at most {num_cores()} ranks": False, "emulated (*, more ranks than cores)": True}
    for words, emulated in kinds.items():
        errors = [abs(row.error_fraction) for row in found.outcomes if (row.ranks_per_core > 1.0) == emulated]
        if errors:
            lines.append(f"{words}: mean error {statistics.fmean(errors):.1%}, worst {max(errors):.1%}")
    pairs = [memory_pairs(row) for row in (found.alone, *found.outcomes)]
    for index, words in enumerate(("tensors", "resident set")):
        errors = [abs(pair[index][0] / pair[index][1] - 1.0) for pair in pairs]
        lines.append(f"memory, {words}: mean error {statistics.fmean(errors):.1%}, worst {max(errors):.1%}")
    rows = [found.alone, *found.outcomes]
    order = rank(
        [float(row.estimated.step_seconds) for row in rows], [row.measured.step_seconds for row in rows], NOISE_FRACTION
    )
    return [*lines, f"ranking (differences below {NOISE_FRACTION:.0%} are ties): {order}"]


if __name__ == "__main__":
    main(sys.argv[1:])
