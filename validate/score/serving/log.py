"""Logs of an engine, request by request: played as they arrived, and compared time by time.

A log is JSON lines with `input_toks`, `output_toks`, `queued_ts`, `first_token_ts` and `last_token_ts` (seconds of one
clock) of every request, beside a `meta.json` that says what was served and how: the layout in which LLMServingSim
records vLLM [github.com/casys-kaist/LLMServingSim, bench/README.md, MIT]. Times are the engine's own: its front end
is not in them, and is left out of the prediction.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from planner.cost.serving import PriceBook
from planner.serving import Pool, ServingPlan
from profiles import catalog
from profiles.cluster import Cluster
from profiles.engine import EngineRecord
from profiles.model import TransformerShape
from simulator.serving.play import play
from simulator.serving.requests import Floats, Requests
from simulator.serving.spec import Deployment, PoolSpec
from validate.runs.table import BadTable
from validate.score.serving.play import replica_of
from validate.score.serving.resolve import engine_of, forms_of, model_of

SCHEMA_VERSION = 1
PERCENTILES = (50, 90, 95, 99)
_COLUMNS = ("queued_ts", "first_token_ts", "last_token_ts", "input_toks", "output_toks")
_MAX_BYTES = 200_000_000


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure of the requests of a log."""

    measured_seconds: float
    predicted_seconds: float

    @property
    def error_fraction(self) -> float:
        """Above 0 the prediction is too long."""
        return self.predicted_seconds / self.measured_seconds - 1.0


@dataclass(frozen=True, slots=True)
class LogScore:
    """How far the prediction of a log is off."""

    model: str
    cluster: str
    engine: str
    plan: str
    requests: int
    kv_tokens: int
    kv_tokens_are_stated: bool
    """By the log; else as the memory model has them."""
    times: dict[str, dict[str, Compared]]
    """"ttft", "tpot" and "e2e" -> "mean", "p50", ... -> over requests."""
    request_error_fraction: dict[str, float]
    """Of the same: median absolute error of single requests."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, with the keys of `meshwise score serving --json` on a log."""
        times = {
            name: {of: asdict(one) | {"error_fraction": one.error_fraction} for of, one in figures.items()}
            for name, figures in self.times.items()
        }
        plain = {name: getattr(self, name) for name in self.__slots__ if name != "times"}
        return {"schema_version": SCHEMA_VERSION, **plain, "times": times}


def score_log(path: Path, cluster: str | None = None) -> LogScore:
    """Play the requests of a log on what its `meta.json` describes, on `cluster` where that names no device.

    Raises BadTable (a ValueError) naming the file and what is wrong with it.
    """
    requests_path = path / "requests.jsonl" if path.is_dir() else path
    meta_path = requests_path.with_name("meta.json")
    meta = _meta(meta_path)
    columns = _columns(requests_path)
    try:
        served = _served(meta, cluster)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadTable(
            f"{meta_path}: {error} is missing or no value; see docs/serving.md for what a log says"
        ) from None
    queued, first, last, inputs, outputs = columns
    requests = Requests(queued, inputs.astype(np.int64), outputs.astype(np.int64))
    replica, memory = replica_of(
        served.model, served.cluster, served.plan, served.plan.decode, served.engine, PriceBook()
    )
    stated = (meta.get("kv_cache") or {}).get("num_kv_tokens")
    kv_tokens = int(stated or memory.num_kv_tokens)
    played = play(requests, [Deployment(PoolSpec(replace(replica, kv_tokens=kv_tokens)))])
    measured = _times(queued, first, last, outputs)
    predicted = _times(queued, played.first_token_seconds, played.last_token_seconds, outputs)
    words = _words(served.plan.decode)
    return LogScore(
        served.model.name, served.cluster.name, served.engine.name, words, len(requests), kv_tokens, bool(stated),
        {name: dict(_compared(measured[name], predicted[name])) for name in measured},
        {name: float(np.nanmedian(np.abs(predicted[name] / measured[name] - 1.0))) for name in measured},
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Served:
    model: TransformerShape
    cluster: Cluster
    plan: ServingPlan
    engine: EngineRecord


def _served(meta: Mapping[str, Any], named: str | None) -> _Served:
    """What was served; raises KeyError where that is not said, ValueError where it is not known."""
    options = meta["engine_kwargs"]
    model = model_of(str(meta["model"]))
    tp, groups = int(options.get("tensor_parallel_size", 1)), int(options.get("data_parallel_size", 1))
    device = named or (meta.get("hardware") or {}).get("device_name")
    if not device:
        raise BadTable("the log names no device (hardware.device_name of meta.json); say --cluster NAME")
    cluster = catalog.cluster(str(device).removeprefix("NVIDIA "), tp * groups)
    weights, experts = forms_of(str(options.get("quantization") or ""), model, cluster)
    pool = Pool(
        tp=tp, attention_dp=groups, ep=tp * groups if options.get("enable_expert_parallel") and model.moe else 1,
        token_budget=int(options["max_num_batched_tokens"]), max_sequences=int(options["max_num_seqs"]) * groups,
    )  # fmt: skip
    kv_dtype = "fp8" if str(options.get("kv_cache_dtype", "auto")).startswith("fp8") else "bf16"
    plan = ServingPlan(decode=pool, weights=weights, expert_weights=experts, kv_dtype=kv_dtype)
    engine = engine_of("vllm", str(meta.get("vllm_version", ""))).model_copy(
        update={"front_end_seconds": 0.0, "front_end_seconds_per_request": 0.0}
    )
    return _Served(model, cluster, plan, engine)


def _meta(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadTable(f"{path}: a log needs what was served beside it: {error}") from None
    if not isinstance(found, dict):
        raise BadTable(f"{path}: not an object of names and values")
    return found


def _columns(path: Path) -> tuple[Floats, ...]:
    """The columns of the requests in order of arrival, from the first one's on."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BadTable(f"{path}: more than {_MAX_BYTES:,} bytes")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadTable(f"{path}: cannot be read: {error}") from None
    rows = np.array(list(_rows(lines, path)))
    if not len(rows):
        raise BadTable(f"{path}: no requests")
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    rows[:, :3] -= rows[0, 0]
    return tuple(rows.T)


def _rows(lines: list[str], path: Path) -> Iterator[list[float]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            row = [float(request[name]) for name in _COLUMNS]
        except (ValueError, KeyError, TypeError) as error:
            raise BadTable(f"{path}: line {number}: {error}; every request has {', '.join(_COLUMNS)}") from None
        if not (row[0] < row[1] <= row[2] < float("inf") and min(row[3:]) >= 1.0):
            raise BadTable(f"{path}: line {number}: times and tokens of a request are in no order that can be")
        yield row


def _times(queued: Floats, first: Floats, last: Floats, outputs: Floats) -> dict[str, Floats]:
    """TPOT of answers of one token is no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return {"ttft": first - queued, "tpot": (last - first) / (outputs - 1.0), "e2e": last - queued}


def _compared(measured: Floats, predicted: Floats) -> Iterator[tuple[str, Compared]]:
    yield "mean", Compared(float(np.nanmean(measured)), float(np.nanmean(predicted)))
    for part in PERCENTILES:
        yield f"p{part}", Compared(float(np.nanpercentile(measured, part)), float(np.nanpercentile(predicted, part)))


def _words(pool: Pool) -> str:
    degrees = (("tp", pool.tp), ("ep", pool.ep), ("attention dp", pool.attention_dp))
    return " ".join(f"{name} {value}" for name, value in degrees if value > 1) or "one device"
