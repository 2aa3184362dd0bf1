"""The frameworks that plans can be exported to, each a module of this package that registers one function.

A target names the plan fields that it can say. A plan that sets any other field away from its default is refused,
so that an option added to plans is never dropped in silence.
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

import meshwise.export
from meshwise.jobfile import Question
from planner.plan import PLAN_FIELDS, Plan, as_written
from profiles.exchange import Exchange


class CannotExpress(ValueError):
    """The framework has no way to say this plan; the message says what it lacks."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written for a framework."""

    text: str
    notes: tuple[str, ...]
    """Sentences on what the text leaves to its user."""


Write = Callable[[Plan, Question], Exported]


@dataclass(frozen=True, slots=True)
class Target:
    """A framework: how its configuration is written, and against which release its names were checked."""

    name: str
    release: str
    ending: str
    """Of the file that its launcher takes."""
    fields: frozenset[str]
    """Plan fields that it can say, if only for some values."""
    exchange: frozenset[str]
    """Fields of the exchange of gradients (`profiles.exchange`) that it can say."""
    elsewhere: Mapping[str, str]
    """Plan field that it cannot say -> where its users set it, in words."""
    write: Write

    def export(self, plan: Plan, question: Question) -> Exported:
        """The plan's configuration; raises CannotExpress with one sentence when there is none."""
        default = Plan()
        for field in PLAN_FIELDS:
            value = getattr(plan, field)
            if field not in self.fields and value != getattr(default, field):
                hint = f": {self.elsewhere[field]}" if field in self.elsewhere else ""
                written = as_written(plan).get(field, value)
                refuse(self.name, f"has no setting for {field}={written}{hint}")
        for name in ("gradient_precision", "moment_precision"):
            asked = getattr(question.table, name)
            if asked is not None:
                refuse(self.name, f"is not written for {name}={asked}; leave it out and set it by hand")
        usual = Exchange()
        for name in Exchange.model_fields:
            asked = getattr(question.job.exchange, name)
            if name not in self.exchange and asked != getattr(usual, name):
                refuse(self.name, f"is not written for {name}={asked}; leave it out and set it by hand")
        return self.write(plan, question)


TARGETS: dict[str, Target] = {}
"""Every registered target, by name; `load` fills it."""


def target(
    name: str,
    *,
    release: str,
    ending: str,
    fields: tuple[str, ...],
    exchange: tuple[str, ...] = (),
    elsewhere: Mapping[str, str] | None = None,
) -> Callable[[Write], Write]:
    """Register the decorated function as the writer of `name`."""

    def register(write: Write) -> Write:
        assert name not in TARGETS, f"target {name} is registered twice"
        unknown = set(fields) - set(PLAN_FIELDS)
        assert not unknown, f"no such plan fields: {sorted(unknown)}"
        TARGETS[name] = Target(name, release, ending, frozenset(fields), frozenset(exchange), elsewhere or {}, write)
        return write

    return register


def load() -> dict[str, Target]:
    """Every target, by name."""
    for module in pkgutil.iter_modules(meshwise.export.__path__):
        import_module(f"meshwise.export.{module.name}")
    return dict(sorted(TARGETS.items()))


def find(name: str) -> Target:
    """The target called `name`; raises ValueError listing them."""
    known = load()
    if name not in known:
        raise ValueError(f"to: {name!r} is not a framework that plans are exported to; choose {', '.join(known)}")
    return known[name]


def refuse(framework: str, lack: str) -> NoReturn:
    """Raise CannotExpress: `framework` followed by what it lacks and what would do."""
    raise CannotExpress(f"{framework} {lack}")
