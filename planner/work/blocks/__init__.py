"""The parts of a transformer layer as operations: attention, feed-forward, experts, embedding and head.

Tokens are those of one microbatch on one rank (over cp). Linear layers are split over tp as in Megatron-LM
[Shoeybi 2019, arXiv:1909.08053]: column-parallel into a part, row-parallel out of it, one all-reduce behind;
with sequence parallelism an all-gather before and a reduce-scatter behind [Korthikanti 2022,
arXiv:2205.05198, section 4.2.2]. Memory traffic of element-wise kernels counts every read and write once.
"""

from planner.work.blocks.attention import attention, latent_attention
from planner.work.blocks.ends import embedding, further_token, head, padded_vocabulary
from planner.work.blocks.experts import mixture_of_experts
from planner.work.blocks.feed_forward import feed_forward
from planner.work.blocks.parameters import attention_parameters, ffn_parameters, parameters
from planner.work.blocks.shard import Shard, Step, gemm_dtype

__all__ = [
    "Shard", "Step", "attention", "attention_parameters", "embedding", "feed_forward", "ffn_parameters",
    "further_token", "gemm_dtype",
    "head", "latent_attention", "mixture_of_experts", "padded_vocabulary", "parameters",
]  # fmt: skip
