"""How long a capacity question takes: 20 accelerators at 10 sizes, a full plan search each; then the same again.

`python -m benchmarks.capacity`; wall time on all cores, for a dense model of 70 billion parameters. The second run
takes everything from the cache, as a user's second question about the same clusters does.
"""

import resource
import tempfile
import time
from pathlib import Path

from meshwise.capacity.answering import CapacityAnswer, answer, searchers
from meshwise.capacity.cache import PaceCache
from meshwise.capacity.question import CapacityQuestion, question
from meshwise.capacity.table import CapacityTable
from meshwise.jobfile import JobTable
from planner.choose.capacity.pace import Pace
from profiles import prices
from profiles.units import GIGA, KIB

COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
NUM_ACCELERATORS = 20


def asked() -> CapacityQuestion:
    """The cheapest offer of each of 20 accelerators that can be had at all sizes."""
    job = JobTable(model="llama3-70b", global_batch=1024, sequence_length=8192)
    cheapest = {}
    for offer in sorted(prices.offers().values(), key=lambda one: -(one.dollars_per_device_second or 0.0)):
        if all(offer.allows(number) for number in COUNTS):
            cheapest[offer.accelerator] = offer.name
    names = tuple(sorted(cheapest.values()))[:NUM_ACCELERATORS]
    return question(job, CapacityTable(tokens="15T", start="2027-01-01", deadline="1y", offers=names, counts=COUNTS))


def timed(one: CapacityQuestion, cache: PaceCache) -> tuple[CapacityAnswer, float]:
    """(answer, wall seconds)."""
    started = time.perf_counter()
    with searchers(one, None, None) as executor:
        found = answer(one, cache, executor, lambda what, done, total: None)
    return found, time.perf_counter() - started


def main() -> None:
    """Print the times and the memory."""
    one = asked()
    with tempfile.TemporaryDirectory() as folder:
        cache = PaceCache(Path(folder))
        first, cold_seconds = timed(one, cache)
        again, warm_seconds = timed(one, cache)
    fitting = sum(isinstance(found, Pace) for found in first.paces.values())
    print(f"{len(one.setups.offers)} accelerators at {len(COUNTS)} sizes: {len(first.paces)} options, {fitting} fit")
    print(f"first run:  {first.num_searched:>4} searches, {cold_seconds:.1f} s   (asked: 60 s for 200 options)")
    print(f"second run: {again.num_searched:>4} searches, {warm_seconds:.2f} s")
    here, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(f"peak memory: {here * KIB / GIGA:.2f} GB, and {workers * KIB / GIGA:.2f} GB in the largest worker")


if __name__ == "__main__":
    main()
