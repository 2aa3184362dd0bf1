"""Logs of a server, request by request: played as they arrived, and compared time by time.

Beside a log (`validate.score.serving.log_files`) lies a `meta.json` that says what was served and how. Times that an
engine took itself are without its front end, which is then left out of the prediction.
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
from validate.score.serving.log_files import RequestTimes, read_times, requests_file, times_of
from validate.score.serving.play import replica_of
from validate.score.serving.resolve import engine_of, forms_of, model_of

SCHEMA_VERSION = 1
PERCENTILES = (50, 90, 95, 99)
_NO_FRONT_END = {"front_end_seconds": 0.0, "front_end_seconds_per_request": 0.0, "output_seconds_per_token": 0.0}
_LATEST = "latest"
"""Release of a log that states none."""


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


@dataclass(frozen=True, slots=True)
class ServedLog:
    """Requests that were served, and what served them."""

    name: str
    asked: RequestTimes
    model: TransformerShape
    cluster: Cluster
    plan: ServingPlan
    engine: EngineRecord
    kv_tokens: int | None
    """That had room, as the log states it."""

    @property
    def kind(self) -> str:
        """Dense models and mixtures of experts have different constants."""
        return "sparse" if self.model.moe else "dense"

    def predicted(self, engine: EngineRecord) -> tuple[dict[str, Floats], int]:
        """The times of all requests if `engine` had served them, and the tokens that it has room for."""
        if not self.asked.at_client:
            engine = engine.model_copy(update=_NO_FRONT_END)
        replica, memory = replica_of(self.model, self.cluster, self.plan, self.plan.decode, engine, PriceBook())
        kv_tokens = self.kv_tokens or int(memory.num_kv_tokens)
        asked = self.asked
        inputs, outputs = (one.astype(np.int64) for one in (asked.num_input_tokens, asked.num_output_tokens))
        requests = Requests(asked.queued_seconds, inputs, outputs)
        played = play(requests, [Deployment(PoolSpec(replace(replica, kv_tokens=kv_tokens)))])
        return times_of(asked, played.first_token_seconds, played.last_token_seconds), kv_tokens


def score_log(path: Path, cluster: str | None = None, engine: str | None = None) -> LogScore:
    """Play the requests of a log on what its `meta.json` describes, on `cluster` where that names no device.

    `engine` is a record of the catalog, or a file, in place of that of the log's release. Raises BadTable (a
    ValueError) naming the file and what is wrong with it.
    """
    log = read_log(path, cluster)
    record = catalog.engine(engine) if engine else log.engine
    predicted, kv_tokens = log.predicted(record)
    measured = log.asked.times()
    return LogScore(
        log.model.name, log.cluster.name, record.name, _words(log.plan.decode), len(log.asked), kv_tokens,
        log.kv_tokens is not None,
        {name: dict(_compared(measured[name], predicted[name])) for name in measured},
        {name: float(np.nanmedian(np.abs(predicted[name] / measured[name] - 1.0))) for name in measured},
    )  # fmt: skip


def read_log(path: Path, cluster: str | None = None) -> ServedLog:
    """A log with what its `meta.json` says of the server; raises BadTable naming the file and what is wrong."""
    requests_path = requests_file(path)
    meta_path = requests_path.with_name("meta.json")
    meta, asked = _meta(meta_path), read_times(requests_path)
    try:
        return _served(path.name, meta, asked, cluster)
    except (KeyError, TypeError, AttributeError) as error:
        raise BadTable(
            f"{meta_path}: {error} is missing or no value; see docs/serving.md for what a log says"
        ) from None


def _served(name: str, meta: Mapping[str, Any], asked: RequestTimes, named: str | None) -> ServedLog:
    """What was served; raises KeyError where that is not said, ValueError where it is not known."""
    options = meta["engine_kwargs"]
    model = model_of(str(meta["model"]))
    tp, groups = int(options.get("tensor_parallel_size", 1)), int(options.get("data_parallel_size", 1))
    device = named or (meta.get("hardware") or {}).get("device_name")
    if not device:
        raise BadTable("the log names no device (hardware.device_name of meta.json); say --cluster NAME")
    cluster = catalog.cluster(str(device).removeprefix("NVIDIA "), tp * groups)
    weights, experts = forms_of(str(options.get("quantization") or ""), model, cluster)
    engine = engine_of("vllm", str(meta.get("vllm_version") or _LATEST))
    pool = Pool(
        tp=tp, attention_dp=groups, ep=tp * groups if options.get("enable_expert_parallel") and model.moe else 1,
        token_budget=int(options.get("max_num_batched_tokens") or engine.token_budget),
        max_sequences=int(options.get("max_num_seqs") or engine.max_sequences) * groups,
    )  # fmt: skip
    kv_dtype = "fp8" if str(options.get("kv_cache_dtype", "auto")).startswith("fp8") else "bf16"
    plan = ServingPlan(decode=pool, weights=weights, expert_weights=experts, kv_dtype=kv_dtype)
    stated = (meta.get("kv_cache") or {}).get("num_kv_tokens")
    return ServedLog(name, asked, model, cluster, plan, engine, int(stated) if stated else None)


def _meta(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadTable(f"{path}: a log needs what was served beside it (docs/serving.md): {error}") from None
    if not isinstance(found, dict):
        raise BadTable(f"{path}: not an object of names and values")
    return found


def _compared(measured: Floats, predicted: Floats) -> Iterator[tuple[str, Compared]]:
    yield "mean", Compared(float(np.nanmean(measured)), float(np.nanmean(predicted)))
    for part in PERCENTILES:
        yield f"p{part}", Compared(float(np.nanpercentile(measured, part)), float(np.nanpercentile(predicted, part)))


def _words(pool: Pool) -> str:
    degrees = (("tp", pool.tp), ("ep", pool.ep), ("attention dp", pool.attention_dp))
    return " ".join(f"{name} {value}" for name, value in degrees if value > 1) or "one device"
