"""Deployments that a search proposes, played under the job's own requests."""

from dataclasses import dataclass

import numpy as np

from meshwise.serving.deployed import with_deployment, with_rate
from meshwise.serving.jobfile import LoadTable, ServingFile
from meshwise.serving.playing import served_of, targets_of
from meshwise.serving.traffic import DEFAULT_REQUESTS, traffic
from planner.choose.serving import ServingCandidate
from planner.cost.serving import PriceBook
from simulator.serving.play import play
from simulator.serving.requests import Requests, part
from simulator.serving.statistics import Summary, summary

MOST_REQUESTS = 20_000
"""That are played: of a longer load the densest so many in a row."""
PLAYED_SECONDS = 60.0
"""For which requests come at least at a rate that is tried, where the load does not say how many there are."""


@dataclass(frozen=True, slots=True)
class PlayedCandidate:
    """A candidate, and what the simulator made of it; None where it was not played."""

    candidate: ServingCandidate
    figures: Summary | None = None

    @property
    def times(self) -> tuple[float, float, float]:
        """Seconds to the first token, mean and tail, and per token, mean: played, or else of closed forms."""
        one, figures = self.candidate, self.figures
        if figures is None:
            return one.ttft_seconds, one.ttft_tail_seconds, one.tpot_seconds
        ttft = figures.ttft_seconds
        return ttft.mean.value, ttft.percentiles[99].value, figures.tpot_seconds.mean.value


class Stage:
    """Plays candidates for one job."""

    def __init__(self, file: ServingFile, book: PriceBook, *, is_timed: bool) -> None:
        """`is_timed`: the load says when requests arrive; else they come at the rate of each candidate."""
        self.file, self.book = file, book
        self._requests = densest(traffic(file.load, file.load.seed)) if is_timed else None
        self.num_requests = 0
        """In what was played last."""

    def played(self, one: ServingCandidate) -> PlayedCandidate:
        """What the simulator makes of it."""
        requests, file = self._requests, with_deployment(self.file, one.plan)
        if requests is None:
            requests = densest(traffic(self._load_at(one.requests_per_second), file.load.seed))
        self.num_requests = len(requests)
        return PlayedCandidate(one, figures_of(file, requests, self.book))

    def _load_at(self, requests_per_second: float) -> LoadTable:
        load = with_rate(self.file, requests_per_second).load
        if load.requests is None and load.trace is None:
            count = max(DEFAULT_REQUESTS, int(PLAYED_SECONDS * requests_per_second))
            return load.model_copy(update={"requests": min(count, MOST_REQUESTS)})
        return load

    def meets(self, one: PlayedCandidate) -> bool:
        """Whether it was played and the share of requests asked for is within the targets."""
        asked = self.file.targets.attained_fraction
        return one.figures is not None and one.figures.attained_fraction.value >= asked


def figures_of(file: ServingFile, requests: Requests, book: PriceBook) -> Summary:
    """What users of the job's one model see, under its targets."""
    served = served_of(file.serving[0], file.job.cluster, book)
    played = play(requests, [served.deployment], generator=np.random.default_rng(file.load.seed))
    return summary(played, [targets_of(file.targets)] * len(requests.tenants))


def densest(requests: Requests, most: int = MOST_REQUESTS) -> Requests:
    """The `most` requests in a row that arrive within the least time; all where there are no more."""
    if len(requests) <= most:
        return requests
    times = requests.arrival_seconds
    first = int(np.argmin(times[most - 1 :] - times[: len(times) - most + 1]))
    return part(requests, np.arange(first, first + most))
