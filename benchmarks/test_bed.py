"""Which split wins on which network: predicted and measured for every alternative, on hosts joined by real links.

`python -m benchmarks.test_bed` makes networks of chosen rate and latency on this machine (`validate.netbed`; root and
iproute2 are needed), calibrates each in place, and trains small models under every split that two ranks can run. It
takes about twelve minutes, in which nothing else should run. `--quick` runs one regime, `--four` also four emulated
hosts. With `--keep FILE` everything measured is written as soon as it is there, and the next call goes on from it.
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from planner.choose.legality import check_plan
from planner.cost.estimate import estimate
from planner.plan import Plan
from profiles import catalog
from profiles.cluster import Cluster
from profiles.model import TransformerShape
from profiles.units import GIGA, KIB, MEGA, MIB, MILLI
from profiles.workload import TrainingJob
from validate.calibration.calibrate import check
from validate.calibration.describe import describe
from validate.calibration.effort import NORMAL, Effort
from validate.calibration.journal import Journal
from validate.calibration.machine import machine_words, torch_version
from validate.calibration.sampling import Row, Sampler, Samples
from validate.measured import NOISE_FRACTION, Measurement
from validate.netbed import NetBed, why_not
from validate.runnable import is_runnable
from validate.runner import Runner

NUM_LAUNCHES, NUM_STEPS, NUM_WARMUP = 2, 5, 2
TIMEOUT_SECONDS = 120.0
_BITS = 8.0
EFFORT = replace(
    NORMAL, dtypes=("fp32",), seconds_per_kernel=0.06, patience_seconds=15.0, gemm=NORMAL.gemm[::2],
    elements=NORMAL.elements[::2],
    num_bytes=tuple(int(size) for size in (KIB, 16 * KIB, 128 * KIB, 512 * KIB, 2 * MIB, 8 * MIB)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Network:
    """Hosts of one rank each, and the links between them."""

    name: str
    num_hosts: int
    bits_per_second: float
    latency_seconds: float = 0.0

    def bed(self) -> NetBed:
        """The network on this machine."""
        return NetBed(self.num_hosts, self.bits_per_second / _BITS, self.latency_seconds)


@dataclass(frozen=True, slots=True)
class Work:
    """What is trained: a model, and a batch that favours one split or another."""

    name: str
    layers: int
    hidden: int
    vocabulary: int
    length: int
    batch: int

    def job(self) -> TrainingJob:
        """The training job."""
        heads = self.hidden // 64
        model = TransformerShape(
            name=self.name, source="made up for the test bed", family="gpt", num_layers=self.layers,
            hidden_size=self.hidden, num_heads=heads, num_kv_heads=heads, head_dim=64, ffn_size=4 * self.hidden,
            vocabulary_size=self.vocabulary, max_sequence_length=self.length,
        )  # fmt: skip
        return TrainingJob(model=model, global_batch=self.batch, sequence_length=self.length, precision="fp32")


FAST, GIGABIT, SLOW = (
    Network("10 Gb/s", 2, 10 * GIGA),
    Network("1 Gb/s", 2, GIGA),
    Network("200 Mb/s, 1 ms", 2, 200 * MEGA, 1 * MILLI),
)
NETWORKS = (FAST, GIGABIT, SLOW)
WORKS = (
    Work("many tokens", layers=4, hidden=256, vocabulary=1024, length=128, batch=8),
    Work("few samples", layers=4, hidden=512, vocabulary=2048, length=64, batch=2),
    Work("long samples", layers=2, hidden=256, vocabulary=1024, length=512, batch=4),
    Work("small model", layers=2, hidden=128, vocabulary=512, length=128, batch=32),
)
"""Data parallelism moves parameters, tensor parallelism tokens, a pipeline least, but it waits for its microbatches."""
FOUR_HOSTS = Network("1 Gb/s, 4 emulated hosts", 4, GIGA)
"""Four ranks on two cores take turns: their kernels are calibrated so too."""


def alternatives(job: TrainingJob, num_ranks: int, cluster: Cluster) -> dict[str, Plan]:
    """Every split into powers of two: with whole batches, and with microbatches of one sample (a pipeline only so)."""
    found = {}
    for dp, tp, pp in itertools.product((1, 2, 4), repeat=3):
        if dp * tp * pp != num_ranks or job.global_batch % dp:
            continue
        share = job.global_batch // dp
        for micro_batch in dict.fromkeys((share, 1)) if pp == 1 else (1,):
            plan = Plan(dp=dp, tp=tp, pp=pp, micro_batch=micro_batch)
            if not check_plan(plan, job, cluster) and is_runnable(job, plan):
                found[str(plan)] = plan
    return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """All alternatives of one regime."""

    network: str
    work: str
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    noise_fraction: float
    """Of the noisiest alternative."""
    num_contended: int

    @property
    def errors(self) -> dict[str, float]:
        """Predicted over measured step, minus 1, of every plan."""
        return {plan: self.predicted[plan] / seconds - 1.0 for plan, seconds in self.measured.items()}

    @property
    def chosen(self) -> str:
        """The plan predicted to be fastest."""
        return min(self.predicted, key=self.predicted.__getitem__)

    @property
    def best(self) -> str:
        """The plan measured to be fastest."""
        return min(self.measured, key=self.measured.__getitem__)

    @property
    def regret_fraction(self) -> float:
        """How much slower the choice is than the best."""
        return self.measured[self.chosen] / self.measured[self.best] - 1.0

    @property
    def is_tie(self) -> bool:
        """Whether choice and best differ by less than the noise."""
        return self.regret_fraction <= max(NOISE_FRACTION, self.noise_fraction)


def run(
    networks: Sequence[Network], works: Sequence[Work], num_ranks: int, effort: Effort, keep: Path | None
) -> Iterator[Outcome]:
    """Measure and predict every work on every network; kernels are measured once, links and small steps on each."""
    kernels = Sampler(num_ranks, effort, "cpu", journal=journal_of(keep, num_ranks, "kernels")).kernels(_silent)
    for network in networks:
        journal = journal_of(keep, num_ranks, network.name)
        with network.bed() as bed:
            sampler = Sampler(num_ranks, effort, "cpu", bed.launch, TIMEOUT_SECONDS, journal)
            messages = whole_groups(sampler.messages(_silent), num_ranks)
            spec = check(describe(Samples(kernels, messages), num_ranks), sampler, _silent)
            print(f"{network.name}: {spec.notes}", flush=True)
            for work in works:
                yield regime(network, work, bed, catalog.expand(spec), journal)


def journal_of(keep: Path | None, num_ranks: int, place: str) -> Journal | None:
    """The journal of what is measured at one place; none without a file."""
    setting = {"machine": machine_words(), "torch": torch_version(), "ranks": num_ranks, "place": place}
    return Journal.beside(keep, setting) if keep else None


def _silent(what: str, fraction: float) -> None:
    """Progress that nobody looks at."""


def whole_groups(messages: Sequence[list[Row]], num_ranks: int) -> tuple[list[Row], ...]:
    """Groups of sizes that degrees can have."""
    return tuple(results for results in messages if num_ranks % len(results) == 0)


def regime(network: Network, work: Work, bed: NetBed, cluster: Cluster, journal: Journal | None) -> Outcome:
    """Predict and measure every alternative of `work` on the hosts of `bed`, in turn."""
    job, stack = work.job(), catalog.software("pytorch-eager-cpu")
    plans = alternatives(job, network.num_hosts, cluster)
    runner = Runner(
        job, NUM_WARMUP, NUM_STEPS, "cpu", TIMEOUT_SECONDS, True, None, NUM_LAUNCHES, launcher=bed.launch,
        journal=journal, label=f"{work.name}: ",
    )  # fmt: skip
    found: dict[str, Measurement] = dict(zip(plans, runner.alternate(list(plans.values())), strict=True))
    return Outcome(
        network=network.name,
        work=work.name,
        predicted={name: float(estimate(plan, job, cluster, stack).step_seconds) for name, plan in plans.items()},
        measured={name: one.step_seconds for name, one in found.items()},
        noise_fraction=max(one.noise_fraction for one in found.values()),
        num_contended=sum(one.num_contended for one in found.values()),
    )


def show(outcome: Outcome) -> None:
    """One regime: every alternative, then what was chosen and what was best."""
    print(f"{outcome.network}, {outcome.work}")
    for plan, error in outcome.errors.items():
        mark = ("<- best" if plan == outcome.best else "") + (" <- chosen" if plan == outcome.chosen else "")
        predicted, measured = outcome.predicted[plan] / MILLI, outcome.measured[plan] / MILLI
        print(f"  {plan:<16}{predicted:>8.1f} ms predicted {measured:>8.1f} ms measured {error:>+7.1%}  {mark}")
    noise = f"noise {outcome.noise_fraction:.0%}, {outcome.num_contended} launches contended"
    print(f"  regret {outcome.regret_fraction:.1%}{' (a tie)' if outcome.is_tie else ''}; {noise}", flush=True)


def summary(outcomes: Sequence[Outcome]) -> str:
    """The figures asked for, over all regimes."""
    errors = [abs(error) for outcome in outcomes for error in outcome.errors.values()]
    regrets = [outcome.regret_fraction for outcome in outcomes]
    beyond = [0.0 if outcome.is_tie else outcome.regret_fraction for outcome in outcomes]
    winners = {split(outcome.best) for outcome in outcomes}
    return (
        f"{len(outcomes)} regimes, {len(errors)} runs: mean step error {statistics.fmean(errors):.1%} (asked: 5 %), "
        f"median {statistics.median(errors):.1%}, worst {max(errors):.1%}\n"
        f"regret of the first choice: mean {statistics.fmean(regrets):.1%} (asked: 3 %), "
        f"{statistics.fmean(beyond):.1%} with ties as none; right or tied "
        f"{sum(outcome.is_tie for outcome in outcomes)} of {len(outcomes)}\n"
        f"splits that win somewhere: {', '.join(sorted(winners))} (asked: three)"
    )


def split(plan: str) -> str:
    """The degrees of a plan's name, without its microbatches."""
    return " ".join(word for word in plan.split() if word.startswith(("dp", "tp", "pp")))


def main(arguments: Sequence[str] = ()) -> None:
    """Print every regime and the summary; see the module's words for the arguments."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.test_bed")
    parser.add_argument("--quick", action="store_true", help="one regime")
    parser.add_argument("--four", action="store_true", help="also four emulated hosts")
    parser.add_argument("--keep", type=Path, help="file whose journal holds everything measured")
    asked = parser.parse_args(arguments)
    if reason := why_not():
        print(f"skipped: no test bed here: {reason}")
        return
    count = 1 if asked.quick else len(NETWORKS) + len(WORKS)
    effort = replace(EFFORT, patience_seconds=0.0) if asked.quick else EFFORT
    shown(run(NETWORKS[:count], WORKS[:count], 2, effort, asked.keep))
    if asked.four:
        print("emulated (four ranks on fewer cores):")
        shown(run([FOUR_HOSTS], WORKS[:2], 4, effort, asked.keep))


def shown(outcomes: Iterator[Outcome]) -> None:
    """Print every regime as it is found, then the summary."""
    found = []
    for outcome in outcomes:
        show(outcome)
        found.append(outcome)
    print(summary(found))


if __name__ == "__main__":
    main(sys.argv[1:])
