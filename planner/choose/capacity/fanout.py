"""Many clusters at once: each a search of its own, shared out over an executor."""

from collections.abc import Callable, Mapping
from concurrent.futures import Executor, as_completed
from typing import TypeVar

from planner.choose.capacity.pace import NoPace, Pace, pace
from planner.choose.requirements import Scenario

Key = TypeVar("Key")


def find_paces(
    scenarios: Mapping[Key, Scenario],
    executor: Executor | None = None,
    on_found: Callable[[Key, Pace | NoPace], None] = lambda key, found: None,
) -> dict[Key, Pace | NoPace]:
    """The pace of each scenario, in their order; `on_found` hears of each as soon as it is known.

    Without an executor the work is done here. What a search raises is raised, and the rest is cancelled.
    """
    found: dict[Key, Pace | NoPace] = {}
    if executor is None:
        for key, one in scenarios.items():
            found[key] = pace(one)
            on_found(key, found[key])
        return found
    asked = {executor.submit(pace, one): key for key, one in scenarios.items()}
    try:
        for future in as_completed(asked):
            found[asked[future]] = future.result()
            on_found(asked[future], found[asked[future]])
    finally:
        for future in asked:
            future.cancel()
    return {key: found[key] for key in scenarios}
