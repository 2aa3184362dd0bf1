"""What is to be done: one training step, its batch and its precision."""

from typing import Literal

from profiles.model import ModelShape
from profiles.record import Count, Record


class TrainingJob(Record):
    """One optimizer step of `global_batch` sequences of `sequence_length` tokens."""

    model: ModelShape
    global_batch: Count
    """Sequences (or samples, for a plain list of layers) per optimizer step."""
    sequence_length: Count
    precision: Literal["fp32", "bf16", "fp16", "fp8"] = "bf16"
    optimizer: Literal["adam", "sgd"] = "adam"

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one optimizer step."""
        return float(self.global_batch) * float(self.sequence_length)
