"""How a published serving benchmark was run: who sends requests, how long they are, and what the figures average."""

from dataclasses import dataclass

from validate.runs.resolve import Unmodelled
from validate.score.serving.table import ServedRow


@dataclass(frozen=True, slots=True)
class Protocol:
    """One benchmark's rules."""

    kind: str
    """"closed loop", "offline" (everything is waiting from the start) or "static batch"."""
    shortest_fraction: float = 1.0
    """Lengths are uniform between this share of the nominal one and all of it; 1: all alike."""
    prompts_per_client: int = 10
    skips_first_wave: bool = False
    """Whether the first request of each client is left out of the figures."""
    extra_clients: int = 0
    """Clients beyond the requests that run at the same time, which wait for a slot."""


INFERENCEMAX = Protocol("closed loop", shortest_fraction=0.8)
"""benchmark_serving.py as InferenceMAX calls it: --random-range-ratio 0.8, --num-prompts 10 x concurrency,
--request-rate inf, --ignore-eos; the published first-token time is the mean, the first wave included."""
WAITING_CLIENT = Protocol("closed loop", extra_clients=1)
"""Fixed lengths and one client more than there are slots: what the runs of AIConfigurator's authors look like, whose
times to first token grow by a whole answer over the concurrency."""
STEADY = Protocol("closed loop", skips_first_wave=True)
"""Fixed lengths at a steady concurrency, as genai-perf measures: the first wave does not count."""


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
