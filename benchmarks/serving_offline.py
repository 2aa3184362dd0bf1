"""How far offline throughput is off: `python -m benchmarks.serving_offline TABLE.csv [NAME ...]`.

Prints mean and median absolute errors of output tokens/s, and their bias, by release, accelerator, model and split.
NAMEs leave only rows whose model or accelerator has one of them in it. Nothing was fitted to these rows.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from planner.cost.serving import PriceBook
from validate.score.serving.play import predict
from validate.score.serving.resolve import ServedSetting, resolve_serving
from validate.score.serving.table import read_rows


def main() -> None:
    """Print one line a group, finest last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("names", nargs="*")
    asked = parser.parse_args()
    levels: tuple[defaultdict[str, list[float]], ...] = tuple(defaultdict(list) for _ in range(5))
    for setting, error in offline_errors(asked.table, asked.names):
        for level, label in zip(levels, _labels(setting), strict=True):
            level[label].append(error)
    for level in levels:
        for name, found in sorted(level.items()):
            size = np.abs(found)
            print(f"{name:70} {len(found):4}  mean {size.mean():6.1%}  median {np.median(size):6.1%}  "
                  f"bias {np.mean(found):+7.1%}", flush=True)  # fmt: skip


def offline_errors(table: Path, names: Sequence[str]) -> Iterator[tuple[ServedSetting, float]]:
    """Every offline row that can be modelled, with predicted over measured tokens/s, less one."""
    book = PriceBook()
    for row in read_rows(table):
        try:
            setting = resolve_serving(row)
        except ValueError:
            continue
        if setting.protocol.kind != "offline" or not row.output_tokens_per_second or not _is_asked(setting, names):
            continue
        try:
            predicted = predict(setting, book).output_tokens_per_second or 0.0
        except ValueError as error:
            print(f"{row.model} on {row.gpu}: {error}")
            continue
        yield setting, predicted / row.output_tokens_per_second - 1.0


def _is_asked(setting: ServedSetting, names: Sequence[str]) -> bool:
    text = f"{setting.model.name} {setting.cluster.accelerator.name}"
    return not names or any(name in text for name in names)


def _labels(one: ServedSetting) -> tuple[str, ...]:
    """Of all, by release, by accelerator, by model, and by all of them with the split."""
    release, device, model = f"release {one.row.engine_version}", one.cluster.accelerator.name, one.model.name
    return "all", release, device, model, f"{release} {device} {model} {one.plan_text}"


if __name__ == "__main__":
    main()
