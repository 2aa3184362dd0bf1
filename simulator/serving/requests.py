"""What is asked of a deployment: when requests arrive, how long they are, and what of them is cached or shared."""

from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Prefixes:
    """Blocks of prompts by name: prompts that begin with the same names begin with the same tokens.

    Those of request i are `ids[offsets[i]:offsets[i + 1]]`; only whole blocks have names.
    """

    block_tokens: int
    offsets: Ints
    """Shape (n + 1,)."""
    ids: Ints

    @property
    def repeated_tokens(self) -> Floats:
        """Of each prompt, those at its head that prompts before it had too, shape (n,): what a cache that forgets
        nothing finds."""
        known: set[int] = set()
        ids, found = self.ids.tolist(), np.zeros(len(self.offsets) - 1)
        for number, (begin, end) in enumerate(pairwise(self.offsets.tolist())):
            names = ids[begin:end]
            found[number] = next((place for place, name in enumerate(names) if name not in known), len(names))
            known.update(names)
        return self.block_tokens * found


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests as columns of shape (n,), in order of arrival."""

    arrival_seconds: Floats
    """Under a closed loop only their order counts."""
    input_tokens: Ints
    output_tokens: Ints
    """Tokens made for it, the first included: at least 1."""
    tenant: Ints | None = None
    """Index into `tenants`; None: there is only one."""
    tenants: tuple[str, ...] = ("all",)
    cached_tokens: Ints | None = None
    """Prompt tokens whose keys and values are known to be there already; None: found in the cache by `prefixes`."""
    prefixes: Prefixes | None = None
    deployment: Ints | None = None
    """Which deployment answers it; None: the first, all of them."""
    follower: Ints | None = None
    """The request that is made of its answer and arrives with it, or -1; None: there are no such chains."""

    def __post_init__(self) -> None:
        """Raises ValueError for columns that differ in length, times that run backwards, and empty requests."""
        for field in fields(self):
            column = getattr(self, field.name)
            if isinstance(column, np.ndarray) and len(column) != len(self):
                raise ValueError(f"{field.name}: {len(column)} entries for {len(self)} requests; give one each")
        for name in ("input_tokens", "output_tokens"):
            small = np.flatnonzero(getattr(self, name) < 1)
            if small.size:
                raise ValueError(
                    f"{name}: request {small[0]} has {getattr(self, name)[small[0]]}; at least 1 is needed"
                )
        if self.prefixes is not None:
            named = np.diff(self.prefixes.offsets) * self.prefixes.block_tokens
            if len(named) != len(self) or np.any(named > self.input_tokens):
                raise ValueError("prefixes: every request has names of whole blocks of its own prompt, and no more")
        if len(self) and (not np.all(np.isfinite(self.arrival_seconds)) or np.any(np.diff(self.arrival_seconds) < 0.0)):
            raise ValueError("arrival_seconds: times must be finite and in order")

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    @property
    def tenant_index(self) -> Ints:
        """The tenant of each, shape (n,)."""
        return np.zeros(len(self), dtype=np.int64) if self.tenant is None else self.tenant

    @property
    def heads(self) -> Ints:
        """Requests that follow no other."""
        if self.follower is None:
            return np.arange(len(self))
        return np.setdiff1d(np.arange(len(self)), self.follower)


def part(requests: Requests, which: Ints) -> Requests:
    """Those numbered `which`, in order; none of them may be a step of a task."""
    assert requests.follower is None
    columns = {
        name: column[which]
        for name in ("arrival_seconds", "input_tokens", "output_tokens", "tenant", "cached_tokens", "deployment")
        if (column := getattr(requests, name)) is not None
    }
    prefixes = requests.prefixes
    if prefixes is not None:
        begins, ends = prefixes.offsets[which], prefixes.offsets[which + 1]
        ids = [prefixes.ids[begin:end] for begin, end in zip(begins, ends, strict=True)]
        offsets = np.concatenate(([0], np.cumsum(ends - begins)))
        prefixes = replace(prefixes, offsets=offsets, ids=np.concatenate(ids) if ids else prefixes.ids[:0])
    return replace(requests, prefixes=prefixes, **columns)


@dataclass(frozen=True, slots=True)
class ClosedLoop:
    """Clients that each wait for an answer before they ask again, as benchmarks at a fixed concurrency do."""

    concurrency: int
    ramp_seconds: float = 0.0
    """Between the first requests of one client and the next; 0: all begin at once."""
    think_seconds: float = 0.0
    """Between an answer and the next request of its client."""
    num_warmup: int = 0
    """Requests at the head that are played before the others begin, and left out of every figure."""
