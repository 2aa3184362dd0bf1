"""What lies between clients and the loop: requests queue for the front end, tokens for the output path."""

from profiles.engine import EngineRecord


class FrontEnd:
    """A server of one request at a time on the way in, and one of tokens on the way out."""

    __slots__ = ("_backlog_seconds", "_constant_seconds", "_free_seconds", "_request_seconds", "_token_seconds")

    def __init__(self, engine: EngineRecord) -> None:
        self._constant_seconds = engine.front_end_seconds
        self._request_seconds = engine.front_end_seconds_per_request
        self._token_seconds = engine.output_seconds_per_token
        self._free_seconds = 0.0
        self._backlog_seconds = 0.0

    def accept(self, now_seconds: float) -> float:
        """When the loop can see a request that arrives now."""
        self._free_seconds = max(now_seconds, self._free_seconds) + self._request_seconds
        return self._free_seconds + self._constant_seconds

    def delay_seconds(self, num_tokens: float, elapsed_seconds: float) -> float:
        """How much later than its iteration a token is seen, when `num_tokens` were made in `elapsed_seconds`.

        The work that waits after a run is max(0, W + tokens * t - elapsed): iterations of a run only become longer,
        so that this is what one iteration after another would leave [Lindley 1952, doi:10.1017/S0305004100027638].
        """
        if self._token_seconds:
            work = self._backlog_seconds + self._token_seconds * num_tokens
            self._backlog_seconds = max(work - elapsed_seconds, 0.0)
        return self._backlog_seconds
