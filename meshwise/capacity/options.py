"""The options of `meshwise capacity`: each is a field of the job file's [capacity] table, over which it wins."""

from dataclasses import dataclass
from typing import Annotated, Any

import typer


def _ask(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="What is asked", show_default=False, **more)


def _among(help: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel="Among what", show_default=False, metavar="A,B,...", **more)


@dataclass(frozen=True, slots=True)
class CapacityFlags:
    """By when, for how much, and among which offers; None where the job file or a default decides."""

    tokens: Annotated[str | None, _ask("Tokens to train on, e.g. 15T (default: 20 a parameter).")] = None
    deadline: Annotated[str | None, _ask("When it must be done: 90d, 6w, 1y, or a date.")] = None
    start: Annotated[str | None, _ask("The day the run begins (default: today).")] = None
    budget: Annotated[str | None, _ask("Dollars it may cost, e.g. 5M.")] = None
    max_risk: Annotated[
        float | None, _ask("Largest chance of ending late or over budget (default: 0.1).", min=0.0, max=1.0)
    ] = None
    fleet: Annotated[
        str | None, _ask("Whose failures: a name of `profiles list reliability`, or a .toml (default: llama3-405b).")
    ] = None
    spares: Annotated[
        float | None,
        _ask("Spare devices of a bought or reserved cluster, as a share (default: 0.05).", min=0.0, max=1.0),
    ] = None
    storage_gb_per_second: Annotated[float | None, _ask("Rate of checkpoints (default: the fleet's a device).")] = None
    country: Annotated[str | None, _ask("Where an owner's devices stand: its electricity and its grid.")] = None
    pue: Annotated[float | None, _ask("Power usage effectiveness of the site (default: the provider's).", min=1.0)] = (
        None
    )
    electricity_dollars_per_kwh: Annotated[
        float | None, _ask("Price of electricity (default: the country's).", metavar="DOLLARS")
    ] = None
    carbon_grams_per_kwh: Annotated[
        float | None, _ask("CO2 of electricity (default: the region's, or the country's).", metavar="GRAMS")
    ] = None
    clusters: Annotated[str | None, _among("Clusters or nodes of the catalog, or cluster files.")] = None
    offers: Annotated[str | None, _among("Offers by name (`profiles list offers`), or price lists (.toml).")] = None
    accelerators: Annotated[str | None, _among("Accelerators by name.")] = None
    providers: Annotated[str | None, _among("Who rents out or sells.")] = None
    terms: Annotated[str | None, _among("on-demand, reserved, spot, purchase.")] = None
    regions: Annotated[str | None, _among("Regions as providers call them.")] = None
    family: Annotated[str | None, _among("Also these models in place of the job's: what would they cost?")] = None
    counts: Annotated[
        str | None,
        typer.Option(help="Numbers of devices: 64,128 or 64-4096 (doublings) or 64-512:64 (default: from what could "
                          "be in time at its peak rate, doubled five times).",
                     rich_help_panel="Among what", show_default=False, metavar="64-4096"),
    ] = None  # fmt: skip
    price: Annotated[
        float | None,
        typer.Option(help="Dollars per device hour of --clusters, in place of offers.", rich_help_panel="Among what",
                     show_default=False, metavar="DOLLARS"),
    ] = None  # fmt: skip
