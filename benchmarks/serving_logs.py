"""How far predictions of logs of single requests are off: `python -m benchmarks.serving_logs LOG[=CLUSTER] ...`.

Of every log by the catalog's constants, by constants fitted to it, and of its later half by those of its first half; of
logs of one machine and release also of each by the others.
"""

import argparse
from collections import defaultdict
from pathlib import Path

from validate.score.serving.fit_log import LogFit, fit_logs
from validate.score.serving.log import ServedLog, read_log


def main() -> None:
    """Print a line a log, and one for every machine with several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="+", metavar="LOG[=CLUSTER]")
    alike: defaultdict[tuple[str, str], list[ServedLog]] = defaultdict(list)
    for asked in parser.parse_args().logs:
        path, _, cluster = asked.partition("=")
        log = read_log(Path(path), cluster or None)
        print(_line(f"{log.model.name} on {log.cluster.name}", fit_logs(log.engine, [log])), flush=True)
        alike[log.engine.name, log.cluster.accelerator.name].append(log)
    for (engine, machine), logs in alike.items():
        if len(logs) > 1:
            print(_line(f"{len(logs)} logs of {engine} on {machine}", fit_logs(logs[0].engine, logs)))


def _line(name: str, fit: LogFit) -> str:
    parts = (
        f"{metric.upper()} {fit.before[metric]:6.1%} -> {fit.after[metric]:5.1%}, unseen {fit.held_out[metric]:5.1%}"
        for metric in fit.before
    )
    return f"{name:40} {'   '.join(parts)}"


if __name__ == "__main__":
    main()
