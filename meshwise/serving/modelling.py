"""What a `[serving]` table serves: its model, or the smaller variant that it names, and what that is known to lose."""

from collections.abc import Sequence

from meshwise.serving.jobfile import ServedTable
from planner.work.forms import FORMS, SPARSE
from profiles import catalog
from profiles.model import TransformerShape
from profiles.parameters import num_parameters
from profiles.variant import Variant, variant


def served_model(table: ServedTable) -> TransformerShape:
    """The shape that answers; raises ValueError for a plain list of layers, and for a variant of another model."""
    model = catalog.model(table.model)
    if not isinstance(model, TransformerShape):
        raise ValueError(f"model: {model.name} is a plain list of layers; a served model makes tokens")
    return variant(table.variant).applied(model) if table.variant else model


def draft_of(table: ServedTable) -> TransformerShape | None:
    """The model that guesses for it; None where its own heads do, or nobody. Raises ValueError for a list of layers."""
    if table.draft_model is None:
        return None
    return served_model(ServedTable(model=table.draft_model))


def served_form(table: ServedTable, weights: str) -> str:
    """`weights` as the variant keeps them; raises ValueError for a form that has no sparse twin."""
    if not table.variant or weights.endswith(SPARSE) or not variant(table.variant).sparse_weights:
        return weights
    if weights + SPARSE not in FORMS:
        known = ", ".join(name.removesuffix(SPARSE) for name in FORMS if name.endswith(SPARSE))
        raise ValueError(f"weights: {weights!r} is not kept sparsely; with {table.variant} there are {known}")
    return weights + SPARSE


def served_forms(table: ServedTable, choices: Sequence[str]) -> list[str]:
    """Those of `choices` that the variant can be kept in, as it keeps them."""
    if not table.variant or not variant(table.variant).sparse_weights:
        return list(choices)
    return [form + SPARSE for form in choices if form + SPARSE in FORMS]


def variant_words(table: ServedTable) -> list[str]:
    """What the variant saves and is known to lose, a sentence each; none for a model as it is."""
    if not table.variant:
        return []
    made, whole = variant(table.variant), catalog.model(table.model)
    return [_saving(made, table, num_parameters(whole)), _loss(made)]


def _saving(made: Variant, table: ServedTable, whole: float) -> str:
    if made.sparse_weights:
        return f"{made.name}: two of every four weights of linear layers are kept; {made.notes}"
    kept = num_parameters(served_model(table))
    return f"{made.name}: {kept:.3g} parameters in place of {whole:.3g}, {1.0 - kept / whole:.0%} fewer"


def _loss(made: Variant) -> str:
    scores = ", ".join(
        f"{one.benchmark} {100.0 * one.whole_fraction:g} -> {100.0 * one.variant_fraction:g}" for one in made.accuracy
    )
    return f"published of {made.accuracy[0].model}: {scores} [{made.source}]; of other models evaluate it yourself"
