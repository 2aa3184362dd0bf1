"""What is to be done: one training step, its batch and its precision."""

from typing import Literal

from pydantic import Field, model_validator

from profiles.exchange import Exchange
from profiles.model import ModelShape
from profiles.record import Count, Record

Precision = Literal["fp32", "bf16", "fp16", "fp8", "mxfp8", "nvfp4"]
"""Formats of matrix products in training; all but fp32 keep fp32 master parameters. "fp8": one scale a tensor;
"mxfp8": one for 32 elements; "nvfp4": one for 16, and one a tensor."""

COMPUTE_DTYPES = {"mxfp8": "fp8", "nvfp4": "fp4"}
"""Precision -> the format whose units multiply it, where the names differ."""

MAX_RANK = 65_536


class TrainingJob(Record):
    """One optimizer step of `global_batch` sequences of `sequence_length` tokens."""

    model: ModelShape
    global_batch: Count
    """Sequences (or samples, for a plain list of layers) per optimizer step."""
    sequence_length: Count
    precision: Precision = "bf16"
    optimizer: Literal["adam", "sgd"] = "adam"
    lora_rank: int = Field(default=0, ge=0, le=MAX_RANK)
    """Rank of the adapters that are trained beside frozen weights [Hu 2021, arXiv:2106.09685]; 0 trains all weights."""
    expert_load_factor: float = Field(default=1.0, ge=1.0, allow_inf_nan=False)
    """Rows that reach the busiest expert-parallel rank, over the mean of all: 1 where routing is balanced."""
    expert_capacity_factor: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Rows an expert takes at most, over the mean; those beyond are dropped. 0: none are dropped."""
    exchange: Exchange = Exchange()
    """What data-parallel ranks send one another, and when."""

    @model_validator(mode="after")
    def _is_trained_by_plans(self) -> "TrainingJob":
        if getattr(self.model, "linear_attention", None) or getattr(self.model, "gated_attention", False):
            raise ValueError(f"model: {self.model.name} has linear or gated attention, which is priced in serving only")
        return self

    @property
    def busiest_load_factor(self) -> float:
        """`expert_load_factor` after what exceeds the capacity is dropped."""
        return min(self.expert_load_factor, self.expert_capacity_factor or self.expert_load_factor)

    @property
    def compute_dtype(self) -> str:
        """The format that matrix units multiply in, which names a peak of the accelerator."""
        return COMPUTE_DTYPES.get(self.precision, self.precision)

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one optimizer step."""
        return float(self.global_batch) * float(self.sequence_length)
