"""What a compressed gradient sends, and the passes over memory that make and undo it.

A method is one record: a format narrows every element of a reduction; "top-k" sends values and indices to all.
"""

from dataclasses import dataclass

from profiles.exchange import Exchange
from profiles.software import SoftwareStack

_VALUE_AND_INDEX_BYTES = 8.0


@dataclass(frozen=True, slots=True)
class Compressed:
    """A gradient as it travels."""

    bytes_per_element: float
    """Of a reduction; of "top-k", what one rank sends for each element of the whole gradient."""
    traffic_bytes_per_element: float
    """Memory traffic, beside the reduction, on a rank and element of the gradient."""
    traffic_bytes_per_received: float = 0.0
    """The same for each value that "top-k" receives."""
    is_sparse: bool = False
    """Sent to all ranks in place of summed on the way."""


def compressed(exchange: Exchange, stack: SoftwareStack) -> Compressed:
    """The gradient of a stack under the exchange's compression.

    Casts read one format and write the other, both ways. int8 has a scale for 256 elements and keeps what rounding
    lost (a read and a write of fp32) [Seide 2014, 1-bit SGD; Wang 2023, ZeRO++, arXiv:2306.10209, section 4.3].
    top-k adds the residual, selects in two further reads and adds what arrives [Lin 2018, arXiv:1712.01887, 3].
    """
    full = stack.gradient_bytes
    match exchange.gradient_compression:
        case "fp16" | "bf16":
            narrow = min(2.0, full)
            return Compressed(narrow, 2.0 * (full + narrow) * (narrow < full))
        case "int8":
            narrow = 1.0 + 4.0 / 256.0
            return Compressed(narrow, 2.0 * (full + narrow) + 8.0)
        case "top-k":
            sent = exchange.top_k_fraction * _VALUE_AND_INDEX_BYTES
            return Compressed(sent, full + 8.0 + 2.0 * full, 2.0 * full + _VALUE_AND_INDEX_BYTES, is_sparse=True)
    return Compressed(full, 0.0)
