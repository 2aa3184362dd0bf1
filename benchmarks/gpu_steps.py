"""Steps of one device, predicted and measured: calibrates it, then trains models of 0.1 to 8 billion parameters.

`python -m benchmarks.gpu_steps OUTPUT.csv [CLUSTER.toml]` takes some twenty minutes on a machine with a GPU. Every
model runs at several lengths, with and without recomputation, where its estimate fits; each run becomes a row of
OUTPUT.csv (device, torch release and date in its source column), which `meshwise score training` reads. With a cluster
file, written by `meshwise calibrate`, the calibration is not repeated.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from planner.cost.estimate import Estimate, estimate
from planner.cost.memory import usable_bytes
from planner.plan import Plan
from planner.recompute import Recompute
from profiles import catalog
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.units import GIB
from profiles.workload import TrainingJob
from validate.calibration.calibrate import calibrate
from validate.rows import Measured, append_rows, row_of
from validate.runnable import check_runnable
from validate.runner import Runner
from validate.score.agreement import Errors

MODELS = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "qwen2.5-0.5b", "opt-1.3b", "phi-2", "llama2-7b", "llama3-8b")
LENGTHS = (512, 1024, 2048, 4096)
MICRO_BATCHES = (8, 2)
"""The first that fits is run."""
NUM_WARMUP, NUM_STEPS, NUM_LAUNCHES = 3, 10, 1
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Case:
    """One model at one length."""

    job: TrainingJob
    plan: Plan


def cases(
    cluster: Cluster, stack: SoftwareStack, models: Sequence[str], lengths: Sequence[int], precision: str
) -> Iterator[Case]:
    """Every model at every length it knows, with and without recomputation, at the first microbatch that fits."""
    for model in map(catalog.model, models):
        for length in (length for length in lengths if length <= model.max_sequence_length):
            for recompute in (Recompute.NONE, Recompute.FULL):
                for micro_batch in MICRO_BATCHES:
                    job = TrainingJob(
                        model=model, global_batch=micro_batch, sequence_length=length, precision=precision
                    )
                    case = Case(job, Plan(micro_batch=micro_batch, recompute=recompute))
                    if _fits(case, cluster, stack):
                        yield case
                        break


def _fits(case: Case, cluster: Cluster, stack: SoftwareStack) -> bool:
    try:
        check_runnable(case.job, case.plan)
    except ValueError:
        return False
    return float(_estimate(case, cluster, stack).memory.peak_bytes) <= usable_bytes(cluster, stack)


def _estimate(case: Case, cluster: Cluster, stack: SoftwareStack) -> Estimate:
    return estimate(case.plan, case.job, cluster, stack)


def measure(output: Path, cluster: Cluster, stack: SoftwareStack, chosen: Sequence[Case], device: str) -> None:
    """Run the cases, add each to the table as soon as it is there, and print it beside its estimate."""
    predicted, measured = [], []
    print(f"{'case':<52}{'predicted':>11}{'measured':>11}{'error':>8}{'memory':>9}{'error':>8}")
    for case in chosen:
        runner = Runner(case.job, NUM_WARMUP, NUM_STEPS, device, TIMEOUT_SECONDS, True, None, NUM_LAUNCHES)
        try:
            (found,) = runner.alternate([case.plan])
            peak_bytes = runner.peak(case.plan, stack).allocated_bytes
        except ValueError as error:
            print(f"{_name(case):<52}  {error}")
            continue
        append_rows(output, [row_of(Measured(case.job, case.plan, cluster, found, peak_bytes), date.today())])
        guess = _estimate(case, cluster, stack)
        figures = (float(guess.step_seconds), float(guess.memory.allocated_bytes))
        predicted.append(figures)
        measured.append((found.step_seconds, peak_bytes))
        errors = [ours / theirs - 1.0 for ours, theirs in zip(figures, measured[-1], strict=True)]
        print(
            f"{_name(case):<52}{figures[0]:>9.3f} s{found.step_seconds:>9.3f} s{errors[0]:>+8.1%}"
            f"{peak_bytes / GIB:>5.1f} GiB{errors[1]:>+8.1%}"
        )
    for place, what in enumerate(("step", "memory")):
        errors_of = Errors.of([figures[place] for figures in predicted], [figures[place] for figures in measured])
        if errors_of.n:
            print(f"{what}: mean error {errors_of.mape:.1%}, worst {errors_of.max:.1%}, of {errors_of.n}")


def _name(case: Case) -> str:
    return f"{case.job.model.name} {case.job.global_batch}x{case.job.sequence_length} {case.plan}"


def main(arguments: Sequence[str]) -> None:
    """Calibrate, unless a cluster file is given, and measure."""
    if not 1 <= len(arguments) <= 2:
        sys.exit("usage: python -m benchmarks.gpu_steps OUTPUT.csv [CLUSTER.toml]")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments[1]) if len(arguments) > 1 else Path(folder, "here.toml")
        if len(arguments) == 1:
            print(calibrate(path, num_ranks=1, device="cuda").notes)
        cluster = catalog.cluster(path, num_devices=1)
    stack = catalog.software("pytorch-eager")
    chosen = list(cases(cluster, stack, MODELS, LENGTHS, "bf16"))
    measure(Path(arguments[0]), cluster, stack, chosen, "cuda")


if __name__ == "__main__":
    main(sys.argv[1:])
