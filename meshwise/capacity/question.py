"""From a job file and options to a capacity question: what is asked, of which offers, at which numbers of devices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from meshwise import amounts, jobfile
from meshwise.capacity.among import chosen_offers
from meshwise.capacity.quantities import amount, day, span_seconds
from meshwise.capacity.setups import Setups, laid_out
from meshwise.capacity.table import CapacityTable
from meshwise.jobfile import TOKENS_PER_STEP, JobTable
from meshwise.longrun import DEFAULT_FLEET, SPARE_SHARE
from planner.choose.capacity.demand import Demand
from profiles import catalog, prices
from profiles.costs import OwnershipFigures, ownership
from profiles.files import validated
from profiles.model import TransformerShape
from profiles.offer import Offer
from profiles.parameters import num_parameters
from profiles.site import site
from profiles.units import GIGA, KWH, MILLI, from_vendor_units

TOKENS_PER_PARAMETER = 20.0
"""Training tokens assumed where none are stated [Hoffmann 2022, arXiv:2203.15556, table 3]."""


@dataclass(frozen=True, slots=True)
class CapacityQuestion:
    """A capacity question with every name resolved and every default filled in."""

    job: JobTable
    """Its batch is that of every cluster; cluster and devices are of no account."""
    stated: CapacityTable
    start: date
    demand: Demand
    setups: Setups
    own: tuple[Offer, ...]
    """Offers beside those of the catalog."""
    assumed: tuple[str, ...]
    """What nobody stated, in words."""


def read(path: Path | None, job_flags: Mapping[str, Any], flags: Mapping[str, Any]) -> CapacityQuestion:
    """The question of a job file and options, which win; raises ValueError naming field, value and what is right."""
    file = jobfile.read(path, job_flags, {})
    kept = file.capacity.model_dump(exclude_unset=True) if file.capacity else {}
    stated = validated(CapacityTable, {**kept, **flags}, "command line" if flags else path or "command line")
    own = prices.parse_offers({"offers": file.offers}, path or "command line") if file.offers else ()
    return question(file.job, stated, own)


def question(table: JobTable, stated: CapacityTable, own: Sequence[Offer] = ()) -> CapacityQuestion:
    """Resolve names and fill in defaults; `own` offers join those of the catalog. Raises as `read`."""
    if table.model is None:
        raise ValueError("model: none given; name one (--model llama3-70b) or pass a job file")
    model = catalog.model(table.model)
    assumed = []
    if table.sequence_length is None and isinstance(model, TransformerShape):
        length = min(model.max_sequence_length, jobfile.MAX_DEFAULT_SEQUENCE)
        table = table.model_copy(update={"sequence_length": length})
        assumed.append(f"sequence length {length:,}")
    if table.global_batch is None:
        batch = max(1, TOKENS_PER_STEP // (table.sequence_length or 1))
        table = table.model_copy(update={"global_batch": batch})
        assumed.append(f"global batch {batch:,} ({batch * (table.sequence_length or 1):,} tokens)")
    if stated.tokens is None:
        tokens = TOKENS_PER_PARAMETER * num_parameters(model)
        assumed.append(f"{amounts.amount(tokens)} tokens ({TOKENS_PER_PARAMETER:.0f} a parameter)")
    else:
        tokens = amount(stated.tokens, "tokens", "15T")
    start = day(stated.start, "start") if stated.start else date.today()
    offers = chosen_offers(stated, own, (table.cluster,) if table.cluster else ())
    demand = Demand(
        tokens=tokens,
        tokens_per_step=float(table.global_batch or 0) * float(table.sequence_length or 1),
        fleet=catalog.reliability(stated.fleet or DEFAULT_FLEET),
        deadline_seconds=span_seconds(stated.deadline, start, "deadline") if stated.deadline else np.inf,
        budget_dollars=amount(stated.budget, "budget", "5M") if stated.budget is not None else np.inf,
        max_risk_fraction=stated.max_risk,
        spare_fraction=SPARE_SHARE if stated.spares is None else stated.spares,
        ownership=_ownership(stated),
        place=_place(stated),
        storage_bytes_per_second=stated.storage_gb_per_second and stated.storage_gb_per_second * GIGA,
    )
    return CapacityQuestion(
        table, stated, start, demand, laid_out(table, stated, offers, demand), tuple(own), tuple(assumed)
    )


def _place(stated: CapacityTable) -> dict[str, Any]:
    """What is stated of the place, as arguments of `profiles.site.site`."""
    if stated.country and "carbon intensity of the world" in site(country=stated.country).assumed:
        raise ValueError(
            f"country: {stated.country!r} is none whose grid is known; leave it out and state "
            "electricity_dollars_per_kwh and carbon_grams_per_kwh"
        )
    price, carbon = stated.electricity_dollars_per_kwh, stated.carbon_grams_per_kwh
    found = {
        "country": stated.country,
        "pue": stated.pue,
        "dollars_per_joule": price and price / KWH,
        "carbon_kilograms_per_joule": None if carbon is None else carbon * MILLI / KWH,
    }
    return {name: value for name, value in found.items() if value is not None}


def _ownership(stated: CapacityTable) -> OwnershipFigures:
    """The catalog's figures of owners under those that are stated; raises BadFile for one that makes no sense."""
    known = ownership().model_dump()
    return validated(OwnershipFigures, known | from_vendor_units(stated.ownership), "capacity.ownership")
