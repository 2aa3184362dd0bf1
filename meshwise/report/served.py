"""What reports of served models share: times with the error bars of their engine, and what was asked."""

from pathlib import Path

from pydantic import BaseModel

from meshwise.report.cells import figure, predicted
from meshwise.report.document import Cell, Section, Source
from meshwise.report.inputs import tables_inputs
from meshwise.report.provenance import serving_sources
from meshwise.serving.jobfile import ServingFile
from planner.choose.explain import duration
from profiles import catalog
from profiles.engine import EngineRecord


def time_cell(engine: EngineRecord, seconds: float, metric: str) -> Cell:
    """A predicted time ("ttft", "tpot" or "e2e") with the range in which nine of ten measurements should lie."""
    if engine.fit is None:
        return figure(seconds, duration)
    return predicted(duration, seconds, *engine.fit.interval(seconds, metric))


def rate_cell(engine: EngineRecord, tokens_per_second: float) -> Cell:
    """How fast an answer streams, as sure as the time of each of its tokens."""
    if engine.fit is None:
        return figure(tokens_per_second, "{:,.1f}".format)
    return predicted("{:,.1f}".format, tokens_per_second, *engine.fit.interval(tokens_per_second, "tpot"))


def engine_basis(*engines: EngineRecord) -> str:
    """What the error bars of times rest on."""
    words = []
    for engine in {one.name: one for one in engines}.values():
        if engine.fit is None:
            words.append(f"The constants of {engine.name} were not fitted: no error of it is known.")
        else:
            words.append(
                f"90 % ranges of times: {engine.fit.num_rows:,} rows of published benchmarks of {engine.name}, half of "
                "them left out of the fit."
            )
    return " ".join(words)


def asked_section(file: ServingFile, path: Path) -> Section:
    """The question of a serving job."""
    tables: dict[str, BaseModel] = {"job": file.job, "load": file.load, "targets": file.targets}
    tables |= {f"serving {number}": table for number, table in enumerate(file.serving, start=1)}
    return tables_inputs(tables, path)


def sources_of(file: ServingFile) -> tuple[Source, ...]:
    """Records and curves of all models and devices of a serving job."""
    models = [catalog.model(table.model) for table in file.serving]
    engines = [catalog.engine(table.engine) for table in file.serving]
    found: dict[Source, None] = {}
    for room in file.job.rooms:
        found |= dict.fromkeys(serving_sources(models, engines, catalog.cluster(room.cluster)))
    return tuple(found)


def targets_words(file: ServingFile) -> str:
    """What a request is to stay within."""
    limits = file.targets
    named = (("first token", limits.ttft_seconds), ("each further token", limits.tpot_seconds),
             ("the whole answer", limits.e2e_seconds))  # fmt: skip
    words = [f"{name} within {duration(seconds)}" for name, seconds in named if seconds is not None]
    return f"{', '.join(words)} for {100.0 * limits.attained_fraction:g} % of requests" if words else "no targets"
