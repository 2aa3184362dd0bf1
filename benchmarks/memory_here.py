"""Peak memory of splits that are run for real, beside the estimate: what tensors hold, and the resident set.

`python -m benchmarks.memory_here [--only WORD ...] [--keep FILE]` trains small models under some sixty splits of up to
four ranks, a few seconds each, and prints both peaks of the fullest rank, estimated and measured. Bytes do not depend
on how busy a machine is: it needs no quiet one, and no calibration. Ranks may be more than cores. With `--keep`
every launch is written to FILE as soon as it ends, and the next call with it goes on from there.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from planner.cost.memory import MemoryBreakdown, memory
from planner.plan import Plan
from planner.recompute import Module, Recompute
from profiles import catalog
from profiles.model import MixtureOfExperts, TransformerShape
from profiles.units import MIB
from profiles.workload import TrainingJob
from validate.calibration.journal import Journal
from validate.measured import Peak
from validate.runner import Runner, setting

STACK = "pytorch-eager-cpu"
TIMEOUT_SECONDS = 300.0


def _small() -> TransformerShape:
    model = catalog.model("gpt-20m")
    assert isinstance(model, TransformerShape)
    return model


GPT = _small()
LLAMA = GPT.model_copy(
    update={
        "name": "llama-20m", "num_kv_heads": 2, "gated_ffn": True, "ffn_size": 1024, "norm": "rms_norm",
        "num_learned_positions": 0, "qkv_bias": False, "linear_bias": False,
    }
)  # fmt: skip
"""Grouped queries, rotary positions, a gated feed-forward part, no biases."""
EXPERTS = LLAMA.model_copy(
    update={
        "name": "experts-40m",
        "moe": MixtureOfExperts(
            num_experts=8, top_k=2, expert_ffn_size=512, num_shared_experts=1, num_first_dense_layers=1
        ),
    }
)
"""A dense layer, then seven with eight experts and a shared one."""
TIED = LLAMA.model_copy(update={"name": "tied-20m", "tied_embeddings": True})
DEEP = GPT.model_copy(update={"name": "gpt-90m", "num_layers": 12, "hidden_size": 768, "num_heads": 12,
                              "num_kv_heads": 12, "ffn_size": 3072})  # fmt: skip
FULL, SELECTIVE = Recompute.FULL, Recompute.SELECTIVE
SHARDED: dict[str, Any] = {"dp": 2, "zero_stage": 3}


@dataclass(frozen=True, slots=True)
class Setting:
    """A split, and what is trained under it."""

    plan: Plan
    model: TransformerShape
    precision: str = "fp32"
    sequence_length: int = 128

    @property
    def job(self) -> TrainingJob:
        """Eight sequences a step."""
        return TrainingJob(
            model=self.model, global_batch=8, sequence_length=self.sequence_length, precision=self.precision
        )


def _settings(model: TransformerShape, length: int = 128, precision: str = "fp32",
              **splits: dict[str, Any]) -> dict[str, Setting]:  # fmt: skip
    kind = f"{model.name} {precision} {length}"
    return {
        f"{kind}: {name.replace('_', ' ')}": Setting(Plan(**({"micro_batch": 2} | fields)), model, precision, length)
        for name, fields in splits.items()
    }


SETTINGS = {
    **_settings(
        GPT,
        one_rank={},
        one_sequence={"micro_batch": 1},
        one_microbatch={"micro_batch": 8},
        recompute={"recompute": FULL},
        recompute_some={"recompute": FULL, "recompute_layers": 3},
        dp={"dp": 2},
        dp_one_microbatch={"dp": 2, "micro_batch": 4},
        zero1={"dp": 2, "zero_stage": 1},
        zero2={"dp": 2, "zero_stage": 2},
        fsdp=SHARDED,
        fsdp_kept=SHARDED | {"reshard_after_forward": False},
        fsdp_one_microbatch=SHARDED | {"micro_batch": 4},
        tp={"tp": 2},
        tp_mb1={"tp": 2, "micro_batch": 1},
        tp_recompute={"tp": 2, "recompute": FULL},
        tp_sp={"tp": 2, "sequence_parallel": True},
        tp_sp_zero1={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 1},
        tp_dp={"dp": 2, "tp": 2},
        pp={"pp": 2},
        pp_mb1={"pp": 2, "micro_batch": 1},
        pp_gpipe={"pp": 2, "schedule": "gpipe"},
        pp_interleaved={"pp": 2, "vp": 2, "schedule": "interleaved"},
        pp_breadth_first={"pp": 2, "vp": 2, "schedule": "breadth-first"},
        pp_zb_h1={"pp": 2, "schedule": "zb-h1"},
        pp_zb_v={"pp": 2, "vp": 2, "schedule": "zb-v"},
        pp_dualpipe_v={"pp": 2, "vp": 2, "schedule": "dualpipe-v"},
        pp_four={"pp": 4, "micro_batch": 1},
        pp_dp={"dp": 2, "pp": 2},
        pp_gpipe_zero1={"dp": 2, "pp": 2, "zero_stage": 1, "schedule": "gpipe"},
        cp={"cp": 2},
        cp_gather={"cp": 2, "cp_gather": True},
        ulysses={"cp": 2, "cp_a2a": 2},
    ),
    **_settings(
        LLAMA,
        one_rank={},
        zero1_in_groups={"dp": 4, "zero_stage": 1, "dp_replicate": 2},
        fsdp=SHARDED,
        fsdp_recompute=SHARDED | {"recompute": FULL},
        hsdp={"dp": 4, "zero_stage": 3, "dp_replicate": 2},
        tp_sp={"tp": 2, "sequence_parallel": True},
        tp_sp_fsdp=SHARDED | {"tp": 2, "sequence_parallel": True},
        recompute_core={"dp": 2, "recompute": SELECTIVE},
        recompute_core_and_mlp={
            "tp": 2, "recompute": SELECTIVE, "recompute_modules": Module.CORE_ATTN | Module.MLP,
        },
        recompute_operators=SHARDED | {"recompute": Recompute.OPERATORS},
        pp={"pp": 2},
        pp_uneven={"pp": 2, "layout": (5, 3)},
        pp_gpipe_recompute={"pp": 2, "schedule": "gpipe", "recompute": FULL},
        pp_fsdp=SHARDED | {"pp": 2},
        pp_tp_sp={"tp": 2, "pp": 2, "sequence_parallel": True},
        cp={"cp": 2},
        cp_fsdp=SHARDED | {"cp": 2},
        cp_tp_sp={"cp": 2, "tp": 2, "sequence_parallel": True},
    ),
    **_settings(TIED, one_rank={}, fsdp=SHARDED, tp={"tp": 2}),
    **_settings(
        EXPERTS,
        one_rank={},
        dp={"dp": 2},
        ep={"dp": 2, "ep": 2},
        ep_zero1={"dp": 4, "ep": 2, "zero_stage": 1},
        ep_fsdp={"dp": 4, "ep": 2, "zero_stage": 3},
        ep_pp={"dp": 2, "pp": 2, "ep": 2},
    ),
    **_settings(
        LLAMA, 128, "bf16",
        one_rank={},
        dp={"dp": 2},
        zero2={"dp": 2, "zero_stage": 2},
        fsdp=SHARDED,
        tp_sp_zero1={"dp": 2, "tp": 2, "sequence_parallel": True, "zero_stage": 1},
        pp_zb_h1={"pp": 2, "schedule": "zb-h1"},
        cp={"cp": 2},
    ),
    **_settings(GPT, 512, one_rank={"micro_batch": 4}, tp_sp={"tp": 2, "sequence_parallel": True}, fsdp=SHARDED,
                pp={"pp": 2}, pp_gpipe={"pp": 2, "schedule": "gpipe"}, cp={"cp": 2}),
    **_settings(DEEP, 256, one_rank={}, fsdp=SHARDED, tp={"tp": 2}, pp={"pp": 2}),
}  # fmt: skip
"""Name -> what is trained."""


@dataclass(frozen=True, slots=True)
class Row:
    """Bytes of one setting's fullest rank."""

    name: str
    estimated: MemoryBreakdown
    measured: Peak

    @property
    def pairs(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """(estimated, measured) bytes of tensors, and of the resident set."""
        resident = self.measured.resident_bytes or self.measured.allocated_bytes
        return (
            (float(self.estimated.allocated_bytes), self.measured.allocated_bytes),
            (float(self.estimated.peak_bytes), resident),
        )


def main(arguments: Sequence[str] = ()) -> None:
    """Print a row a setting as soon as it was run, then the means and worst of all."""
    asked = _arguments(arguments)
    names = [name for name in SETTINGS if not asked.only or any(word in name for word in asked.only)]
    if not names:
        raise SystemExit(f"--only: no setting holds any of {asked.only}; they are {', '.join(SETTINGS)}")
    print(
        f"{'memory, MiB':<42}{'estimated':>10}{'tensors':>10}{'error':>8}{'estimated':>11}{'resident':>10}{'error':>8}"
    )
    rows = []
    for row in measured_rows(names, asked.keep):
        rows.append(row)
        cells = "".join(f"{ours / MIB:>10.1f}{theirs / MIB:>10.1f}{ours / theirs - 1.0:>+8.1%}"
                        for ours, theirs in row.pairs)  # fmt: skip
        print(f"{row.name:<42}{cells}", flush=True)
    for index, (words, bar) in enumerate({"tensors": 0.01, "resident set": 0.03}.items()):
        errors = [abs(row.pairs[index][0] / row.pairs[index][1] - 1.0) for row in rows]
        print(
            f"{words}: {len(rows)} splits, mean error {statistics.fmean(errors):.1%}, worst {max(errors):.1%}, "
            f"{sum(error <= bar for error in errors)} within {bar:.0%}"
        )


def measured_rows(names: Sequence[str], keep: Path | None) -> Iterator[Row]:
    """Run the settings of these names one after the other."""
    stack = catalog.software(STACK)
    for name in names:
        chosen = SETTINGS[name]
        runner = Runner(chosen.job, 2, 2, "auto", TIMEOUT_SECONDS, True, None, 1)
        if keep is not None:
            runner.journal = Journal.beside(keep.with_name(f"{keep.name} {name}"), setting(chosen.job, runner))
        yield Row(name, memory(chosen.plan, chosen.job, stack), runner.peak(chosen.plan, stack))


def _arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory_here")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="settings whose names hold one of these")
    parser.add_argument("--keep", type=Path, help="where every launch is kept")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
