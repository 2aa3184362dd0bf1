"""What happened to each request, while it happens: one row a request, as arrays that any replica writes to."""

from array import array

import numpy as np

from simulator.serving.requests import Ints, Requests

NEVER = float("nan")


def ints(values: Ints | None, count: int, default: int = 0) -> "array[int]":
    """A column of whole numbers; None: all are `default`."""
    return array("q", [default]) * count if values is None else array("q", np.asarray(values, np.int64).tobytes())


class Ledger:
    """Columns by request. Plain arrays: they are read and written one element at a time."""

    __slots__ = (
        "arrival_seconds", "cached_tokens", "first_token_seconds", "input_tokens", "last_token_seconds", "made_tokens",
        "num_preemptions", "output_tokens", "prefixes", "ready_tokens", "replica",
    )  # fmt: skip

    def __init__(self, requests: Requests) -> None:
        count = len(requests)
        self.input_tokens = ints(requests.input_tokens, count)
        self.output_tokens = ints(requests.output_tokens, count)
        self.cached_tokens = ints(requests.cached_tokens, count)
        """Of the prompt, when it was last admitted."""
        self.made_tokens = ints(None, count)
        """Tokens made so far, up to date when it is not running."""
        self.ready_tokens = ints(None, count)
        """Tokens whose keys and values come with it: of a transfer, or of a copy on the host."""
        self.arrival_seconds = array("d", [NEVER]) * count
        self.first_token_seconds = array("d", [NEVER]) * count
        self.last_token_seconds = array("d", [NEVER]) * count
        self.num_preemptions = ints(None, count)
        self.replica = ints(None, count, -1)
        self.prefixes = requests.prefixes

    def prefix_ids(self, request: int) -> list[int]:
        """Names of the whole blocks its prompt begins with."""
        if self.prefixes is None:
            return []
        begin, end = self.prefixes.offsets[request : request + 2]
        names: list[int] = self.prefixes.ids[begin:end].tolist()
        return names
