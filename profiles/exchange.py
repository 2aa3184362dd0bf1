"""How data-parallel ranks exchange parameters and gradients, where a job asks for more than its stack does."""

from typing import Literal, Self

from pydantic import Field, model_validator

from profiles.record import Count, Record
from profiles.units import MIB

TOP_K_FRACTION = 0.01
"""Share of a gradient that "top-k" sends where nobody says."""

Compression = Literal["none", "fp16", "bf16", "int8", "top-k"]
Synchronization = Literal["all-reduce", "local", "parameter-server", "asynchronous"]


class Exchange(Record):
    """The exchange of one optimizer step. All but the defaults change what the optimizer sees."""

    gather_precision: Literal["model", "fp8"] = "model"
    """Format that sharded parameters are gathered in: the one they are computed in, or fp8 (torchtitan's
    enable_fsdp_float8_all_gather), which also halves what is held gathered."""
    secondary_shards: int = Field(default=0, ge=0)
    """Neighbours that hold the parameters once more between forward and backward pass, so that backward passes gather
    among them alone (hierarchical partition) [Wang 2023, ZeRO++, arXiv:2306.10209, section 3.2]; 0: none do."""
    gradient_compression: Compression = "none"
    """"fp16", "bf16", "int8": each element rounded (int8 with a scale for 256 and error feedback); "top-k": only the
    largest, the rest added to the next step's [Lin 2018, Deep Gradient Compression, arXiv:1712.01887]."""
    top_k_fraction: float = Field(default=TOP_K_FRACTION, gt=0.0, le=1.0, allow_inf_nan=False)
    """Share of the gradient that "top-k" sends, as values and indices."""
    synchronization: Synchronization = "all-reduce"
    """"local": replica groups (dp_replicate of a plan) train alone and average what they changed every
    `sync_interval` steps [Stich 2019, arXiv:1805.09767; Douillard 2023, DiLoCo, arXiv:2311.08105];
    "parameter-server": gradients go to servers and parameters come back [Li 2014, OSDI]; "asynchronous": so, but
    no worker waits for another [Dean 2012, DistBelief]: of n workers, each applies gradients that are n - 1
    updates old on average."""
    sync_interval: Count = 1
    """Steps between two averages of "local"."""
    num_servers: int = Field(default=0, ge=0)
    """Ranks that also serve parameters; 0: all of them."""
    bucket_bytes: float = Field(default=0.0, ge=0.0, allow_inf_nan=False)
    """Gradients that are reduced together where parameters are whole on every rank (PyTorch's bucket_cap_mb); 0: those
    of a layer. Large buckets leave more of the last one uncovered, small ones pay a latency each
    [Li 2020, PyTorch Distributed, arXiv:2006.15704, section 3.2.3]."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sync_interval > 1 and self.synchronization != "local":
            raise ValueError(
                f"sync_interval: {self.sync_interval} needs synchronization=local, got {self.synchronization}"
            )
        if self.top_k_fraction != TOP_K_FRACTION and self.gradient_compression != "top-k":
            raise ValueError(
                f"top_k_fraction: {self.top_k_fraction:g} needs gradient_compression=top-k, "
                f"got {self.gradient_compression}"
            )
        if self.num_servers and not self.has_servers:
            raise ValueError(
                f"num_servers: {self.num_servers} needs synchronization=parameter-server or asynchronous, "
                f"got {self.synchronization}"
            )
        return self

    @property
    def gathers_fp8(self) -> bool:
        """Whether gathers move one byte a parameter."""
        return self.gather_precision == "fp8"

    @property
    def has_servers(self) -> bool:
        """Whether gradients go to parameter servers."""
        return self.synchronization in ("parameter-server", "asynchronous")

    @property
    def is_local(self) -> bool:
        """Whether replica groups train alone between averages."""
        return self.synchronization == "local"

    def words(self) -> list[str]:
        """What it changes in the algorithm, a phrase each; none for the defaults."""
        found: list[str] = []
        if self.gathers_fp8:
            found.append("parameters gathered in fp8")
        if self.gradient_compression == "top-k":
            found.append(f"the largest {self.top_k_fraction:.3g} of the gradient sent, the rest kept for later steps")
        elif self.gradient_compression != "none":
            found.append(f"gradients sent in {self.gradient_compression}")
        if self.is_local:
            found.append(f"replica groups train alone and average every {self.sync_interval} steps")
        if self.bucket_bytes:
            found.append(f"gradients reduced in buckets of {self.bucket_bytes / MIB:g} MiB")
        if self.has_servers:
            found.append(f"{self.num_servers or 'all'} ranks serve parameters")
        if self.synchronization == "asynchronous":
            found.append("no worker waits: each of n applies gradients n - 1 updates old")
        return found
