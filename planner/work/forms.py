"""Forms of matrix products: in which formats weights and activations lie in memory, and which units multiply.

The names are those serving stacks use: `fp8` has one scale a tensor or token, `fp8_block` one for each block of 128,
`nvfp4` and `mxfp4` one for 16 or 32 elements; `int8_wo` and `int4_wo` quantise only the weights, `sq` (SmoothQuant)
both to int8; of those ending in `_2of4` two of every four weights are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from profiles.accelerator import Accelerator
from profiles.units import DTYPE_BYTES


@dataclass(frozen=True, slots=True)
class Form:
    """How a product [m, k] [k, n] is stored and computed; its result is 16 bits wide."""

    dtype: str
    """Format the matrix units multiply in: names a peak of the accelerator."""
    weight_bytes: float
    """Bytes of one weight, its share of the scales included."""
    activation_bytes: float
    """Bytes of one activation as the product reads it."""
    dense_form: str = ""
    """Of a sparse form the dense one whose kernels it runs at; "": its own were measured."""
    quantises: bool = False
    """Whether 16-bit activations are converted by a pass of their own, which reads and writes them once."""


_SCALED_4_BIT_BYTES = 0.5 + 1.0 / 16.0
"""Half a byte, and a one-byte scale for 16 elements (NVFP4)."""
_MX_4_BIT_BYTES = 0.5 + 1.0 / 32.0
"""Half a byte, and a one-byte scale for 32 elements (OCP Microscaling Formats 1.0, section 5.2)."""
_SPARSE_16_BIT_BYTES, _SPARSE_8_BIT_BYTES = 0.5 * 2.0 + 0.125, 0.5 * 1.0 + 0.125
"""Two of four weights, and two bits for the place of each of those [Mishra 2021, arXiv:2104.08378, section 3]."""
_GROUPED_4_BIT_BYTES = 0.5 + 2.0 / 128.0
"""Half a byte, and a 16-bit scale for a group of 128 (AWQ, GPTQ)."""

SPARSE = "_2of4"
"""Ends the names of forms that keep two of every four weights."""
OUTPUT_BYTES = 2.0
"""Bytes of one element of a result."""

FORMS: Mapping[str, Form] = {
    "bf16": Form("bf16", 2.0, 2.0),
    "fp16": Form("fp16", 2.0, 2.0),
    "fp8": Form("fp8", 1.0, 1.0, quantises=True),
    "fp8_block": Form("fp8", 1.0, 1.0, quantises=True),
    "nvfp4": Form("fp4", _SCALED_4_BIT_BYTES, _SCALED_4_BIT_BYTES, quantises=True),
    "int8_wo": Form("bf16", 1.0, 2.0),
    "int4_wo": Form("bf16", _GROUPED_4_BIT_BYTES, 2.0),
    "sq": Form("int8", 1.0, 1.0, quantises=True),
    "bf16_2of4": Form("bf16", _SPARSE_16_BIT_BYTES, 2.0, dense_form="bf16"),
    "fp8_2of4": Form("fp8", _SPARSE_8_BIT_BYTES, 1.0, dense_form="fp8", quantises=True),
    "w4a16_mxfp4": Form("bf16", _MX_4_BIT_BYTES, 2.0),
    "w4a8_mxfp4_mxfp8": Form("fp8", _MX_4_BIT_BYTES, 1.0, quantises=True),
}
"""By name. A format of `profiles.units` that is not here has one width throughout (`form_of`)."""


def check_units(name: str, accelerator: Accelerator) -> None:
    """Raise ValueError for sparse weights on a device that multiplies dense ones only."""
    if name.endswith(SPARSE) and not accelerator.sparse_products:
        raise ValueError(f"variant: {accelerator.name} has no units for weights of which two in four are kept")


def form_of(name: str) -> Form:
    """The form called `name`; a plain format is stored as it is computed, with 16-bit results or wider.

    Raises ValueError naming the forms there are.
    """
    if name in FORMS:
        return FORMS[name]
    if name in DTYPE_BYTES:
        return Form(name, DTYPE_BYTES[name], DTYPE_BYTES[name])
    raise ValueError(f"form: no matrix product is called {name!r}; there are {', '.join(sorted(FORMS))}")
