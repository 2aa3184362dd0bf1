"""How data-parallel ranks exchange parameters and gradients, where a job asks for more than its stack does."""

from typing import Literal

from profiles.record import Record


class Exchange(Record):
    """The exchange of one optimizer step."""

    gather_precision: Literal["model", "fp8"] = "model"
    """Format that sharded parameters are gathered in: the one they are computed in, or fp8 (torchtitan's
    enable_fsdp_float8_all_gather), which also halves what is held gathered."""

    @property
    def gathers_fp8(self) -> bool:
        """Whether gathers move one byte a parameter."""
        return self.gather_precision == "fp8"
