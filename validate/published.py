"""Small tables of published runs that ship with the project: settings and figures as their papers print them."""

from importlib.resources import as_file, files

from validate.table import Run, read_runs

TABLES = {
    "sequence_parallelism_table5": (
        "Korthikanti et al. 2022, Reducing Activation Recomputation in Large Transformer Models, "
        "arXiv:2205.05198, table 5: iteration times on A100-80GB at tensor parallelism 8, without data parallelism"
    ),
}
"""Name -> citation."""


def published_runs(name: str) -> tuple[Run, ...]:
    """The runs of a shipped table; raises ValueError listing the tables when there is none called so."""
    if name not in TABLES:
        raise ValueError(f"published table {name!r} is not one of {', '.join(TABLES)}")
    with as_file(files("validate") / "data" / f"{name}.csv") as path:
        return read_runs(path)
