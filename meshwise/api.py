"""The questions of the command line, asked from Python.

Every function takes what its command takes: a file first, then the command's options as keywords of the same names,
`_` for `-`. It returns the answer as objects in place of tables, and raises ValueError with the sentence that the
command would print. Nothing is printed or written.
"""

import os
from collections.abc import Mapping
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshwise import asking, jobfile
from meshwise.capacity.options import CapacityFlags
from meshwise.options import JobFlags, SearchFlags, SplitFlags
from planner.cost.estimate import Estimate

if TYPE_CHECKING:
    from meshwise.capacity.answering import CapacityAnswer
    from meshwise.serving.capacity.answering import ServingCapacityAnswer
    from meshwise.serving.estimating import ServingEstimate
    from meshwise.serving.planning import ServingPlans
    from meshwise.serving.playing import ServingAnswer
    from planner.choose.search import Answer
    from simulator.engine import Simulation

File = str | os.PathLike[str]
_ONLY_PRINTED = ("explain", "scale")
"""Options of a search that ask for further answers: those are functions of their own."""


def plan(file: File | None = None, **options: Any) -> "Answer":
    """The best splits of a training job, ranked and simulated: `plan(model="llama3-8b", cluster="dgx-h100", tp=8)`.

    Options are those of the job and of the search; fields of a split are held to the values given. The answer has no
    candidates where nothing fits, and says why.
    """
    job, split, search = _sorted(options, JobFlags, SplitFlags, SearchFlags, but=_ONLY_PRINTED)
    asked = jobfile.read(_path(file), job, split)
    fixed = asking.fixed_fields(search.get("fix", []), asked.split)
    return asking.best_plans(jobfile.question(asked.job), fixed, SearchFlags(**search), _ignored)


def estimate(file: File | None = None, **options: Any) -> Estimate:
    """One split in closed form: `estimate(model="llama3-8b", cluster="dgx-h100", devices=16, tp=8, pp=2)`."""
    return asking.estimate(_asked(file, options))


def simulate(file: File | None = None, **options: Any) -> "Simulation":
    """One split played on a clock; options as of `estimate`."""
    asked = _asked(file, options)
    return asking.play(asked.question, asked.plan)


def capacity(file: File | None = None, **options: Any) -> "CapacityAnswer":
    """What to buy or rent for a training run. Searches run in this process, and are not remembered."""
    from meshwise.capacity.answering import answer
    from meshwise.capacity.question import read

    job, asked = _sorted(options, JobFlags, CapacityFlags)
    return answer(read(_path(file), job, asked), None, None, _ignored)


def serving_plan(file: File, *, top: int = 10, simulates: bool = True) -> "ServingPlans":
    """The best deployments of a serving job of one model, the best of them played."""
    from meshwise.serving import jobfile, planning

    return planning.best_plans(jobfile.read(Path(file)), top=top, simulates=simulates)


def serving_estimate(file: File) -> "tuple[ServingEstimate, ...]":
    """What users of each model of a serving job see, in closed form."""
    from meshwise.serving import estimating, jobfile

    return estimating.estimate(jobfile.read(Path(file)))


def serving_simulate(file: File) -> "ServingAnswer":
    """A serving job's requests, played on a clock."""
    from meshwise.serving import jobfile, playing

    return playing.simulate(jobfile.read(Path(file)))


def serving_capacity(file: File, **options: Any) -> "ServingCapacityAnswer":
    """What to buy or rent for a serving job, hour by hour."""
    from meshwise.serving.capacity.answering import answer
    from meshwise.serving.capacity.question import read

    (asked,) = _sorted(options, CapacityFlags)
    question = read(Path(file), {}, asked)
    return answer(question.file, question.asked, question.offers, question.folder)


def _asked(file: File | None, options: Mapping[str, Any]) -> asking.Asked:
    return asking.plan_question(_path(file), *_sorted(options, JobFlags, SplitFlags))


def _path(file: File | None) -> Path | None:
    return None if file is None else Path(file)


def _sorted(options: Mapping[str, Any], *groups: type[Any], but: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The options that belong to each group, None left out; raises ValueError for one that belongs to none."""
    names = [[field.name for field in fields(group) if field.name not in but] for group in groups]
    known = [name for group in names for name in group]
    for option in options:
        if option not in known:
            near = get_close_matches(option, known, n=1)
            raise ValueError(f"{option}: is no option here" + (f"; did you mean {near[0]}?" if near else ""))
    return [{name: options[name] for name in group if options.get(name) is not None} for group in names]


def _ignored(what: str, done: int, of_how_many: int) -> None:
    """Progress that nobody watches."""
