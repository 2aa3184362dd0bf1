"""How often a fleet of accelerators interrupts the jobs on it, and how long a job then stands still."""

from pydantic import Field, model_validator

from profiles.record import Count, Fraction, NonNegative, Positive, Sourced


class Reliability(Sourced):
    """The failures of one published fleet, per device so that they carry over to jobs of another size.

    Interruptions are taken as independent and memoryless: a job on n devices is interrupted n times as often.
    """

    aliases: tuple[str, ...] = ()
    accelerator: str
    """The accelerators of the fleet, by their name in the catalog."""
    devices_per_node: Count = 8
    interruptions_per_device_second: Positive
    """Unplanned stops of a job per device and second of running, of all causes."""
    restart_seconds: Positive
    """From an interruption to the first new step: detection, a spare node, launch, warm-up. Reading the checkpoint
    comes on top."""
    manual_restart_fraction: Fraction = Field(default=0.0)
    """Share of restarts that wait for a person."""
    manual_restart_seconds: NonNegative = 0.0
    """What those take in place of `restart_seconds`."""
    node_loss_fraction: Fraction = Field(default=1.0)
    """Share of interruptions that take a node out of service; the rest (software, links) need none."""
    repair_seconds: NonNegative = 0.0
    """Until a node taken out of service is among the spares again."""
    storage_bytes_per_second_per_device: Positive
    """Rate at which checkpoints are written and read, per device of the job."""
    causes: dict[str, Count] = Field(default_factory=dict)
    """Interruptions by cause, as counted by the source."""

    @model_validator(mode="after")
    def _manual_restarts_last(self) -> "Reliability":
        if (self.manual_restart_fraction > 0.0) != (self.manual_restart_seconds > 0.0):
            raise ValueError("manual_restart_fraction and manual_restart_seconds: give both, or neither")
        return self

    def seconds_between_interruptions(self, num_devices: int) -> float:
        """Mean running time between interruptions of a job on `num_devices` devices."""
        return 1.0 / (self.interruptions_per_device_second * num_devices)
