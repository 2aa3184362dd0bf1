"""The sets of published runs that accuracy is shown on: a rule over the columns of a table, a figure and a bar.

A bar is what would make predictions of the set worth trusting; the board prints how far off the figure is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from validate.runs.table import Run

Figure = Literal["time", "time by group", "regret", "regret of three", "allocated", "reserved", "device"]
"""Mean absolute error of the step, of groups of it, of a memory reading; or what the plan predicted best costs."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of the board. Runs are those of a table, its columns being the fields of `Run`."""

    name: str
    rule: str
    """The rule in words."""
    holds: Callable[[Run], bool]
    limit: float
    """Of the mean, as a fraction."""
    max_limit: float | None = None
    figure: Figure = "time"


def _of(*prefixes: str) -> Callable[[Run], bool]:
    return lambda run: run.id.startswith(prefixes)


def _is_multi(run: Run) -> bool:
    return run.id.startswith("vtrain") and (run.num_accelerators or 0) > 8


def _is_erratic(run: Run) -> bool:
    """Runs whose neighbours in microbatch or tp contradict them, whatever is predicted: slower per layer than at
    twice the tp, or scattering by a quarter."""
    size, tp, batch = round(run.params_b or 0.0, 1), run.tp or 0, run.micro_batch_seqs or 0
    odd_small = size < 5.0 and (tp, batch) in ((4, 2), (8, 2), (8, 64))
    return _is_multi(run) and (odd_small or (30.0 < size < 50.0 and tp == 2))


def _is_39b(run: Run) -> bool:
    return _is_multi(run) and 30.0 < (run.params_b or 0.0) < 50.0 and run.tp == 8


def _is_dense_nvidia(run: Run) -> bool:
    return run.id.startswith(("nemo-", "dgxc", "megatron-bridge")) and not run.num_experts


def _is_bloom(run: Run) -> bool:
    return run.id.startswith("bigscience") and run.accelerator.startswith("A100")


def _is_simumax(run: Run) -> bool:
    return run.id.startswith("simumax")


def _has_pair(run: Run, prefix: str, accelerator: str) -> bool:
    return run.id.startswith(prefix) and run.accelerator.startswith(accelerator)


def _is_sharded(run: Run) -> bool:
    return run.zero_stage_or_fsdp in ("fsdp", "hsdp", "2", "3")


def _is_narrow(run: Run) -> bool:
    return run.precision in ("fp8", "mxfp8", "nvfp4")


def _is_new_split(run: Run) -> bool:
    return bool(run.num_experts) or _is_sharded(run) or (run.cp or 1) > 1 or _is_narrow(run)


BARS = (
    Bar("sequence-parallelism paper, table 5", "korthikanti22", _of("korthikanti22"), 0.025, 0.06),
    Bar("several A100 nodes, tp up to 8", "vtrain, more than 8 devices, tp <= 8",
        lambda run: _is_multi(run) and (run.tp or 0) <= 8, 0.07),
    Bar("... without erratic runs", "and not 3.6B tp4 mb2, tp8 mb2, tp8 mb64, nor 39.1B tp2",
        lambda run: _is_multi(run) and (run.tp or 0) <= 8 and not _is_erratic(run), 0.05),
    Bar("... 39.1B at tp8", "and 39.1B, tp 8", _is_39b, 0.025),
    Bar("tp 16 over two nodes", "vtrain, tp 16", lambda run: _is_multi(run) and run.tp == 16, 0.04),
    Bar("one A100 node, by group", "vtrain, up to 8 devices: mean of groups of hidden, microbatch and tp",
        lambda run: run.id.startswith("vtrain") and not _is_multi(run), 0.09, figure="time by group"),
    Bar("BLOOM on 384 A100", "bigscience, A100, 384 devices",
        lambda run: _is_bloom(run) and run.num_accelerators == 384, 0.10),
    Bar("BLOOM on A100, plans chosen", "bigscience, A100", _is_bloom, 0.03, figure="regret"),
    Bar("llm-foundry, A100", "llm-foundry, A100", lambda run: _has_pair(run, "llm-foundry", "A100"), 0.05),
    Bar("llm-foundry, H100", "llm-foundry, H100", lambda run: _has_pair(run, "llm-foundry", "H100"), 0.05),
    Bar("NVIDIA's own runs, dense", "nemo, dgxc, megatron-bridge; no experts", _is_dense_nvidia, 0.05),
    Bar("torchtitan", "torchtitan", _of("torchtitan"), 0.08),
    Bar("SimuMax on B200", "simumax", _of("simumax"), 0.05),
    Bar("SimuMax memory, dense", "simumax, no experts", lambda run: _is_simumax(run) and not run.num_experts,
        0.002, figure="allocated"),
    Bar("SimuMax memory, experts", "simumax, experts", lambda run: _is_simumax(run) and bool(run.num_experts),
        0.01, figure="allocated"),
    Bar("BLOOM memory", "bigscience, A100", _is_bloom, 0.04, figure="device"),
    Bar("torchtitan memory", "torchtitan", _of("torchtitan"), 0.04, figure="reserved"),
    Bar("experts, every source", "experts", lambda run: bool(run.num_experts), 0.10),
    Bar("sharded parameters or gradients, every source", "fsdp, hsdp, zero 2 or 3", _is_sharded, 0.10),
    Bar("context parallelism, every source", "cp > 1", lambda run: (run.cp or 1) > 1, 0.10),
    Bar("fp8 and narrower, every source", "fp8, mxfp8, nvfp4", _is_narrow, 0.10),
    Bar("plans chosen among any of these four", "any of the four rules", _is_new_split, 0.03, figure="regret"),
    Bar("plans chosen, all families", "all", lambda run: True, 0.02, figure="regret"),
    Bar("best of the three predicted best", "all", lambda run: True, 0.002, figure="regret of three"),
)  # fmt: skip
"""Named sets; sources that no set names are shown one a line against OTHER_LIMIT."""

OTHER_LIMIT = 0.10
NAMED = ("korthikanti22", "vtrain", "bigscience", "llm-foundry", "nemo", "dgxc-benchmarking", "torchtitan", "simumax")
"""Sources that have lines of their own above; megatron-bridge's sparse runs count as others."""
OOM_FLAGGED, OOM_FALSE = 0.9, 0.02
COVERAGE = (0.75, 0.85)
