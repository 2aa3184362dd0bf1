"""How a published serving benchmark was run: who sends requests, how long they are, and what the figures average."""

from dataclasses import dataclass

from validate.runs.resolve import Unmodelled
from validate.score.serving.table import ServedRow


@dataclass(frozen=True, slots=True)
class Protocol:
    """One benchmark's rules."""

    kind: str
    """"closed loop", "offline" (everything is waiting from the start) or "static batch"."""
    benchmark: str = ""
    """Whose scripts start the servers (`validate.score.serving.scripts`); "": nobody's that is known."""
    shortest_fraction: float = 1.0
    """Lengths are uniform between this share of the nominal one and all of it; 1: all alike."""
    prompts_per_client: int = 10
    skips_first_wave: bool = False
    """Whether the first request of each client is left out of the figures."""
    extra_clients: int = 0
    """Clients beyond the requests that run at the same time, which wait for a slot."""


INFERENCEMAX = Protocol("closed loop", "inferencemax", shortest_fraction=0.8)
"""benchmark_serving.py as InferenceMAX calls it: --random-range-ratio 0.8, --num-prompts 10 x concurrency,
--request-rate inf, --ignore-eos; the published first-token time is the mean, the first wave included."""
WAITING_CLIENT = Protocol("closed loop", "aiconfigurator", extra_clients=1)
"""Fixed lengths and one client more than there are slots: what the runs of AIConfigurator's authors look like, whose
times to first token grow by a whole answer over the concurrency."""
STEADY = Protocol("closed loop", skips_first_wave=True)
"""Fixed lengths at a steady concurrency, as genai-perf measures: the first wave does not count."""


_OFFLINE_REQUESTS = {
    (128, 128): 30_000, (128, 2048): 3000, (128, 4096): 1500, (500, 2000): 3000, (1000, 1000): 3000, (1000, 2000): 1500,
    (2048, 128): 3000, (2048, 2048): 1500, (5000, 500): 1500, (20_000, 2000): 1000, (1024, 1024): 3000,
    (1024, 8192): 1500, (8192, 1024): 1500, (1024, 32_768): 1000, (32_768, 1024): 1000,
}  # fmt: skip
"""Input and output tokens -> requests of the offline runs in TensorRT-LLM's documents [NVIDIA/TensorRT-LLM@00f3768
docs/source/performance/perf-overview.md; @03e27c7 docs/source/developer-guide/perf-overview.md, Apache-2.0]. All wait
from the start: few do not fill a large replica, and they drain it together."""
_OFFLINE_WAVES, _SETTLED_WAVES = 3, 6
"""An offline run of other lengths is as many requests as fit at once, times this; of more than the second, no more are
played."""
_LEAST_OFFLINE, _MOST_OFFLINE = 32, 4096


def num_offline_requests(num_input_tokens: int, num_output_tokens: int, num_slots: float) -> int:
    """How many requests are played of an offline run on a replica that takes `num_slots` at the same time."""
    stated = _OFFLINE_REQUESTS.get((num_input_tokens, num_output_tokens))
    if stated is not None:
        return min(stated, max(int(_SETTLED_WAVES * num_slots), _MOST_OFFLINE))
    return min(max(int(_OFFLINE_WAVES * num_slots), _LEAST_OFFLINE), _MOST_OFFLINE)


def protocol_of(row: ServedRow) -> Protocol:
    """The rules of a row's source; raises Unmodelled where nobody knows them."""
    mode = row.mode.casefold()
    if mode.startswith("static batch"):
        return Protocol("static batch")
    if mode.startswith("offline"):
        return Protocol("offline")
    if "closed loop" in mode or mode == "disagg" or row.concurrency:
        if not row.concurrency:
            raise Unmodelled("concurrency is not stated")
        if (
            row.batch
            and row.prefill_split is None
            and row.split.get("dp", 1) == 1
            and row.concurrency > row.batch * row.split.get("tp", 1)
        ):
            raise Unmodelled("concurrency is that of more replicas than the row describes")
        origin = row.origin.casefold()
        if "inferencemax" in origin or row.prefill_split is not None:
            return INFERENCEMAX
        return WAITING_CLIENT if "aiconfigurator" in origin else STEADY
    raise Unmodelled(f"mode {row.mode!r} is not modelled")
