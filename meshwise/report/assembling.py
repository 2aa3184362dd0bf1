"""A report from its own parts: what every one has besides is added here."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from meshwise.report.document import Report, Section, Source
from meshwise.report.versions import today, versions

Build = TypeVar("Build", bound=Callable[..., Report])

KINDS: dict[str, Callable[..., Report]] = {}
"""Every kind of report by name; `load` fills it."""


def kind(name: str) -> Callable[[Build], Build]:
    """Register the decorated function as what makes reports called `name`."""

    def register(build: Build) -> Build:
        assert name not in KINDS, f"report {name} is registered twice"
        KINDS[name] = build
        return build

    return register


def load() -> dict[str, Callable[..., Report]]:
    """Every kind of report, by name."""
    from meshwise.report import kinds

    for module in iter_modules(kinds.__path__):
        import_module(f"{kinds.__name__}.{module.name}")
    return dict(sorted(KINDS.items()))


def find(name: str) -> Callable[..., Report]:
    """The kind called so; only its own file is read."""
    import_module(f"meshwise.report.kinds.{name.replace('-', '_')}")
    return KINDS[name]


def assembled(
    title: str, summary: Sequence[str], question: Section, sections: Sequence[Section], sources: Sequence[Source],
    limits: Sequence[str],
) -> Report:  # fmt: skip
    """The report with versions and date; sections without any block are left out."""
    kept = tuple(section for section in sections if section.blocks)
    return Report(title, tuple(summary), question, kept, tuple(sources), versions(), tuple(limits), today())
