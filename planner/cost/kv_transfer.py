"""Keys and values on their way from the devices that ran a prompt to those that go on with it."""

from planner.cost.kv import ServingMemory
from profiles import catalog
from profiles.cluster import Tier


def seconds_per_token(sender: ServingMemory, receiver: ServingMemory, sending: Tier, receiving: Tier) -> float:
    """Of one token's keys and values between two replicas, whose devices all send and receive at once.

    The side whose devices have more to move, or slower links, sets the pace: max of bytes over rate [Zhong 2024,
    DistServe, arXiv:2401.09670, section 3.3].
    """
    return max(
        sender.kv_bytes_per_token / sending.usable_bytes_per_second,
        receiver.kv_bytes_per_token / receiving.usable_bytes_per_second,
    )


def joining_tier(cluster: str, num_devices: int, *, leaves: bool) -> Tier:
    """The links by which devices of the cluster called so (or of a file) reach another pool.

    Those that join `num_devices` of it, or, where the other pool is on another cluster (`leaves`), that leave hosts.

    Raises ValueError for a cluster whose hosts nothing joins.
    """
    per_host = catalog.devices_per_host(catalog.cluster_spec(cluster))
    if leaves:
        num_devices = max(num_devices, 2 * per_host)
    hosts = -(-num_devices // per_host)
    return catalog.cluster(cluster, hosts * per_host).tiers[-1]
