"""To how many places a token travels that several experts want."""

from dataclasses import dataclass
from typing import Any

import numpy as np

Numbers = Any
"""A float or an array."""


@dataclass(frozen=True, slots=True)
class Routing:
    """`num_choices` different experts of a token, in at most `num_chosen_groups` of `num_groups` equal groups of
    experts that lie side by side; by default all are one group."""

    num_choices: float
    num_groups: float = 1.0
    num_chosen_groups: float = 1.0

    def ports_reached(self, num_ports: Numbers) -> Numbers:
        """Of N equal ports that the experts lie behind (ranks, or nodes), those that a token's experts are behind.

        Chosen alike, k experts of N ports reach N (1 - (1 - 1/N)**k) in the mean. With G groups on N/G ports each, g
        of them hold k/g experts each; where a port holds several groups, the g groups reach ports as experts do
        [DeepSeek-AI 2024, arXiv:2412.19437, section 2.1.2, node-limited routing].
        """
        inside = np.maximum(num_ports / self.num_groups, 1.0)
        drawn = _reached(num_ports / inside, self.num_chosen_groups)
        bundles = np.where(num_ports >= self.num_groups, self.num_chosen_groups, drawn)
        return bundles * _reached(inside, self.num_choices / self.num_chosen_groups)


def _reached(num_ports: Numbers, num_draws: Numbers) -> Numbers:
    """Different ports that so many independent draws reach: N (1 - (1 - 1/N)**k)."""
    return num_ports * (1.0 - (1.0 - 1.0 / num_ports) ** num_draws)
