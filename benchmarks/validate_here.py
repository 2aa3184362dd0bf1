"""Predicted against measured on this machine: calibrate it, then run one split of each kind for real.

`python -m benchmarks.validate_here [CLUSTER.toml]` takes some fifteen minutes, in which nothing else should run.
With a cluster file, written by `meshwise calibrate`, the calibration is not repeated. Splits of four ranks run on
machines with fewer cores too, where ranks take turns: they are labelled emulated.
"""

import statistics
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
from validate.calibration.calibrate import calibrate
from validate.compare import NOISE_FRACTION, Measurement, Runner, rank
from validate.launch import num_cores

MODEL = "gpt-20m"
PLANS = {
    "one rank": Plan(micro_batch=2),
    "dp=2": Plan(dp=2, micro_batch=2),
    "zero-1": Plan(dp=2, micro_batch=2, zero_stage=1),
    "fsdp": Plan(dp=2, micro_batch=2, zero_stage=3),
    "tp=2": Plan(tp=2, micro_batch=2),
    "tp=2 sp": Plan(tp=2, micro_batch=2, sequence_parallel=True),
    "pp=2": Plan(pp=2, micro_batch=2),
    "pp=2 gpipe": Plan(pp=2, micro_batch=2, schedule="gpipe"),
    "pp=2 vp=2": Plan(pp=2, vp=2, micro_batch=2, schedule="interleaved"),
    "cp=2": Plan(cp=2, micro_batch=2),
    "ulysses": Plan(cp=2, cp_a2a=2, micro_batch=2),
    "dp=2 tp=2": Plan(dp=2, tp=2, micro_batch=2),
    "dp=2 pp=2": Plan(dp=2, pp=2, micro_batch=2),
}
NUM_LAUNCHES, NUM_STEPS, NUM_WARMUP = 3, 6, 2
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
    runner = Runner(job, NUM_WARMUP, NUM_STEPS, "auto", TIMEOUT_SECONDS, True, None, NUM_LAUNCHES)
    measured = dict(zip(PLANS, runner.alternate(list(PLANS.values())), strict=True))
    print_table(job, cluster, catalog.software("pytorch-eager-cpu"), measured)


def print_table(job: TrainingJob, cluster: Cluster, stack: SoftwareStack, measured: dict[str, Measurement]) -> None:
    """Each plan's step and speed-up over one rank, predicted and measured, and whether the ranking holds."""
    predicted = {name: float(estimate(plan, job, cluster, stack).step_seconds) for name, plan in PLANS.items()}
    print(f"{job.model.name}, batch {job.global_batch} x {job.sequence_length}, {job.precision}, on {cluster.name}")
    print(f"{'plan':<14}{'predicted':>11}{'measured':>11}{'error':>8}{'speed-up':>10}{'measured':>10}  launches")
    for name, found in measured.items():
        label = f"{name} *" if PLANS[name].num_ranks > num_cores() else name
        low, high = found.range_seconds
        error = predicted[name] / found.step_seconds - 1.0
        faster = predicted["one rank"] / predicted[name], measured["one rank"].step_seconds / found.step_seconds
        print(
            f"{label:<14}{predicted[name]:>9.3f} s{found.step_seconds:>9.3f} s{error:>+8.1%}{faster[0]:>9.2f}x"
            f"{faster[1]:>9.2f}x  {low:.3f} .. {high:.3f} s, {found.num_discarded} run again, "
            f"{found.num_contended} contended"
        )
    real = [name for name in PLANS if 1 < PLANS[name].num_ranks <= num_cores()]
    errors = [abs(predicted[name] / measured[name].step_seconds - 1.0) for name in real]
    print(f"splits of at most {num_cores()} ranks: mean error {statistics.mean(errors):.1%}, worst {max(errors):.1%}; "
          "* emulated: more ranks than cores")  # fmt: skip
    order = rank(list(predicted.values()), [found.step_seconds for found in measured.values()], NOISE_FRACTION)
    print(f"ranking (differences below {NOISE_FRACTION:.0%} are ties): {order}")


if __name__ == "__main__":
    main(sys.argv[1:])
