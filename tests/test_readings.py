"""Which memory a source read, in which unit; and what it says it recomputes."""

from dataclasses import replace

import pytest

from planner.cost.memory import MemoryBreakdown
from planner.offload import Offload
from planner.recompute import Module, Recompute
from profiles.catalog import software
from profiles.units import GIB, GIGA
from validate.runs.offloading import offload_of
from validate.runs.published import published_runs
from validate.runs.readings import measured_bytes, predicted_bytes, reading_of
from validate.runs.recomputation import UnknownRecompute, recomputation_of
from validate.runs.table import Run

RUN = published_runs("sequence_parallelism_table5")[0]


def changed(**changes: object) -> Run:
    """The 22B run with changes."""
    return replace(RUN, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "reading", "unit_bytes"),
    [
        ({"notes": "peak memory = max allocated GiB"}, "allocated", GIB),
        ({"notes": "peak memory = alloc_mem reported by the compiler"}, "allocated", GIB),
        ({"notes": "RESERVED"}, "reserved", GIB),
        ({"notes": "", "framework": "torchtitan"}, "reserved", GIB),
        ({"notes": "nvidia-smi", "framework": "Megatron-DeepSpeed"}, "device", GIGA),
        ({"notes": "nvidia-smi, GiB", "framework": "unheard of"}, "device", GIB),
    ],
)
def test_readings(changes: dict[str, object], reading: str, unit_bytes: float) -> None:
    run = changed(peak_memory_gb=10.0, **changes)
    assert reading_of(run) == reading
    assert measured_bytes(run) == 10.0 * unit_bytes
    memory = MemoryBreakdown(weights_bytes=4.0, fragmentation_bytes=2.0, context_bytes=1.0)
    assert predicted_bytes(memory, run) == {"allocated": 4.0, "reserved": 6.0, "device": 7.0}[reading]


def found(stack: str = "megatron-core", **changes: object) -> dict[str, object]:
    """The recomputation of the 22B run with changes, on a device of 100 TFLOP/s."""
    run = changed(**{"recompute": "selective", "hw_tflops_per_gpu": None, "model_tflops_per_gpu": None, **changes})
    return recomputation_of(run, software(stack), 100e12)


def test_what_selective_means_depends_on_the_stack_and_the_flags() -> None:
    assert found() == {"recompute": Recompute.SELECTIVE}
    assert found("torchtitan") == {"recompute": Recompute.OPERATORS}
    assert found("torchtitan", other_flags="AC: selective layer") == {
        "recompute": Recompute.FULL, "recompute_layers": 24,
    }  # fmt: skip
    assert found(other_flags="recompute_modules=moe+layernorm; x") == {
        "recompute": Recompute.SELECTIVE, "recompute_modules": Module.MOE | Module.LAYERNORM,
    }  # fmt: skip


def test_hardware_flops_tell_the_share_of_layers() -> None:
    """A sixth more FLOPs than the model's is half of the forward passes run again."""
    half = {"recompute": Recompute.FULL, "recompute_layers": 24}
    assert found("torchtitan", hw_tflops_per_gpu=70.0, model_tflops_per_gpu=60.0) == half
    assert found("torchtitan", hw_tflops_per_gpu=70.0, mfu=0.6) == half
    assert found("megatron-lm-2022", hw_tflops_per_gpu=70.0, mfu=0.6) == {"recompute": Recompute.SELECTIVE}


def test_none_full_and_nonsense() -> None:
    assert found(recompute="") == {"recompute": Recompute.NONE}
    assert found(recompute="full") == {"recompute": Recompute.FULL}
    with pytest.raises(UnknownRecompute):
        found(recompute="sometimes")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ("", Offload.NOTHING),
        ("full CPU offload", Offload.OPTIMIZER | Offload.PARAMETERS),
        ("CPU AdamW offload; Liger kernels", Offload.OPTIMIZER),
        ("optimizer offload; param offload", Offload.OPTIMIZER | Offload.PARAMETERS),
        ("ZeRO-3 (CPU offload capability)", Offload.NOTHING),
        ("checkpoint-in-cpu=Y", Offload.ACTIVATIONS),
        ("no checkpoint-in-cpu", Offload.NOTHING),
        ("checkpoint-in-cpu=N", Offload.NOTHING),
    ],
)
def test_what_lives_on_the_host(flags: str, parts: Offload) -> None:
    assert offload_of(changed(other_flags=flags)) == parts
