"""Predicted against measured on this machine: calibrate it, then run one split of each kind for real.

`python -m benchmarks.validate_here [CLUSTER.toml]` takes some eight minutes, in which nothing else should run.
With a cluster file, written by `meshwise calibrate`, the calibration is not repeated.
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from planner.cost.estimate import estimate
from planner.plan import Plan
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob
from validate.calibrate import calibrate
from validate.compare import NOISE_FRACTION, Measurement, Runner, rank

MODEL = "gpt-20m"
PLANS = {
    "one rank": Plan(micro_batch=2),
    "dp=2": Plan(dp=2, micro_batch=2),
    "tp=2": Plan(tp=2, micro_batch=2),
    "pp=2": Plan(pp=2, micro_batch=2),
}
NUM_LAUNCHES, NUM_STEPS, NUM_WARMUP = 4, 6, 2
TIMEOUT_SECONDS = 600.0


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table of the job below; `arguments` may name the cluster file to predict with."""
    model = catalog.model(MODEL)
    assert isinstance(model, TransformerShape)
    job = TrainingJob(model=model, global_batch=8, sequence_length=128, precision="fp32")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(arguments[0]) if arguments else Path(folder, "here.toml")
        if not arguments:
            print(calibrate(path).notes)
        cluster = catalog.cluster(path)
    runner = Runner(job, NUM_WARMUP, NUM_STEPS, "auto", TIMEOUT_SECONDS, False, None, NUM_LAUNCHES)
    measured = dict(zip(PLANS, runner.alternate(list(PLANS.values())), strict=True))
    print_table(job, cluster, catalog.software("pytorch-eager-cpu"), measured)


def print_table(job: TrainingJob, cluster: Cluster, stack: SoftwareStack, measured: dict[str, Measurement]) -> None:
    """Each plan's step and speed-up over one rank, predicted and measured, and whether the ranking holds."""
    predicted = {name: float(estimate(plan, job, cluster, stack).step_seconds) for name, plan in PLANS.items()}
    print(f"{job.model.name}, batch {job.global_batch} x {job.sequence_length}, {job.precision}, on {cluster.name}")
    print(f"{'plan':<10}{'predicted':>11}{'measured':>11}{'error':>8}{'speed-up':>10}{'measured':>10}  launches")
    for name, found in measured.items():
        low, high = found.range_seconds
        error = predicted[name] / found.step_seconds - 1.0
        faster = predicted["one rank"] / predicted[name], measured["one rank"].step_seconds / found.step_seconds
        print(
            f"{name:<10}{predicted[name]:>9.3f} s{found.step_seconds:>9.3f} s{error:>+8.1%}{faster[0]:>9.2f}x"
            f"{faster[1]:>9.2f}x  {low:.3f} .. {high:.3f} s, {found.num_discarded} run again, "
            f"{found.num_contended} contended"
        )
    order = rank(list(predicted.values()), [found.step_seconds for found in measured.values()], NOISE_FRACTION)
    print(f"ranking (differences below {NOISE_FRACTION:.0%} are ties): {order}")


if __name__ == "__main__":
    main(sys.argv[1:])
