"""Which layers a model has, in order, and how many of them recomputation covers."""

from functools import lru_cache
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from profiles.model import LayerList, ModelShape

EMBEDDING, ENCODER, DENSE, MOE, MTP, HEAD = "embedding", "encoder", "dense", "moe", "mtp", "head"
ENDS = frozenset({EMBEDDING, MTP, HEAD})
"""Kinds that lie at the ends of a model and are never computed again: "mtp" is what a module that predicts a further
token has beside its layer, a projection and logits."""


@lru_cache
def sequence(model: ModelShape) -> tuple[str, ...]:
    """Kinds of the layers in forward order, e.g. ("embedding", "dense", ..., "head").

    The layers of a plain list are each of their own kind: "layer-0", "layer-1", ...
    """
    if isinstance(model, LayerList):
        return tuple(f"layer-{index}" for index in range(model.num_layers))
    return (EMBEDDING, *blocks_of(model), *tail(model))


@lru_cache
def blocks_of(model: ModelShape) -> tuple[str, ...]:
    """Kinds of the layers that are dealt out to pipeline stages, in forward order."""
    if isinstance(model, LayerList):
        return sequence(model)
    decoder = tuple(MOE if sparse else DENSE for sparse in model.is_sparse_layer)
    return (*(ENCODER,) * model.num_encoder_layers, *decoder)


@lru_cache
def tail(model: ModelShape) -> tuple[str, ...]:
    """Kinds of what always lies in the last chunk: the layers and the rest of MTP modules, and the head."""
    if isinstance(model, LayerList):
        return ()
    last = MOE if model.is_sparse_layer[-1] else DENSE
    return (*(last, MTP) * model.num_mtp_modules, HEAD)


def num_blocks(model: ModelShape) -> int:
    """Layers that are dealt out to pipeline stages (embedding, head and MTP modules come on top)."""
    return len(blocks_of(model))


def most_chunks(model: ModelShape) -> int:
    """Chunks that a model can be cut into: its layers, with one for the embedding alone and one for the head."""
    return num_blocks(model) + (0 if isinstance(model, LayerList) else 2)


def recomputed_fraction(model: ModelShape, split: Plan | PlanGrid) -> Any:
    """Share of the layers that full recomputation runs again: all, or `recompute_layers` of each chunk.

    Chunks that hold unequal numbers of layers are taken at their mean.
    """
    limit = split.num_recomputed_layers * 1.0
    return np.where(np.greater(limit, 0.0), np.minimum(limit / num_blocks(model), 1.0), 1.0)
