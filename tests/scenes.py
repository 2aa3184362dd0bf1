"""A few jobs and clusters that tests share."""

from profiles import catalog
from profiles.cluster import Cluster
from profiles.software import SoftwareStack
from profiles.workload import TrainingJob


def job(name: str = "gpt3-6.7B", *, global_batch: int = 64, sequence_length: int = 2048, **fields: str) -> TrainingJob:
    """A training job of a catalogue model."""
    return TrainingJob(model=catalog.model(name), global_batch=global_batch, sequence_length=sequence_length, **fields)


def cluster(num_devices: int = 64, name: str = "dgx-a100") -> Cluster:
    """A catalogue cluster."""
    return catalog.cluster(name, num_devices)


def stack(name: str = "megatron-core", **changes: object) -> SoftwareStack:
    """A catalogue stack, with some fields changed."""
    return catalog.software(name).model_copy(update=changes)
