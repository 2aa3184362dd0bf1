"""What is to be done: one training step, its batch and its precision."""

from typing import Literal

from profiles.model import ModelShape
from profiles.record import Count, Record

Precision = Literal["fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
"""Formats of matrix products in training; all but fp32 keep fp32 master parameters. "fp8": one scale a tensor;
"mxfp8": one for 32 elements; "nvfp4": one for 16, and one a tensor."""


class TrainingJob(Record):
    """One optimizer step of `global_batch` sequences of `sequence_length` tokens."""

    model: ModelShape
    global_batch: Count
    """Sequences (or samples, for a plain list of layers) per optimizer step."""
    sequence_length: Count
    precision: Precision = "bf16"
    optimizer: Literal["adam", "sgd"] = "adam"

    @property
    def compute_dtype(self) -> str:
        """The format that matrix units multiply in, which names a peak of the accelerator."""
        return {"mxfp8": "fp8", "nvfp4": "fp4"}.get(self.precision, self.precision)

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one optimizer step."""
        return float(self.global_batch) * float(self.sequence_length)
