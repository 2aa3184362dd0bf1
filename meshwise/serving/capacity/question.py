"""From a serving job's file and options to its capacity question: what is asked, of which offers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshwise.capacity.among import chosen_offers
from meshwise.serving import jobfile
from meshwise.serving.capacity.table import ServingCapacityTable
from profiles import prices
from profiles.files import validated
from profiles.offer import Offer


@dataclass(frozen=True, slots=True)
class ServingCapacityQuestion:
    """A serving job, what is asked of it, and the offers that are looked at."""

    file: jobfile.ServingFile
    asked: ServingCapacityTable
    offers: tuple[Offer, ...]
    folder: Path
    """Of the job file, to which names in it are relative."""


def read(path: Path, job_flags: Mapping[str, Any], flags: Mapping[str, Any]) -> ServingCapacityQuestion:
    """The question of a serving job's file and options, which win. Raises ValueError naming field, value and what is
    right, also for options of training runs and for a cluster, which the offers name."""
    jobfile.refuse_options(job_flags)
    file = jobfile.read(path, needs_cluster=False)
    if file.job.cluster or file.job.others:
        raise ValueError(
            f"{path}: job.cluster: offers say what there is; leave it out, or name it in [capacity] clusters"
        )
    jobfile.refuse_options(
        {name: value for name, value in flags.items() if name not in ServingCapacityTable.model_fields}
    )
    stated = file.capacity.model_dump(exclude_unset=True) if file.capacity else {}
    asked = validated(ServingCapacityTable, {**stated, **flags}, "command line" if flags else path)
    own = prices.parse_offers({"offers": list(file.offers)}, path) if file.offers else ()
    return ServingCapacityQuestion(file, asked, chosen_offers(asked, own), path.parent)
