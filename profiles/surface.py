"""What a formula leaves of measured times: a smooth factor, tabulated over features of the shape.

Kernel libraries choose among tiles, splits and code paths by the shape; the physics of a kernel curve knows none of
it. A surface holds what is left, as sums of small tables, so that neighbouring shapes share what they show.
"""

from typing import Annotated

from pydantic import Field, model_validator

from profiles.record import Record

Knots = Annotated[tuple[float, ...], Field(min_length=2)]


class Term(Record):
    """A table over one or two features: linear (bilinear) between its knots, constant beyond them."""

    features: tuple[str, ...] = Field(min_length=1, max_length=2)
    """Names of the features, most of them in log2."""
    knots: tuple[Knots, ...]
    """Increasing values of each feature at which the table is stated."""
    log_factors: tuple[float, ...]
    """Natural logarithms of the factor at every knot; of two features the last runs fastest."""

    @model_validator(mode="after")
    def _table_is_whole(self) -> "Term":
        entries = 1
        for knots in self.knots:
            entries *= len(knots)
            if list(knots) != sorted(set(knots)):
                raise ValueError(f"knots: must increase strictly, got {knots}")
        if len(self.knots) != len(self.features) or len(self.log_factors) != entries:
            raise ValueError(
                f"log_factors: {len(self.features)} features and {len(self.log_factors)} values, but {len(self.knots)} "
                f"lists of knots that make {entries} entries"
            )
        return self


class Surface(Record):
    """A factor on a predicted time: exp of the sum of its terms; no terms: 1."""

    terms: tuple[Term, ...] = ()
