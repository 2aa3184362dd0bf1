"""The figures of docs/physics.md, drawn with the functions that price plans: `python -m docs.tools.figures [FOLDER]`.

Each function returns one picture; its name is the file's. What a figure shows as "simulated" was played on the clock.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from meshwise.asking import played_breakdown
from meshwise.jobfile import JobTable, question
from meshwise.serving import estimating, jobfile, playing
from planner.cost.collectives import message_seconds
from planner.cost.estimate import estimate
from planner.cost.goodput import Checkpoints, Interruptions, best_interval_seconds, goodput
from planner.cost.kernels import kernel_seconds
from planner.cost.memory import memory
from planner.cost.overlap import added_seconds
from planner.cost.roofline import smooth_max
from planner.plan import Plan
from planner.recompute import Recompute
from planner.work.ops import Gemm
from profiles import catalog
from profiles.units import GIB, GIGA, HOUR, MILLI, MINUTE
from profiles.workload import TrainingJob

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "images" / "physics"
FIGURES: dict[str, Callable[[], Figure]] = {}
SIZE_INCHES = (6.4, 3.6)


def figure(draw: Callable[[], Figure]) -> Callable[[], Figure]:
    """Register a figure under the name of its function."""
    FIGURES[draw.__name__] = draw
    return draw


def axes(x: str, y: str, title: str) -> tuple[Figure, Axes]:
    """An empty picture with its axes named."""
    picture = Figure(figsize=SIZE_INCHES, layout="constrained")
    drawn = picture.add_subplot()
    drawn.set(xlabel=x, ylabel=y)
    drawn.set_title(title, fontsize=10)
    drawn.grid(alpha=0.3)
    return picture, drawn


@figure
def roofline() -> Figure:
    """Compute and memory time of a kernel, and what joins them for several exponents."""
    picture, drawn = axes("memory time over compute time", "time over compute time", "$t = (c^p + m^p)^{1/p}$")
    ratio = np.geomspace(0.05, 20.0, 200)
    drawn.loglog(ratio, np.maximum(1.0, ratio), "k:", label="maximum: two limits, no overlap of them")
    for exponent in (1.0, 1.5, 2.0, 3.0):
        drawn.loglog(ratio, smooth_max(1.0, ratio, exponent), label=f"p = {exponent:g}")
    drawn.legend(fontsize=8)
    return picture


@figure
def gemm() -> Figure:
    """What a square product of m reaches of the datasheet's peak, and the held-out error of nine in ten shapes."""
    picture, drawn = axes("m = n = k", "share of the datasheet's peak", "matrix products in bf16, one kernel alone")
    size = np.geomspace(256.0, 16384.0, 60).round(-1) // 64 * 64
    for name in ("dgx-a100", "dgx-h100", "dgx-b200"):
        cluster = catalog.cluster(name)
        curve = cluster.kernels.gemm["bf16"]
        sustained = cluster.kernels.sustained_fraction("bf16", attention=False)
        peak = cluster.accelerator.flops_per_second("bf16")
        op = Gemm(size, size, size)
        share = op.flops / kernel_seconds(op, cluster) / peak / sustained
        (line,) = drawn.semilogx(size, share, label=cluster.accelerator.name)
        error = curve.fit.held_out_p90_error_fraction or 0.0
        drawn.fill_between(size, share / (1 + error), share * (1 + error), color=line.get_color(), alpha=0.15)
    drawn.set_ylim(0.0, 1.0)
    drawn.legend(fontsize=8, title="band: nine in ten held-out shapes", title_fontsize=8)
    return picture


@figure
def collectives() -> Figure:
    """Bus bandwidth of an all-reduce by size, inside a node and across nodes."""
    picture, drawn = axes(
        "bytes", "bus bandwidth, GB/s", r"all-reduce on DGX H100: $t = \alpha + S / \beta$, tier by tier"
    )
    cluster, num_bytes = catalog.cluster("dgx-h100", 64), np.geomspace(1e3, 8e9, 80)
    for ranks in (2, 8, 16, 64):
        seconds = message_seconds("all_reduce", num_bytes, float(ranks), 1.0, cluster)
        bus = num_bytes / seconds * 2.0 * (ranks - 1) / ranks
        where = "one node" if ranks <= 8 else f"{ranks // 8} nodes"
        drawn.loglog(num_bytes, bus / GIGA, label=f"{ranks} ranks, {where}")
    drawn.legend(fontsize=8)
    return picture


@figure
def bubble() -> Figure:
    """Idle share of a pipeline of eight stages, by formula, as estimated and as played."""
    picture, drawn = axes("microbatches a step", "idle share of the step", "pipeline of 8 stages, Llama 3 8B, 8 H100")
    counts = (8, 16, 32, 64)
    asked = [JobTable(model="llama3-8b", cluster="dgx-h100", global_batch=n, sequence_length=2048) for n in counts]
    questions = [question(table) for table in asked]
    for name, plan in {
        "1F1B": Plan(pp=8), "interleaved, 4 chunks a rank": Plan(pp=8, vp=4, schedule="interleaved"),
        "zero bubble (ZB-H2)": Plan(pp=8, schedule="zb-h2"),
    }.items():  # fmt: skip
        found = [estimate(plan, one.job, one.cluster, one.stack).breakdown for one in questions]
        (line,) = drawn.plot(counts, [float(one.idle_seconds / one.step_seconds) for one in found], label=name)
        played = [played_breakdown(one, plan) for one in questions]
        shares = [one.idle_seconds / one.step_seconds for one in played]
        drawn.plot(counts, shares, "o", color=line.get_color(), mfc="none")
    many = np.linspace(8, 64, 60)
    drawn.plot(many, 7 / (many + 7), "k:", label="(p - 1) / (m + p - 1)")
    drawn.set_ylim(0.0)
    drawn.legend(fontsize=8, title="lines: closed form; circles: simulated", title_fontsize=8)
    return picture


@figure
def activations() -> Figure:
    """Memory of the fullest rank by what is computed again."""
    picture, drawn = axes(
        "", "GiB of the fullest rank", "Llama 3 70B at tp 8, pp 4, ZeRO-1, 64 H100: what recomputation keeps"
    )
    job = TrainingJob(model=catalog.model("llama3-70b"), global_batch=64, sequence_length=8192, precision="bf16")
    stack = catalog.software("megatron-core")
    plans = {kind: Plan(dp=2, tp=8, pp=4, zero_stage=1, sequence_parallel=True, recompute=kind)
             for kind in (Recompute.NONE, Recompute.SELECTIVE, Recompute.FULL)}  # fmt: skip
    words = ("none", "selective (attention core)", "full")
    found = dict(zip(words, (memory(plan, job, stack) for plan in plans.values()), strict=True))
    bottom = np.zeros(len(found))
    for part in ("weights", "gradients", "optimizer", "activations", "workspace", "fragmentation", "context"):
        height = np.array([float(getattr(one, f"{part}_bytes")) for one in found.values()]) / GIB
        drawn.bar(list(found), height, bottom=bottom, label=part, width=0.55)
        bottom += height
    drawn.axhline(80.0, color="k", ls=":", label="an H100 holds 80")
    drawn.legend(fontsize=8, ncols=2)
    return picture


@figure
def overlap() -> Figure:
    """What messages add to the compute they run beside."""
    picture, drawn = axes(
        "message time over compute time", "time over compute time", "messages beside compute: $\\max(c + s x, x)$"
    )
    messages = np.linspace(0.0, 2.0, 100)
    for lost in (0.0, 0.2, 0.5, 1.0):
        words = {0.0: " (nothing lost)", 1.0: " (no overlap)"}.get(lost, "")
        drawn.plot(messages, 1.0 + added_seconds(1.0, messages, lost), label=f"s = {lost:g}{words}")
    drawn.legend(fontsize=8, title="s: rate that compute loses meanwhile", title_fontsize=8)
    return picture


@figure
def failures() -> Figure:
    """Useful share of a long run by the work between checkpoints, and the best interval."""
    picture, drawn = axes("minutes between checkpoints", "share of the time in steps that count",
                          "a stall of 30 s a checkpoint, a restart of 10 min")  # fmt: skip
    minutes = np.geomspace(1.0, 240.0, 120)
    for hours in (1.0, 3.0, 12.0):
        stops = Interruptions(hours * HOUR, 600.0)
        shares = goodput(stops, Checkpoints(minutes * MINUTE, 30.0)).useful_fraction
        (line,) = drawn.semilogx(minutes, shares, label=f"an interruption every {hours:g} h")
        best = float(best_interval_seconds(stops, 30.0))
        share = float(goodput(stops, Checkpoints(best, 30.0)).useful_fraction)
        drawn.plot(best / MINUTE, share, "o", color=line.get_color())
        young = np.sqrt(2.0 * 30.0 * hours * HOUR) / MINUTE
        drawn.axvline(young, color=line.get_color(), ls=":", lw=1)
    drawn.legend(fontsize=8, title=r"dots: best; dotted: Young's $\sqrt{2 \delta M}$", title_fontsize=8)
    return picture


@figure
def queueing() -> Figure:
    """Time to first token of a replica as its load grows, in closed form and as played."""
    picture, drawn = axes(
        "requests a second", "mean time to first token, ms", "one replica of Llama 3 8B on an H100 under vLLM"
    )
    file = jobfile.read(ROOT / "examples" / "llama3-8b-chat.toml")
    table = file.serving[0].model_copy(update={"replicas": 1})
    file = file.model_copy(update={"serving": (table,), "job": file.job.model_copy(update={"devices": 1})})

    def at(rate: float) -> jobfile.ServingFile:
        return file.model_copy(update={"load": file.load.model_copy(update={"requests_per_second": rate})})

    rates = np.linspace(1.0, 24.0, 24)
    formula = [estimating.estimate(at(float(rate)))[0].ttft_seconds for rate in rates]
    drawn.plot(rates, np.array(formula) / MILLI, label="closed form (M/G/1 wait and prompt)")
    some = (4.0, 10.0, 16.0, 20.0, 23.0)
    played = [playing.simulate(at(rate)).runs[0].figures.ttft_seconds.mean.value for rate in some]
    drawn.plot(some, np.array(played) / MILLI, "o", mfc="none", label="simulated, 4,000 requests")
    drawn.set_ylim(0.0)
    drawn.legend(fontsize=8)
    return picture


def draw(folder: Path) -> None:
    """Write every figure to `folder` as SVG, the same bytes whenever the numbers are the same."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "meshwise", "font.size": 9}):
        for name, make in FIGURES.items():
            make().savefig(folder / f"{name}.svg", metadata={"Date": None})
            print(folder / f"{name}.svg")


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
