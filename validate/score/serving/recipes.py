"""What published benchmarks ran where their tables do not say it: guessed tokens, and how many workers pools had.

InferenceMAX (InferenceX) publishes the recipes of its runs beside the results: for each model, device, engine release,
precision and pair of lengths the splits that it tries, at which concurrencies, with or without tokens guessed ahead.
`validate/data/serving_recipes.csv` has those of models that are run both ways, or in separate pools
[github.com/SemiAnalysisAI/InferenceX, .github/configs/nvidia-master.yaml, 2025-11 to 2026-05, Apache-2.0]. A row is
completed from the recipe that it follows; nothing that was measured is looked at.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from profiles import catalog
from profiles.model import TransformerShape
from validate.score.serving.table import ServedRow

_FILE = "serving_recipes.csv"
_RANGE = "-"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One setting that the benchmark tries; degrees as it writes them: `tp` are all ranks of a worker."""

    release: str
    """Tag of the image that was run; it begins with the engine's release."""
    concurrencies: str
    draft_tokens: int
    prefill: Mapping[str, int] | None
    decode: Mapping[str, int]
    num_prefill_workers: int | None
    num_decode_workers: int | None
    decode_slots: int | None
    """Requests that one worker of the pool that decodes takes at the same time."""
    changed: tuple[str, ...]
    """Days on which its group of recipes was changed, as 2026-03-18: each change is run."""

    def changed_before(self, day: str) -> str:
        """The last of them until `day`; "" before the first."""
        return max((one for one in self.changed if one <= day), default="")

    def runs_at(self, concurrency: int) -> bool:
        """Whether the recipe is tried at a concurrency: one of a list, or any between two ends."""
        if _RANGE in self.concurrencies:
            first, last = map(int, self.concurrencies.split(_RANGE))
            return first <= concurrency <= last
        return str(concurrency) in self.concurrencies.split()


_PRECISIONS = {"nvfp4": "fp4", "mxfp4": "fp4", "fp8_block": "fp8", "": "bf16"}


def precision_of(row: ServedRow) -> str:
    """Of the weights, as recipes and scripts call it: bf16, fp8 or fp4."""
    written = row.weight_quant.casefold()
    return _PRECISIONS.get(written, written)


def completed(row: ServedRow, model: TransformerShape, accelerator: str) -> ServedRow:
    """`row` with what its recipe says and the row does not; as it is where no recipe fits."""
    setting = (accelerator.partition("-")[0], row.engine, precision_of(row))
    known = _recipes().get((*architecture_of(model), *setting, row.input_tokens, row.output_tokens), ())
    fitting = [one for one in known if one.runs_at(row.concurrency or 0) and _is_of(row, one)]
    for narrower in (_of_release, _of_image, _of_split, _of_experts):
        fitting = [one for one in fitting if narrower(row, one)] or fitting
    if row.file_day and any(_of_release(row, one) for one in fitting):
        last = max(one.changed_before(row.file_day) for one in fitting)
        fitting = [one for one in fitting if one.changed_before(row.file_day) == last]
    if row.day:
        last = max((one.changed_before(row.day) for one in fitting), default="")
        fitting = [one for one in fitting if one.changed_before(row.day) == last]
    if not fitting or not _has_split(row, fitting):
        return row
    is_open = row.prefill_split is not None and row.num_prefill_workers is None
    chosen = (max if is_open else min)(fitting, key=lambda one: one.draft_tokens)
    return replace(
        row,
        draft_tokens=chosen.draft_tokens if row.draft_tokens is None else row.draft_tokens,
        drafts_open=row.draft_tokens is None and len({one.draft_tokens for one in fitting}) > 1,
        num_prefill_workers=row.num_prefill_workers or chosen.num_prefill_workers,
        num_decode_workers=row.num_decode_workers or chosen.num_decode_workers,
        decode_slots=row.decode_slots or chosen.decode_slots,
        prefill_split=_with_groups(row.prefill_split, chosen.prefill),
        split=_with_groups(row.split, chosen.decode) or row.split,
    )


def _with_groups(split: Mapping[str, int] | None, recipe: Mapping[str, int] | None) -> Mapping[str, int] | None:
    """A split that was written without its attention data parallelism, with that of the recipe."""
    if split is None or recipe is None or not recipe["dp"] or split.get("dp", 1) > 1:
        return split
    return {"tp": 1, "dp": recipe["tp"], "ep": recipe["ep"], "pp": split.get("pp", 1)}


def _is_of(row: ServedRow, recipe: Recipe) -> bool:
    """Whether both have separate pools, and as many workers as the row states."""
    if (row.prefill_split is None) != (recipe.prefill is None):
        return False
    stated = (
        (row.num_prefill_workers, recipe.num_prefill_workers),
        (row.num_decode_workers, recipe.num_decode_workers),
    )
    return all(said is None or said == tried for said, tried in stated)


def _of_release(row: ServedRow, recipe: Recipe) -> bool:
    return (
        bool(row.engine_version) and re.match(rf"{re.escape(row.engine_version)}(?![\w.])", recipe.release) is not None
    )


def _of_image(row: ServedRow, recipe: Recipe) -> bool:
    return row.image_tag == recipe.release


def _of_split(row: ServedRow, recipe: Recipe) -> bool:
    """The same ranks in each pool, and the same attention data parallelism as far as the row states any."""
    pairs = [(row.split, recipe.decode), (row.prefill_split, recipe.prefill)]
    return all(
        said is None or tried is None or (_ranks(said) == tried["tp"] and (said.get("dp", 1) == 1 or bool(tried["dp"])))
        for said, tried in pairs
    )


def _of_experts(row: ServedRow, recipe: Recipe) -> bool:
    pairs = [(row.split, recipe.decode), (row.prefill_split, recipe.prefill)]
    return all(said is None or tried is None or said.get("ep", 1) == tried["ep"] for said, tried in pairs)


def _has_split(row: ServedRow, recipes: Sequence[Recipe]) -> bool:
    return all(_of_split(row, one) for one in recipes)


def architecture_of(model: TransformerShape) -> tuple[object, ...]:
    """What tells architectures apart; checkpoints of one architecture run alike."""
    return (model.num_layers, model.hidden_size, model.moe.num_experts if model.moe else 0)


def _ranks(split: Mapping[str, int]) -> int:
    return split.get("tp", 1) * split.get("dp", 1)


@cache
def _recipes() -> Mapping[tuple[object, ...], Sequence[Recipe]]:
    """(layers of the model, device, engine, precision, tokens in and out) -> recipes."""
    found: defaultdict[tuple[object, ...], list[Recipe]] = defaultdict(list)
    with (files("validate") / "data" / _FILE).open(encoding="utf-8") as lines:
        for line in csv.DictReader(lines):
            load = (int(line["input_tokens"]), int(line["output_tokens"]))
            model = catalog.model(line["model"])
            assert isinstance(model, TransformerShape)
            key = (*architecture_of(model), line["accelerator"], line["engine"], line["precision"], *load)
            found[key].append(_recipe(line))
    return found


def _recipe(line: Mapping[str, str]) -> Recipe:
    def number(name: str) -> int | None:
        return int(line[name]) if line[name] else None

    decode = {"tp": int(line["tp"]), "ep": int(line["ep"]), "dp": int(line["attention_dp"])}
    prefill = None
    if line["prefill_tp"]:
        prefill = {name: int(line[f"prefill_{column}"]) for name, column in
                   (("tp", "tp"), ("ep", "ep"), ("dp", "attention_dp"))}  # fmt: skip
    return Recipe(
        line["release"], line["concurrency"], int(line["draft_tokens"]), prefill, decode,
        number("prefill_workers"), number("decode_workers"), number("decode_slots"),
        tuple(line["changed"].split()),
    )  # fmt: skip
