"""Small training steps that check a fresh calibration, and correct what kernels alone cannot show.

In a step kernels follow each other through the caches, autograd takes its time, and ranks wait for the slowest. The
models trained here are not what anyone validates; each is also predicted from the others, and the correction counts
only if that makes them better.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from planner.choose.legality import check_plan
from planner.plan import Plan
from profiles import catalog
from profiles.cluster import Cluster, ClusterSpec
from profiles.model import TransformerShape
from profiles.workload import Precision, TrainingJob
from validate.calibration.fit import Origin
from validate.calibration.journal import Journal
from validate.calibration.recalibrate import Observation, Recalibration, observed_parts, recalibrate
from validate.calibration.sampling import Launcher
from validate.launch import LaunchError
from validate.measured import MOST_FOREIGN_CORES, Launch
from validate.runnable import check_runnable
from validate.runner import Runner

_NUM_WARMUP = 2
_NOISE_FRACTION = 0.03
_HEAD_DIM = 64
_LEAST_RUNS = 3
_NUM_TRIES = 2


@dataclass(frozen=True, slots=True)
class SmallModel:
    """A small GPT and its batch."""

    layers: int
    hidden: int
    vocabulary: int
    length: int
    batch: int

    def job(self, precision: Precision) -> TrainingJob:
        """The training job."""
        heads = self.hidden // _HEAD_DIM
        model = TransformerShape(
            name=f"probe-{self.layers}x{self.hidden}", source="made up to check calibrations", family="gpt",
            num_layers=self.layers, hidden_size=self.hidden, num_heads=heads, num_kv_heads=heads, head_dim=_HEAD_DIM,
            ffn_size=4 * self.hidden, vocabulary_size=self.vocabulary, max_sequence_length=self.length,
        )  # fmt: skip
        return TrainingJob(model=model, global_batch=self.batch, sequence_length=self.length, precision=precision)


CPU_PROBES = (SmallModel(4, 256, 2048, 128, 8), SmallModel(2, 512, 1024, 64, 8), SmallModel(4, 128, 4096, 256, 8))
GPU_PROBES = (
    SmallModel(8, 1024, 32768, 1024, 16),
    SmallModel(4, 2048, 32768, 2048, 8),
    SmallModel(4, 4096, 32768, 1024, 8),
)


def probe(
    spec: ClusterSpec,
    num_ranks: int,
    *,
    num_steps: int,
    precision: Precision,
    device: str,
    launcher: Launcher,
    timeout_seconds: float,
    origin: Origin,
    tell: Callable[[float], None],
    journal: Journal | None = None,
) -> ClusterSpec:
    """`spec` with what small training steps on `num_ranks` ranks say of it, in its prices and in its notes.

    `tell` gets the fraction done; `journal` keeps every launch, and gives back those of an interrupted run. Steps that
    fail leave `spec` as it was, and are told in its notes.
    """
    cluster = catalog.expand(spec, num_ranks)
    stack = catalog.software("pytorch-eager-cpu" if cluster.accelerator.kind == "cpu" else "pytorch-eager")
    work = list(_work(cluster, num_ranks, precision))
    runs: list[Observation] = []
    for index, (job, plan) in enumerate(work):
        tell(index / len(work))
        runner = Runner(job, _NUM_WARMUP, num_steps, device, timeout_seconds, True, None, 1, launcher=launcher)
        try:
            launched = _kept(runner, plan, f"steps of {job.model.name} {plan}", journal)
        except LaunchError as error:
            return _noted(spec, f"training steps to check it failed: {error}")
        if launched is not None:
            parts = observed_parts({name: float(value) for name, value in launched.breakdown.parts().items()})
            runs.append(Observation(f"{job.model.name} {plan}", job, plan, stack, parts, _NOISE_FRACTION))
    if len(runs) < _LEAST_RUNS:
        return _noted(spec, f"{len(work) - len(runs)} of {len(work)} training steps to check it met other processes")
    return _chosen(spec, recalibrate(spec, runs, origin), len(work) - len(runs))


def _kept(runner: Runner, plan: Plan, name: str, journal: Journal | None) -> Launch | None:
    """An undisturbed launch, from the journal where it holds one."""
    if journal is None:
        return _undisturbed(runner, plan)
    found = journal.kept(name)
    if found is not None:
        return Launch.of_values(found[0])
    launched = _undisturbed(runner, plan)
    if launched is not None:
        journal.keep(name, [asdict(launched)])
    return launched


def _work(cluster: Cluster, num_ranks: int, precision: Precision) -> Iterator[tuple[TrainingJob, Plan]]:
    """Every model on all ranks by every axis.

    Microbatches of one sample tell what the host takes around each kernel; sharded parameters and rings, what other
    collectives cost in a step. With fewer plans of a model its odd ones would be put down to the wrong cause.
    """
    probes = CPU_PROBES if cluster.accelerator.kind == "cpu" else GPU_PROBES
    for one in probes:
        job, share = one.job(precision), max(1, one.batch // num_ranks // 2)
        plans = [Plan(dp=num_ranks, micro_batch=share)]
        if num_ranks > 1:
            plans += [
                Plan(dp=num_ranks, micro_batch=share, zero_stage=3),
                Plan(tp=num_ranks, micro_batch=1), Plan(tp=num_ranks, micro_batch=one.batch // 2),
                Plan(pp=num_ranks, micro_batch=1), Plan(cp=num_ranks, micro_batch=max(1, one.batch // 4)),
                Plan(cp=num_ranks, cp_a2a=num_ranks, micro_batch=max(1, one.batch // 4)),
            ]  # fmt: skip
        yield from ((job, plan) for plan in plans if not check_plan(plan, job, cluster) and _runs(job, plan))


def _runs(job: TrainingJob, plan: Plan) -> bool:
    try:
        check_runnable(job, plan)
    except ValueError:
        return False
    return True


def _undisturbed(runner: Runner, plan: Plan) -> Launch | None:
    """A launch beside which nothing else ran; None when there was none in a few tries."""
    for _ in range(_NUM_TRIES):
        launched = runner.timed(plan)
        if launched.foreign_cores <= MOST_FOREIGN_CORES:
            return launched
    return None


def _chosen(spec: ClusterSpec, found: Recalibration, num_disturbed: int) -> ClusterSpec:
    """The corrected profile where each step is predicted better from the others, else `spec`; the notes say which."""
    before, after = (_mean_error(list(errors.values())) for errors in (found.before, found.held_out))
    words = f"{len(found.before)} small training steps are predicted to {before:.1%} in the mean"
    words += f", to {after:.1%} with factors from the others"
    disturbed = f"; {num_disturbed} more met other processes" if num_disturbed else ""
    if after < before:
        return _noted(found.spec, f"{words}, which are applied{disturbed}")
    return _noted(spec, f"{words}, which are not applied{disturbed}")


def _mean_error(errors: Sequence[float]) -> float:
    return statistics.fmean(abs(error) for error in errors)


def _noted(spec: ClusterSpec, words: str) -> ClusterSpec:
    return spec.model_copy(update={"notes": f"{spec.notes}; {words}"})


__all__ = ["probe"]
