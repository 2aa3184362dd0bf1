"""A calibration as tables for people: the rates found, and how well each curve predicts what it did not see."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from meshwise.tables.parts import share, table
from profiles.accelerator import Accelerator
from profiles.calibration import Fit
from profiles.cluster import ClusterSpec
from profiles.units import GIGA
from validate.calibration.recalibrate import Recalibration
from validate.logs.links import FittedGroup
from validate.logs.profile import LogProfile, TraceProfile

_MOST_REASONS = 8
_IRRECONCILABLE = 0.05
"""Error of a run after recalibration above which its prices are not what is wrong."""


def show_calibration(console: Console, spec: ClusterSpec, output: Path) -> None:
    """What was measured and what to do with it."""
    device = spec.accelerator
    assert isinstance(device, Accelerator)
    peaks = ", ".join(f"{dtype} {rate / GIGA:,.1f}" for dtype, rate in device.peak_flops_per_second.items())
    console.print(f"{spec.name}: {spec.source}", style="bold", markup=False)
    for note in spec.notes.split("; "):
        console.print(f"- {note}", markup=False)
    console.print(
        f"best rates seen: {peaks} GFLOP/s, memory {device.memory_bytes_per_second / GIGA:,.1f} GB/s", markup=False
    )
    made = table("curve", ">points", ">held-out median", ">held-out p90")
    for name, fit in _fits(spec):
        made.add_row(name, str(fit.num_points), share(fit.held_out_median_error_fraction),
                     share(fit.held_out_p90_error_fraction))  # fmt: skip
    console.print()
    console.print(made)
    console.print()
    file = shlex.quote(str(output))
    console.print(f"wrote {file}; next: meshwise plan --model gpt2 --cluster {file} --devices 2", markup=False)


def show_links(console: Console, found: LogProfile, output: Path) -> None:
    """What logs of messages say of each link, beside the error of the curves that stood there before."""
    console.print(f"{found.spec.name}: {found.spec.source}", style="bold", markup=False)
    console.print()
    _show_groups(console, found.groups)
    _show_skipped(console, found.skipped)
    _show_next(console, output)


def show_trace(console: Console, found: TraceProfile, output: Path) -> None:
    """What a trace says of kernels and links, and how much of it could be read."""
    console.print(f"{found.spec.name}: {found.spec.source}", style="bold", markup=False)
    console.print(f"shapes were read for {found.read_fraction:.0%} of the kernels' time", markup=False)
    console.print()
    made = table("kernels", ">shapes", ">error before", ">after")
    for one in found.kernels:
        made.add_row(one.name, str(one.num_shapes), share(one.error_before_fraction), share(one.error_after_fraction))
    if found.kernels:
        console.print(made)
    if found.groups:
        _show_groups(console, found.groups)
    _show_skipped(console, found.skipped)
    _show_next(console, output)


def _show_groups(console: Console, groups: Sequence[FittedGroup]) -> None:
    made = table("link", "collective", ">ranks", ">hosts", ">points", ">error before", ">held-out median", ">p90")
    for group in groups:
        fit = group.curve.fit
        made.add_row(group.link, group.op, str(group.num_ranks), str(group.num_hosts), str(fit.num_points),
                     share(group.error_before_fraction), share(fit.held_out_median_error_fraction),
                     share(fit.held_out_p90_error_fraction))  # fmt: skip
    console.print(made)


def _show_skipped(console: Console, skipped: Mapping[str, int]) -> None:
    """The reasons of most rows, most first."""
    ordered = sorted(skipped.items(), key=lambda item: -item[1])
    for reason, count in ordered[:_MOST_REASONS]:
        console.print(f"not used: {count} {reason}", markup=False)
    if len(ordered) > _MOST_REASONS:
        rest = sum(count for _, count in ordered[_MOST_REASONS:])
        console.print(f"not used: {rest} for {len(ordered) - _MOST_REASONS} other reasons (--json lists all)")


def _show_next(console: Console, output: Path) -> None:
    console.print()
    file = shlex.quote(str(output))
    console.print(f"wrote {file}; next: meshwise plan --model llama2-7b --cluster {file}", markup=False)


def show_recalibration(console: Console, found: Recalibration, output: Path) -> None:
    """How the runs were predicted before and after, and which causes they tell of."""
    made = table("run", ">error before", ">after", ">held out")
    for name, error in found.before.items():
        held_out = f"{found.held_out[name]:+.1%}" if name in found.held_out else "\u2013"
        made.add_row(name, f"{error:+.1%}", f"{found.after[name]:+.1%}", held_out)
    console.print(made)
    console.print()
    made = table("cause", ">its time", ">known to before", ">now", "")
    for factor in found.factors:
        verdict = "found" if factor.is_found else "the runs say little of it"
        made.add_row(factor.scale.name, f"x{factor.value:.3f}", f"{factor.scale.log_spread:.0%}",
                     f"{factor.log_spread:.0%}", verdict)  # fmt: skip
    console.print(made)
    if found.num_figures < len(found.factors):
        figures = f"{found.num_figures} measured figure{'s' * (found.num_figures > 1)}"
        console.print(
            f"{figures} cannot tell {len(found.factors)} causes apart: the difference went mostly to what takes most "
            "of the step; runs of other splits, or the parts that validate --json measures, tell more"
        )
    for name, error in found.after.items():
        if abs(error) > _IRRECONCILABLE:
            console.print(
                f"{name} stays {abs(error):.0%} off: prices are not believed to be that wrong, so that more than they "
                "differs; check its plan, its software stack, and what else ran", markup=False,
            )  # fmt: skip
    _show_next(console, output)


def _fits(spec: ClusterSpec) -> Iterator[tuple[str, Fit]]:
    if spec.kernels:
        for name, gemm in spec.kernels.gemm.items():
            yield f"matmul {name}", gemm.fit
        for name, attention in spec.kernels.attention.items():
            yield f"attention {name}", attention.fit
        yield "element-wise", spec.kernels.elementwise.fit
    for tier in spec.tiers:
        for name, curve in (tier.curves.collectives if tier.curves else {}).items():
            yield f"{tier.name} {name}", curve.fit
