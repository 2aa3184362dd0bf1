"""Files of serving jobs: `[job]` with kind = "serving", `[load]`, `[targets]`, and a `[[serving]]` for each model.

Keys may be in vendor units (`ttft_ms`); records hold SI.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from meshwise.serving.capacity.table import ServingCapacityTable
from profiles.files import BadFile, read_table, validated
from profiles.record import Count, Fraction, NonNegative, Positive, Record

Name = Annotated[str, Field(min_length=1, max_length=4096)]
Law = Literal["fixed", "poisson", "bursty", "diurnal"]
Router = Literal["round-robin", "least-loaded", "prefix-aware"]


class RoomTable(Record):
    """Devices of one kind: of `[job]`, and of each `[[job.others]]`."""

    cluster: Name
    devices: Count | None = None
    """Accelerators there are; None: as many as are used, and for a search those of the catalog's cluster."""
    dollars_per_device_hour: Positive | None = None
    """None: not known, and devices are counted instead."""


class ServingJobTable(RoomTable):
    """The `[job]` table."""

    kind: Literal["serving"]
    cluster: str = ""
    """"" only where offers say what there is (`meshwise capacity`)."""
    others: tuple[RoomTable, ...] = ()
    """Clusters beside that one, on which pools may lie."""

    @property
    def rooms(self) -> tuple[RoomTable, ...]:
        """All kinds of devices, its own first."""
        return (self, *self.others)


class LoadTable(Record):
    """The `[load]` table: which requests arrive when. Lengths alone ask a search for the highest rate."""

    trace: Name | None = None
    """A file of requests; its lengths are taken, and its times unless a rate or a concurrency is given."""
    requests: Count | None = None
    """How many; of a trace the first so many."""
    requests_per_second: Positive | None = None
    arrivals: Law = "poisson"
    variation_factor: Positive | None = None
    """Of bursty arrivals: standard deviation over mean of their distances."""
    peak_ratio: Annotated[float, Field(ge=1.0, le=2.0)] | None = None
    """Of diurnal arrivals: highest rate over mean rate."""
    period_seconds: Positive | None = None
    """Of diurnal arrivals."""
    concurrency: Count | None = None
    """Clients of a closed loop, who wait for an answer before they ask again."""
    ramp_seconds: NonNegative = 0.0
    think_seconds: NonNegative = 0.0
    warmup: Annotated[int, Field(ge=0)] = 0
    """Requests before those that count."""
    input_tokens: Count | None = None
    input_spread_fraction: NonNegative = 0.0
    """Standard deviation over mean of log-normal lengths."""
    output_tokens: Count | None = None
    output_spread_fraction: NonNegative = 0.0
    shortest_fraction: Fraction | None = None
    """Lengths are uniform between this share of those stated and all of it, as benchmarks of engines draw them."""
    cached_fraction: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of every prompt that is found in a cache; a trace with named blocks says so itself."""
    seed: Annotated[int, Field(ge=0)] = 0
    runs: Annotated[int, Field(ge=1, le=100)] = 1
    """Simulations with seeds from `seed` on, whose range is shown."""

    @model_validator(mode="after")
    def _is_one_load(self) -> "LoadTable":
        if self.requests_per_second is not None and self.concurrency is not None:
            raise ValueError("requests_per_second and concurrency exclude one another: an open loop or a closed one")
        if self.trace is None:
            if self.input_tokens is None or self.output_tokens is None:
                raise ValueError("input_tokens and output_tokens are needed where no trace gives lengths")
        elif self.input_tokens is not None or self.output_tokens is not None:
            raise ValueError("input_tokens and output_tokens are those of the trace; leave them out")
        for field, law in (("variation_factor", "bursty"), ("peak_ratio", "diurnal"), ("period_seconds", "diurnal")):
            if getattr(self, field) is not None and (self.arrivals != law or self.requests_per_second is None):
                raise ValueError(f"{field} is for arrivals = {law!r} at a rate (requests_per_second)")
        if self.concurrency is None and (self.ramp_seconds or self.think_seconds or self.warmup):
            raise ValueError("ramp_seconds, think_seconds and warmup are for a closed loop (concurrency)")
        drawn = self.input_spread_fraction or self.output_spread_fraction
        if drawn and (self.trace is not None or self.shortest_fraction is not None):
            raise ValueError("spreads are for lengths that are not given otherwise (trace, shortest_fraction)")
        return self


class TargetsTable(Record):
    """The `[targets]` table: what a request is to stay within; None: no matter."""

    ttft_seconds: Positive | None = None
    tpot_seconds: Positive | None = None
    e2e_seconds: Positive | None = None
    attained_fraction: Fraction = 0.99
    """Share of requests that must."""


class ScalingTable(Record):
    """Autoscaling of a pool: `simulator.serving.scaling.Autoscaling`."""

    least: Count = 1
    most: Count
    requests_per_replica: Positive
    startup_seconds: NonNegative
    interval_seconds: Positive = 15.0
    quiet_seconds: NonNegative = 300.0


class FailureTable(Record):
    """A replica that is lost at a time."""

    at_seconds: NonNegative
    repair_seconds: NonNegative
    replica: Annotated[int, Field(ge=0)] = 0


class PoolTable(Record):
    """Replicas of one kind."""

    replicas: Count = 1
    tp: Count = 1
    pp: Count = 1
    ep: Count = 1
    attention_dp: Count = 1
    token_budget: Count | None = None
    """None: the engine's."""
    max_sequences: Count | None = None
    device_fraction: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """Of its devices' time and memory that a replica has, beside another model's."""
    cluster: Name | None = None
    """One of the job's; None: its first, and of a pool for prompts that of the pool that decodes."""
    router: Router = "round-robin"
    scaling: ScalingTable | None = None
    failures: tuple[FailureTable, ...] = ()


class ServedTable(PoolTable):
    """A `[[serving]]` table: one model and how it is served; its own pool decodes, and runs prompts too unless
    `prefill` does."""

    name: Name | None = None
    """None: the model's."""
    model: Name
    variant: Name | None = None
    """A smaller relative of the model (`meshwise profiles list variants`, or a .toml)."""
    engine: Name = "vllm"
    weights: Name = "bf16"
    expert_weights: str = ""
    kv_dtype: Name = "bf16"
    draft_tokens: Annotated[int, Field(ge=0, le=16)] = 0
    """Guessed ahead by heads of the model's own (MTP) for each running request."""
    acceptance_fraction: Fraction = 0.0
    """Chance that a guess is right, given that those before it are."""
    draft_model: Name | None = None
    """A smaller model of the same vocabulary that guesses; None: heads of the model's own."""
    eager: bool = False
    """Kernels are launched one by one, not as captured graphs."""
    preemption: Literal["recompute", "swap"] = "recompute"
    prefill: PoolTable | None = None

    @property
    def has_failures(self) -> bool:
        """Whether a replica of any pool is lost."""
        return bool(self.failures or (self.prefill and self.prefill.failures))

    @model_validator(mode="after")
    def _guesses_are_whole(self) -> "ServedTable":
        if bool(self.draft_tokens) != bool(self.acceptance_fraction):
            raise ValueError("draft_tokens and acceptance_fraction go together: how many guesses, and how often right")
        if self.draft_model is not None and not self.draft_tokens:
            raise ValueError(
                "draft_model: says who guesses; give draft_tokens and acceptance_fraction, how many and how well"
            )
        return self


class StepTable(Record):
    """A `[[task.step]]` table: one request of a task; `simulator.serving.chains.Step`."""

    serving: Name
    """The name of the `[[serving]]` table that answers it."""
    takes: Literal["answer", "question", "all"] = "answer"
    added_tokens: Annotated[int, Field(ge=0)] = 0
    output_tokens: Count | None = None
    """None: as `[load]` says."""
    output_spread_fraction: NonNegative = 0.0


class TaskTable(Record):
    """A `[[task]]` table: what some of the requests are, step after step."""

    name: Name
    share: Positive = 1.0
    """Of all requests, in proportion to the shares of all tasks; a trace with these names as tenants says it itself."""
    step: Annotated[tuple[StepTable, ...], Field(min_length=1)]
    targets: TargetsTable | None = None
    """Of this task; None: those of the job."""


class ServingFile(Record):
    """A whole file."""

    job: ServingJobTable
    load: LoadTable
    serving: Annotated[tuple[ServedTable, ...], Field(min_length=1)]
    targets: TargetsTable = TargetsTable()
    task: tuple[TaskTable, ...] = ()
    capacity: ServingCapacityTable | None = None
    """What `meshwise capacity` is asked; other verbs leave it."""
    offers: tuple[dict[str, Any], ...] = ()
    """Of one's own (`profiles.prices`), for `meshwise capacity`."""

    @model_validator(mode="after")
    def _tasks_use_what_is_served(self) -> "ServingFile":
        names = [table.name or table.model for table in self.serving]
        if len(set(names)) < len(names):
            raise ValueError(f"serving: names must differ, got {', '.join(names)}; give each table a name")
        used = [step.serving for task in self.task for step in task.step]
        for name in used:
            if name not in names:
                raise ValueError(f"task.step.serving: {name!r} is not one of {', '.join(names)}")
        idle = [name for name in names if name not in used]
        if idle and (self.task or len(names) > 1):
            raise ValueError(f"serving: no [[task]] has a step for {', '.join(idle)}")
        if len({task.name for task in self.task}) < len(self.task):
            raise ValueError("task: names must differ")
        return self

    @model_validator(mode="after")
    def _pools_lie_on_clusters_of_the_job(self) -> "ServingFile":
        known = [room.cluster for room in self.job.rooms]
        if len(set(known)) < len(known):
            raise ValueError(f"job.others: clusters must differ, got {', '.join(known)}")
        for pool in (one for table in self.serving for one in (table, table.prefill) if one is not None):
            if pool.cluster is not None and pool.cluster not in known:
                raise ValueError(f"cluster: {pool.cluster!r} is not one of the job's ({', '.join(known)})")
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_table_is_a_list(cls, values: Any) -> Any:
        """`[serving]` is `[[serving]]` for a single model."""
        if isinstance(values, dict) and isinstance(values.get("serving"), dict):
            return {**values, "serving": [values["serving"]]}
        return values


def is_serving(path: Path | None) -> bool:
    """Whether `path` is a job file with kind = "serving"; raises BadFile where it is no file of tables."""
    if path is None:
        return False
    job = read_table(path).get("job")
    return isinstance(job, dict) and job.get("kind") == "serving"


def refuse_options(options: Mapping[str, Any]) -> None:
    """Raise ValueError for options of training jobs, which would change nothing."""
    for name in options:
        raise ValueError(f"{name.replace('_', '-')}: an option of training jobs; a serving job states all in its file")


def read(path: Path, *, needs_cluster: bool = True) -> ServingFile:
    """The serving job in `path`, with paths relative to it. Raises BadFile naming every faulty field."""
    file = validated(ServingFile, read_table(path), path)
    if needs_cluster and not file.job.cluster:
        raise BadFile(f"{path}: job.cluster: none given; name one, or ask `meshwise capacity` which")
    if file.load.trace is not None:
        load = file.load.model_copy(update={"trace": str(path.parent / file.load.trace)})
        file = file.model_copy(update={"load": load})
    served = tuple(
        table.model_copy(
            update={
                name: _beside(path, getattr(table, name))
                for name in ("model", "engine", "variant", "draft_model")
                if name in table.model_fields_set and getattr(table, name) is not None
            }
        )
        for table in file.serving
    )
    return file.model_copy(update={"serving": served})


def _beside(path: Path, name: str) -> str:
    """A file name relative to the job file's folder; other names as they are."""
    return str(path.parent / name) if name.lower().endswith((".toml", ".json")) else name
