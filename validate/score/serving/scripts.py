"""How a published benchmark starts its servers: what its scripts set, beside what the tables of its runs say.

`validate/data/serving_scripts.toml` lists settings with the conditions under which a script makes them, each with the
script and day it was read from; they apply in the order of the file, later ones over earlier ones. Nothing that was
measured is looked at.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal

from profiles import catalog
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from profiles.record import Count, Record
from validate.score.serving.recipes import architecture_of, precision_of
from validate.score.serving.table import ServedRow

_FILE = "serving_scripts.toml"
_ROUNDED_TO = 64
"""Budgets that follow a prompt's length are rounded up to whole 64 tokens."""


class Conditions(Record):
    """Of a row; None and empty: any."""

    engine: str
    benchmark: Literal["inferencemax", "aiconfigurator"] = "inferencemax"
    models: tuple[str, ...] = ()
    """Of their architectures."""
    sparse: bool | None = None
    """Whether the model has experts."""
    accelerators: tuple[str, ...] = ()
    precision: Literal["", "bf16", "fp8", "fp4"] = ""
    releases: tuple[str, ...] = ()
    """What the engine's release begins with."""
    guesses: bool | None = None
    """Whether tokens are guessed ahead."""
    attention_dp: bool | None = None
    separate_pools: bool | None = None
    input_tokens: Count | None = None
    output_tokens: Count | None = None
    ranks: tuple[int, ...] = ()
    expert_ranks: tuple[int, ...] = ()
    least_concurrency: Count = 1
    most_concurrency: Count | None = None


class Setting(Record):
    """What a script sets under some conditions."""

    source: str
    when: Conditions
    engine: Mapping[str, float | int | bool] = {}
    """Fields of the engine record."""
    token_budget: Count | None = None
    """Of each group of attention data parallelism."""
    budget_follows_prompt: bool | None = None
    """Whether the budget is the nominal prompt, one row of every running request and `spare_tokens`, though no less
    than `token_budget`."""
    spare_tokens: Count | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A server as a script starts it."""

    engine: Mapping[str, float | int | bool] = field(default_factory=dict)
    """Fields of the engine record that it sets."""
    token_budget: int | None = None
    """None: the engine's own."""

    def of(self, engine: EngineRecord) -> EngineRecord:
        """`engine` with these settings."""
        return engine.model_copy(update=dict(self.engine)) if self.engine else engine


AS_IS = Started()
"""By nobody's script."""


def started(row: ServedRow, model: TransformerShape, accelerator: str, benchmark: str) -> Started:
    """What the benchmark's scripts set for the run of `row`."""
    fields: dict[str, float | int | bool] = {}
    budget, follows, spare = None, False, 0
    for setting in _settings():
        if setting.when.benchmark == benchmark and _holds(setting.when, row, model, accelerator):
            fields |= setting.engine
            budget, spare = setting.token_budget or budget, setting.spare_tokens or spare
            follows = follows if setting.budget_follows_prompt is None else setting.budget_follows_prompt
    if follows:
        rows = (1 + (row.draft_tokens or 0)) * (row.concurrency or 1) // max(row.split.get("dp", 1), 1)
        needed = -(-(rows + row.input_tokens + spare) // _ROUNDED_TO) * _ROUNDED_TO
        budget = max(needed, budget or 0)
    return Started(fields, budget)


def _holds(when: Conditions, row: ServedRow, model: TransformerShape, accelerator: str) -> bool:
    groups, concurrency = row.split.get("dp", 1), row.concurrency or 1
    ranks = row.split.get("tp", 1) * groups
    tests = (
        when.engine == row.engine,
        not when.models or any(architecture_of(model) == architecture_of(_model(one)) for one in when.models),
        when.sparse in (None, model.moe is not None),
        not when.accelerators or accelerator.partition("-")[0] in when.accelerators,
        when.precision in ("", precision_of(row)),
        not when.releases or row.engine_version.startswith(when.releases),
        when.guesses in (None, bool(row.draft_tokens)),
        when.attention_dp in (None, groups > 1),
        when.separate_pools in (None, row.prefill_split is not None),
        when.input_tokens in (None, row.input_tokens),
        when.output_tokens in (None, row.output_tokens),
        not when.ranks or ranks in when.ranks,
        not when.expert_ranks or row.split.get("ep", 1) in when.expert_ranks,
        when.least_concurrency <= concurrency <= (when.most_concurrency or concurrency),
    )
    return all(tests)


def _model(name: str) -> TransformerShape:
    model = catalog.model(name)
    assert isinstance(model, TransformerShape)
    return model


@cache
def _settings() -> Sequence[Setting]:
    text = (files("validate") / "data" / _FILE).read_text(encoding="utf-8")
    found = [Setting.model_validate(one) for one in tomllib.loads(text)["setting"]]
    for one in found:
        unknown = set(one.engine) - set(EngineRecord.model_fields)
        if unknown:
            raise ValueError(f"{_FILE}: {', '.join(sorted(unknown))} of {one.source} are no fields of engine records")
    return found
