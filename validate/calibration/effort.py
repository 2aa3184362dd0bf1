"""What a calibration measures, and how long: the shapes and sizes of its micro-benchmarks."""

from dataclasses import dataclass

from profiles.units import KIB, MIB

_LINEAR_LAYERS = ((384, 384), (1152, 384), (1536, 384), (384, 1536), (1024, 1024), (4096, 1024), (8192, 384))
"""(outputs, inputs) of layers of small transformers, and the product with a vocabulary."""
_GPU_LAYERS = ((1024, 1024), (4096, 1024), (4096, 4096), (12288, 4096), (14336, 4096), (4096, 14336), (8192, 8192))
"""The same of transformers of 0.1 to 70 billion parameters."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What a calibration measures and how long."""

    seconds_per_kernel: float
    seconds_per_message: float
    patience_seconds: float
    """Most time to spend, a launch, on measuring again what other processes disturbed."""
    gemm: tuple[tuple[int, int, int], ...]
    attention: tuple[tuple[int, int, int, int], ...]
    """(batch, heads, length, head dimension)."""
    elements: tuple[int, ...]
    parameters: tuple[int, ...]
    """Sizes of optimizer updates."""
    embeddings: tuple[tuple[int, int, int], ...]
    """(tokens, vocabulary, width) of gradients of embeddings."""
    num_bytes: tuple[int, ...]
    dtypes: tuple[str, ...]
    """The first is that of attention and memory-bound kernels."""
    num_probe_steps: int
    """Timed steps of each small model that is trained to check the curves; 0: none is."""


NORMAL = Effort(
    seconds_per_kernel=0.12,
    seconds_per_message=0.25,
    patience_seconds=45.0,
    gemm=(
        *((tokens, n, k) for tokens in (64, 256, 512, 1024) for n, k in _LINEAR_LAYERS),
        (16, 64, 64), (128, 128, 128), (2048, 2048, 2048), (16, 1024, 1024), (256, 1024, 4096),
    ),
    attention=((2, 6, 128, 64), (2, 6, 256, 64), (1, 8, 512, 64), (8, 4, 128, 32), (1, 4, 1024, 128), (2, 4, 256, 128)),
    elements=tuple(2**power for power in (10, 14, 16, 17, 18, 19, 20, 21, 22)),
    parameters=tuple(2**power for power in (16, 18, 20, 22, 23)),
    embeddings=((256, 1024, 256), (256, 8192, 384), (1024, 8192, 512), (512, 32768, 256)),
    num_bytes=tuple(int(size) for size in (KIB, 8 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB)),
    dtypes=("fp32", "bf16"),
    num_probe_steps=6,
)  # fmt: skip
QUICK = Effort(
    seconds_per_kernel=0.01,
    seconds_per_message=0.02,
    patience_seconds=0.0,
    gemm=((64, 128, 128), (128, 256, 128), (128, 128, 512), (256, 512, 512), (512, 512, 256), (32, 512, 512)),
    attention=((1, 4, 64, 32), (2, 4, 128, 32), (1, 4, 128, 64), (1, 2, 256, 64)),
    elements=tuple(2**power for power in (14, 16, 18, 20)),
    parameters=tuple(2**power for power in (14, 17, 20)),
    embeddings=((64, 1024, 128),),
    num_bytes=tuple(int(size) for size in (KIB, 16 * KIB, 128 * KIB, MIB)),
    dtypes=("fp32",),
    num_probe_steps=0,
)
GPU = Effort(
    seconds_per_kernel=0.08,
    seconds_per_message=0.1,
    patience_seconds=0.0,
    gemm=(
        *((tokens, n, k) for tokens in (256, 1024, 4096, 8192) for n, k in _GPU_LAYERS),
        (4096, 32000, 4096), (4096, 128256, 4096), (16, 4096, 4096), (128, 128, 128),
    ),
    attention=(
        (8, 16, 512, 64), (4, 16, 1024, 64), (4, 32, 2048, 128), (1, 32, 4096, 128), (1, 32, 8192, 128),
        (1, 16, 16384, 128), (1, 8, 4096, 256), (16, 12, 1024, 64),
    ),
    elements=tuple(2**power for power in (12, 16, 18, 20, 22, 24, 26, 28)),
    parameters=tuple(2**power for power in (20, 23, 26, 28)),
    embeddings=((4096, 32000, 4096), (8192, 50304, 2048), (4096, 128256, 4096)),
    num_bytes=tuple(int(4**power * KIB) for power in range(11)),
    dtypes=("bf16", "fp32"),
    num_probe_steps=10,
)  # fmt: skip
"""For machines with a GPU: shapes of the models that are trained on them."""
