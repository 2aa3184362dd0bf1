"""One collective alone on a network: how long its own routes keep the busiest link busy."""

import numpy as np

from planner.cost.collectives import members_within, reached_fractions
from profiles.cluster import Cluster
from simulator.network.build import Network
from simulator.network.loads import group_loads


def seconds_per_byte(
    collective: str, size: int, stride: int, cluster: Cluster, network: Network, library: str = ""
) -> float:
    """Seconds that the busiest link is busy for each byte of `collective` among `size` ranks at distance `stride`.

    Arguments as in `planner.cost.collectives.message_seconds`. On a network whose links are what the tiers of `cluster`
    say, times the bytes this is at most that price.
    """
    members = members_within(float(size), float(stride), cluster)
    fractions = np.array(reached_fractions(collective, members, cluster.tiers, library=library))
    load = group_loads(network, cluster, collective, np.arange(size)[None] * stride)
    of_link = fractions[[part.tiers[-1] for part in network.parts]][network.part_of]
    return float((load / network.links.bytes_per_second / of_link).max(initial=0.0))
