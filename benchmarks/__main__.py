"""Every number the project states about itself: `python -m benchmarks [--skip-validate] > docs/benchmarks.md`.

Accuracy on the published runs that ship with the project, speed of estimates and search, the simulator on a
deep pipeline, and predicted against measured on this machine (some ten minutes; nothing else should run).
"""

import platform
import sys
from collections.abc import Callable
from datetime import date

from benchmarks import accuracy, authors, simulator, speed, validate_here


def section(title: str, run: Callable[[], None]) -> None:
    """Print what `run` prints as preformatted text under a heading."""
    print(f"\n## {title}\n\n```", flush=True)
    run()
    print("```", flush=True)


def main(arguments: list[str]) -> None:
    """Print the whole page."""
    print(f"# Benchmarks\n\n{date.today().isoformat()}, {platform.machine()}, Python {platform.python_version()},")
    print(f"{processor()}; written by `python -m benchmarks`.\n", flush=True)
    accuracy.print_paper()
    section("Speed", speed.main)
    section("Two large runs beside the best plan found", authors.main)
    section("Simulator", simulator.main)
    if "--skip-validate" not in arguments:
        section("Predicted and measured on this machine", validate_here.main)


def processor() -> str:
    """The processor's own name, where the system tells."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        return platform.processor() or "processor unknown"
    return f"{len(names)} x {names[0]}" if names else "processor unknown"


if __name__ == "__main__":
    main(sys.argv[1:])
