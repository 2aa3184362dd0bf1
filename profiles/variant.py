"""Smaller relatives of a model: pruned by width or depth, sparse, or a student in its place; with what they lost."""

import os
from typing import Annotated

from pydantic import Field, model_validator

from profiles import lookup
from profiles.files import read_table, validated
from profiles.model import TransformerShape
from profiles.record import Fraction, Record, Sourced

Kept = Annotated[float, Field(gt=0.0, le=1.0)]
_WIDTH_MULTIPLE = 64
"""Widths are kept in whole tiles of matrix units."""


class Accuracy(Record):
    """A published score before and after."""

    model: str
    """That was made smaller."""
    benchmark: str
    whole_fraction: Fraction
    variant_fraction: Fraction


class Variant(Sourced):
    """What is done to a model, and what it cost in accuracy where that was published; elsewhere nobody knows."""

    kept_layers_fraction: Kept = 1.0
    kept_hidden_fraction: Kept = 1.0
    kept_ffn_fraction: Kept = 1.0
    """Of the width of feed-forward parts."""
    sparse_weights: bool = False
    """Two of every four weights of linear layers are kept."""
    teacher: str = ""
    """Of a distilled model: the one in whose place it answers."""
    student: str = ""
    """Of a distilled model: whose shape it has."""
    accuracy: tuple[Accuracy, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _teaches_somebody(self) -> "Variant":
        if bool(self.teacher) != bool(self.student):
            raise ValueError("teacher and student go together: who is replaced, and whose shape answers")
        return self

    def applied(self, model: TransformerShape) -> TransformerShape:
        """The shape of the variant of `model`; raises ValueError for a model that it is no variant of."""
        if self.student:
            if model.name != self.teacher:
                raise ValueError(f"variant: {self.name} answers in place of {self.teacher}, not of {model.name}")
            from profiles import catalog

            student = catalog.model(self.student)
            assert isinstance(student, TransformerShape)
            return student.model_copy(update={"name": self.name, "aliases": ()})
        if model.moe is not None and (self.kept_ffn_fraction < 1.0 or self.sparse_weights):
            raise ValueError(f"variant: {self.name} is of dense feed-forward parts, and {model.name} has experts")
        if self.sparse_weights:
            return model.model_copy(update={"name": f"{model.name}-{self.name}", "aliases": ()})
        return TransformerShape.model_validate(
            model.model_dump(exclude={"published_parameters", "published_active_parameters", "aliases"})
            | {
                "name": f"{model.name}-{self.name}",
                "num_layers": max(round(model.num_layers * self.kept_layers_fraction), 1),
                "hidden_size": _kept(model.hidden_size, self.kept_hidden_fraction),
                "ffn_size": _kept(model.ffn_size, self.kept_ffn_fraction),
            }
        )


def _kept(width: int, fraction: float) -> int:
    if fraction == 1.0:
        return width
    return max(round(width * fraction / _WIDTH_MULTIPLE), 1) * _WIDTH_MULTIPLE


def variant(name_or_path: str | os.PathLike[str]) -> Variant:
    """The variant called so, or in a .toml file; raises UnknownName or BadFile."""
    path = lookup.locate("variants", name_or_path)
    return validated(Variant, read_table(path), path)
