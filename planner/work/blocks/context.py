"""Context parallelism: how the keys and values of a sequence reach the queries of every rank."""

from planner.work.blocks.shard import Shard, Step
from planner.work.ops import Message, Numbers


def exchange_keys(shard: Shard, features: Numbers) -> Step:
    """Context parallelism: every rank sees all keys and values; their gradients are summed back."""
    num_bytes = shard.width * shard.sequences * shard.key_length * features
    gather = Message("cp", "all_gather", num_bytes)
    return Step(gather, (gather, Message("cp", "reduce_scatter", num_bytes)), 1.0 * (shard.cp > 1))
