"""`meshwise profiles`: the catalog of accelerators, nodes, clusters, links, models, stacks, calibrations and offers."""

from pathlib import Path
from typing import Annotated

import typer

from meshwise.options import JsonFlag

app = typer.Typer(
    no_args_is_help=True,
    help="The catalog: accelerators, nodes, clusters, links, models, software, calibration, offers, costs.",
)

KindArgument = Annotated[str | None, typer.Argument(metavar="KIND", help="One kind only, e.g. models.")]


@app.command("list")
def list_profiles(kind: KindArgument = None, *, json: JsonFlag = False) -> int:
    """Names in the catalog."""
    from meshwise import screen
    from meshwise.tables import catalog as tables
    from profiles import catalog

    kinds = (kind,) if kind else catalog.KINDS
    names = {one: catalog.names(one) for one in kinds}
    if json:
        screen.print_json({"names": {one: list(found) for one, found in names.items()}})
    else:
        tables.show_names(screen.console(), names)
    return 0


@app.command("show")
def show_profile(
    name: Annotated[str, typer.Argument(help="A name or alias, e.g. h100-sxm, llama3-70b, dgx-h100.")],
    kind: Annotated[str | None, typer.Option("--kind", help="Where to look, when several kinds have the name.")] = None,
    *,
    plot: Annotated[Path | None, typer.Option(help="Draw a cluster's network (.png, .svg, .pdf).")] = None,
    devices: Annotated[int | None, typer.Option(help="Of --plot: accelerators (default: the cluster's).")] = None,
    fabric: Annotated[str | None, typer.Option(help="Of --plot: how nodes are wired (profiles list fabrics).")] = None,
    force: Annotated[bool, typer.Option("--force", help="Let --plot replace a file.")] = False,
    json: JsonFlag = False,
) -> int:
    """A record as it is used: SI units, its sources, and which figures are unverified.

    With --plot also the network of a cluster (or of a node, or of an accelerator's usual node) as a picture.

    Example: meshwise profiles show dgx-h100 --plot network.png --devices 128 --fabric rail-optimised
    """
    from meshwise import inspecting, screen
    from meshwise.tables import catalog as tables

    found = {} if name.endswith(".toml") and plot else inspecting.find(name, kind)
    if plot:
        inspecting.draw_network(name, plot, devices, fabric, force=force)
    elif devices is not None or fabric is not None:
        raise ValueError(f"{'--devices' if fabric is None else '--fabric'}: says what --plot draws; give --plot FILE")
    if json:
        screen.print_json({"records": inspecting.as_json(found)})
    else:
        tables.show_records(screen.console(), found)
        if plot:
            screen.console().print(f"wrote {plot}", markup=False)
    return 0


@app.command("check")
def check_profiles(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Files of your own; none: every record of the catalog.")
    ] = None,
    *,
    json: JsonFlag = False,
) -> int:
    """Load records and report every one that is faulty. Exits 2 when one is."""
    from meshwise import inspecting, screen
    from meshwise.tables import catalog as tables

    report = inspecting.check(files or [])
    if json:
        screen.print_json({"checked": report.num_checked, "faults": list(report.faults)})
    else:
        tables.show_check(screen.console(), report)
    return 2 if report.faults else 0
