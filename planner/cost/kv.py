"""Memory of a served model on each device: its weights, and how many tokens' keys and values fit beside them."""

from collections.abc import Mapping
from dataclasses import dataclass

from planner.work.forms import form_of
from planner.work.iteration import ServedShard, num_whole_layers
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from profiles.parameters import parameter_groups
from profiles.units import DTYPE_BYTES

_SHARED_BY_STAGE = ("norms", "router", "positions", "extra")
"""Small groups of parameters that every rank of a stage holds whole, in 16 bits."""
_KEPT_WIDE = ("embedding", "head")
"""Groups that engines leave in 16 bits, split over tp."""
_FEED_FORWARD = ("ffn", "shared_experts")
_WIDE_BYTES = 2.0


@dataclass(frozen=True, slots=True)
class ServingMemory:
    """Bytes of one device, and the tokens that one replica can hold."""

    weight_bytes: float
    overhead_bytes: float
    kv_bytes: float
    """Left for keys and values; 0 where the weights leave nothing."""
    kv_bytes_per_token: float
    """Of one token of context, on each device of its attention group."""
    num_kv_tokens: float
    """That a replica holds, all its attention groups together."""

    def as_dict(self) -> dict[str, float]:
        """By part, in bytes."""
        return {"weights": self.weight_bytes, "overhead": self.overhead_bytes, "kv_cache": self.kv_bytes}


def serving_memory(
    model: TransformerShape, shard: ServedShard, memory_bytes: float, engine: EngineRecord
) -> ServingMemory:
    """What a device of `memory_bytes` holds: usable share - weights - overhead = keys and values
    [Kwon 2023, arXiv:2309.06180, section 4.2: blocks are allocated from what the model leaves]."""
    weights = weight_bytes(model, shard)
    share, overhead = engine.usable_memory_fraction, engine.overhead_bytes
    if engine.fraction_of_free_memory:
        left = share * max(memory_bytes - weights - overhead, 0.0)
    else:
        left = max(share * memory_bytes - weights - overhead, 0.0)
    per_token = kv_bytes_per_token(model, shard)
    return ServingMemory(weights, overhead, left, per_token, shard.attention_dp * left / per_token)


def weight_bytes(model: TransformerShape, shard: ServedShard) -> float:
    """Bytes of the weights on one rank; the first and last stage's embedding and head are spread over all stages
    [tensor parallelism: Shoeybi 2019, arXiv:1909.08053, section 3]."""
    groups: Mapping[str, float] = parameter_groups(model)
    total = 0.0
    for name, count in groups.items():
        if name == "experts":
            total += count * form_of(shard.expert_form).weight_bytes / shard.ranks
        elif name in _SHARED_BY_STAGE:
            total += count * _WIDE_BYTES
        elif name in _FEED_FORWARD and model.moe:
            total += count * form_of(shard.feed_forward_form).weight_bytes / shard.tp
        elif name in _KEPT_WIDE:
            total += count * _WIDE_BYTES / shard.tp
        else:
            total += count * form_of(shard.weights).weight_bytes / shard.tp
    return total / shard.pp


def kv_bytes_per_token(model: TransformerShape, shard: ServedShard) -> float:
    """Keys and values of one token on one rank of its attention group.

    Key heads are split over tp until each rank has one; latents are held whole by all ranks [DeepSeek-V2 2024,
    arXiv:2405.04434, section 2.1]. Layers with a window hold no more than it, which engines free again: they count only
    where no layer sees everything. States of linear attention are one a sequence and are left out, a few MiB.
    """
    width = DTYPE_BYTES[shard.kv_dtype]
    layers = (num_whole_layers(model, shard) or model.num_layers) / shard.pp
    if model.mla:
        return width * layers * (model.mla.kv_lora_rank + model.mla.qk_rope_head_dim)
    return width * layers * 2.0 * max(model.num_kv_heads / shard.tp, 1.0) * model.head_dim
