"""How fast deployments are searched: `python -m benchmarks.serving_plan [JOB.toml]` prints deployments and seconds."""

import sys
import time
from pathlib import Path
from statistics import median

from meshwise.serving import jobfile, planning

EXAMPLE = Path(__file__).parents[1] / "examples" / "llama3-8b-chat.toml"
REPEATS = 3


def main() -> None:
    """Closed forms alone, then with the best simulated; medians of a few runs."""
    file = jobfile.read(Path(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLE)
    for words, simulates in (("closed forms", False), ("and the best simulated", True)):
        seconds = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            found = planning.best_plans(file, simulates=simulates).found
            seconds.append(time.perf_counter() - begin)
        print(f"{words}: {found.num_considered:,} deployments in {median(seconds):.1f} s")


if __name__ == "__main__":
    main()
