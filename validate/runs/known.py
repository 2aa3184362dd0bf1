"""The shape of a run from the catalog, where a row names a model that the catalog knows and states nothing else.

A table has no columns for latent attention, shared experts, first dense layers, windows or gates; a published
model has them all. Only a row whose stated columns agree with the record takes the missing ones from it.
"""

import os
import re
from functools import lru_cache

from profiles import catalog
from profiles.model import TransformerShape
from profiles.parameters import num_parameters
from profiles.units import GIGA
from validate.runs.table import Run

SIZE_AGREEMENT_FRACTION = 0.03
"""How far the parameters of the record may be from the size that the row states (MTP modules, rounding)."""
_SHORTENED = re.compile(r"\b(?:truncated to|proxy) (\d+) ?(?:layers|L)\b", re.IGNORECASE)
_WITHOUT_MTP = re.compile(r"\bw/o MTP\b", re.IGNORECASE)
_DENSE_LAYERS = re.compile(r"\bdense_layers=(\d+)\b")
_SIZE = re.compile(r"[\s_-]+\d+(?:\.\d+)?b$", re.IGNORECASE)


def known_shape(run: Run) -> TransformerShape | None:
    """The catalog's shape of the model a row names, cut to the row's layers; None if unknown or contradicted.

    Fewer layers than the record's are taken only where the row says that its model is shortened.
    """
    found = _named(run.model)
    if found is None or not _agrees(run, found):
        return None
    layers = run.layers or found.num_layers
    if layers != found.num_layers and not (_SHORTENED.search(run.model) and layers < found.num_layers):
        return None
    shape = _shortened(found, layers, run.notes) if layers != found.num_layers else found
    if _WITHOUT_MTP.search(run.model):
        shape = shape.model_copy(update={"num_mtp_modules": 0})
    if run.params_b and abs(num_parameters(shape) / (run.params_b * GIGA) - 1.0) > SIZE_AGREEMENT_FRACTION:
        return None
    return shape


@lru_cache(maxsize=1024)
def _named(name: str) -> TransformerShape | None:
    """The record of a published name, with or without its size ("Grok1 314B") and remarks in brackets."""
    plain = re.sub(r"\[[^]]*\]|\([^)]*\)", "", _SHORTENED.sub("", name)).strip()
    for written in (plain, _SIZE.sub("", plain)):
        try:
            found = None if not written or _is_path(written) else catalog.model(written)
        except ValueError:
            continue
        if isinstance(found, TransformerShape):
            return found
    return None


def _is_path(name: str) -> bool:
    """Whether the catalog would read a file of that name: a table must not make it."""
    return name.lower().endswith((".toml", ".json")) or os.path.exists(name)


def _agrees(run: Run, shape: TransformerShape) -> bool:
    """Whether every column the row states is the record's."""
    moe = shape.moe
    stated_and_known = (
        (run.hidden, shape.hidden_size),
        (run.heads, shape.num_heads),
        (run.kv_heads, shape.num_kv_heads),
        (run.vocab, shape.vocabulary_size),
        (run.ffn_hidden, moe.expert_ffn_size if moe else shape.ffn_size),
        (run.num_experts, moe.num_experts if moe else 0),
        (run.topk, moe.top_k if moe else 0),
    )
    return all(not stated or stated == known for stated, known in stated_and_known)


def _shortened(shape: TransformerShape, num_layers: int, notes: str) -> TransformerShape:
    """The first `num_layers` layers of a shape; its dense ones stay in front, as many as the row says if it does.

    What is cut short is a test of layers, without modules for further tokens.
    """
    changes: dict[str, object] = {"num_layers": num_layers, "num_mtp_modules": 0}
    if shape.moe:
        told = _DENSE_LAYERS.search(notes)
        first = int(told.group(1)) if told else shape.moe.num_first_dense_layers
        changes["moe"] = shape.moe.model_copy(update={"num_first_dense_layers": min(first, num_layers)})
    return shape.model_copy(update=changes)
