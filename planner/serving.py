"""How a model is served, and what an iteration of it costs: the words that prices and the simulator share.

A replica runs a loop of iterations. Each takes some tokens of prompts and one token of every request that is past
its prompt; whoever can say how long such an iteration takes meets `IterationPrices`.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class IterationShape:
    """What one iteration works on."""

    prefill_tokens: tuple[int, ...] = ()
    """New prompt tokens of each request that has any (a chunk, or the whole prompt)."""
    prefill_past_tokens: tuple[int, ...] = ()
    """Tokens of the same requests whose keys and values are there already: earlier chunks, or a cached prefix."""
    num_decodes: int = 0
    """Requests that make their next token."""
    decode_context_tokens: float = 0.0
    """Tokens that those attend to, summed over them; each counts the token it attends from."""

    @property
    def num_tokens(self) -> int:
        """Rows of the linear layers, where every decode is one row."""
        return sum(self.prefill_tokens) + self.num_decodes


class DecodeLine(NamedTuple):
    """Seconds of an iteration that only decodes, as a straight line over the sum of its contexts."""

    base_seconds: float
    seconds_per_token: float
    """Added for every token of the summed contexts."""
    last_tokens: float
    """The line holds up to this sum, inclusive; beyond it another begins."""

    def seconds(self, context_tokens: float) -> float:
        """One iteration."""
        return self.base_seconds + self.seconds_per_token * context_tokens


class IterationPrices(Protocol):
    """Seconds of the iterations of one replica, or of one of its pipeline stages."""

    def iteration_seconds(self, shape: IterationShape) -> float:
        """Any iteration, from its launch until its tokens are known."""

    def decode_line(self, num_decodes: int, context_tokens: float) -> DecodeLine:
        """The line of iterations of `num_decodes` requests alone that holds at `context_tokens`.

        `iteration_seconds` of such a shape lies on it. A run of decodes is a sum over lines, which is what lets the
        simulator take many iterations in one step and still be exact.
        """


def decode_run_seconds(prices: IterationPrices, num_decodes: int, context_tokens: float, num_iterations: int) -> Floats:
    """Time from the start of a run of decodes to the end of each of its iterations, shape (num_iterations,).

    `context_tokens` is the sum at the first; it grows by `num_decodes` an iteration.
    """
    seconds = np.empty(num_iterations)
    done = 0
    while done < num_iterations:
        first_tokens = context_tokens + done * num_decodes
        line = prices.decode_line(num_decodes, first_tokens)
        on_line = 1 + int(min(num_iterations - done - 1.0, (line.last_tokens - first_tokens) / num_decodes))
        contexts = first_tokens + num_decodes * np.arange(on_line)
        seconds[done : done + on_line] = line.base_seconds + line.seconds_per_token * contexts
        done += on_line
    return np.cumsum(seconds)


@dataclass(frozen=True, slots=True)
class Pool:
    """Replicas of one kind. A replica has tp * attention_dp * pp ranks."""

    replicas: int = 1
    tp: int = 1
    """Ranks that share attention; those of `attention_dp` groups share the rest of a layer."""
    pp: int = 1
    ep: int = 1
    """Ranks over which experts are spread, out of tp * attention_dp."""
    attention_dp: int = 1
    """Groups of tp ranks that attend to requests of their own."""
    token_budget: int = 8192
    """Tokens of one iteration at most (vLLM's max-num-batched-tokens)."""
    max_sequences: int = 256
    """Requests a replica runs at the same time at most (vLLM's max-num-seqs)."""
    device_fraction: float = 1.0
    """Of the time and the memory of its devices that a replica has; below 1 it lies beside another model's."""
    cluster: str = ""
    """What its replicas run on, by its name in the catalog; "": the cluster of the job."""

    @property
    def num_devices(self) -> int:
        """Accelerators of all its replicas."""
        return self.replicas * self.tp * self.attention_dp * self.pp


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """How one model is served: one pool that does everything, or one for prompts beside one for decoding."""

    decode: Pool = Pool()
    """Runs prompts too unless `prefill` does."""
    prefill: Pool | None = None
    weights: str = "bf16"
    """Form of the linear layers (`planner.work.forms`)."""
    expert_weights: str = ""
    """Form of the experts; "": as `weights`."""
    kv_dtype: str = "bf16"
    draft_tokens: int = 0
    """Tokens guessed for each request and iteration by heads of the model's own (MTP), which it checks; 0: none."""
    acceptance_fraction: float = 0.0
    """Chance that a guess is right, given that those before it are."""
    draft_model: str = ""
    """Who guesses, by name; "": heads of the model's own."""
    eager: bool = False
    """Kernels are launched one by one, not as captured graphs."""

    @property
    def tokens_per_iteration(self) -> float:
        """Of a running request, on average: 1 + a + ... + a**k [Leviathan 2023, arXiv:2211.17192, eq. 1]."""
        return sum(self.acceptance_fraction**guess for guess in range(self.draft_tokens + 1))

    @property
    def clusters(self) -> str:
        """What its pools lie on, in words."""
        return " and ".join(dict.fromkeys(pool.cluster for pool in (self.prefill, self.decode) if pool is not None))

    @property
    def num_devices(self) -> int:
        """Accelerators of both pools."""
        return self.decode.num_devices + (self.prefill.num_devices if self.prefill else 0)
