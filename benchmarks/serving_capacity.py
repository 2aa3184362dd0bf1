"""How long a serving capacity question over all offers takes: `python -m benchmarks.serving_capacity [JOB.toml]`.

Bar: 60 s. Prints seconds of pricing, counting and playing, offers, ways to pay, and peak memory.
"""

import resource
import sys
import time
from pathlib import Path

from meshwise.serving import jobfile
from meshwise.serving.capacity.answering import answer
from meshwise.serving.capacity.table import ServingCapacityTable
from profiles import prices
from profiles.units import KIB, MIB

JOB = Path(__file__).parent.parent / "examples" / "serve-chat-for-a-day.toml"


def main() -> None:
    """Ask once, and print the figures."""
    file = jobfile.read(Path(sys.argv[1]) if len(sys.argv) > 1 else JOB, needs_cluster=False)
    offers = tuple(prices.offers().values())
    begin, began = time.perf_counter(), time.process_time()
    found = answer(file, file.capacity or ServingCapacityTable(), offers)
    wall, cpu = time.perf_counter() - begin, time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB / MIB
    best = found.best
    print(f"{len(offers)} offers, {len(found.options)} ways to pay, {len(found.settled)} busiest hours played")
    print(f"{wall:.1f} s, {cpu:.1f} s of one core, {peak:.0f} MiB at most")
    if best is not None:
        print(f"best: {best.offer.name}, {best.how}, ${best.dollars_per_million_output_tokens:.2f} per M tokens out")


if __name__ == "__main__":
    main()
