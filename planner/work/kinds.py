"""Which layers a model has, in order, and how many of them recomputation covers."""

from functools import lru_cache
from typing import Any

import numpy as np

from planner.plan import Plan, PlanGrid
from profiles.model import LayerList, ModelShape

EMBEDDING, ENCODER, DENSE, MOE, HEAD = "embedding", "encoder", "dense", "moe", "head"


@lru_cache
def sequence(model: ModelShape) -> tuple[str, ...]:
    """Kinds of the layers in forward order, e.g. ("embedding", "dense", ..., "head").

    The layers of a plain list are each of their own kind: "layer-0", "layer-1", ...
    """
    if isinstance(model, LayerList):
        return tuple(f"layer-{index}" for index in range(model.num_layers))
    decoder = tuple(MOE if sparse else DENSE for sparse in model.is_sparse_layer)
    return (EMBEDDING, *(ENCODER,) * model.num_encoder_layers, *decoder, HEAD)


@lru_cache
def num_blocks(model: ModelShape) -> int:
    """Layers that are dealt out to pipeline stages (the embedding and the head come on top)."""
    return sum(kind not in (EMBEDDING, HEAD) for kind in sequence(model))


@lru_cache
def most_chunks(model: ModelShape) -> int:
    """Chunks that a model can be cut into: its layers, with one for the embedding alone and one for the head."""
    return num_blocks(model) + sum(kind in (EMBEDDING, HEAD) for kind in sequence(model))


def recomputed_fraction(model: ModelShape, split: Plan | PlanGrid) -> Any:
    """Share of the layers that full recomputation runs again: all, or `recompute_layers` of each chunk.

    Chunks that hold unequal numbers of layers are taken at their mean.
    """
    limit = split.num_recomputed_layers * 1.0
    return np.where(np.greater(limit, 0.0), np.minimum(limit / num_blocks(model), 1.0), 1.0)
