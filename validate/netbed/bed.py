"""Hosts of one machine, joined by a network of chosen rate and latency.

Each host is a namespace with one device; all hang on a switch. Rates hold in both directions of every host's link.
All of it is removed on leaving, also after a failure; what a killed process left is swept by the next bed.
"""

import itertools
import multiprocessing
import os
import socket
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from validate.launch import Body, Report, launch_local
from validate.netbed.names import host_name, remove, sweep
from validate.netbed.namespace import enter
from validate.netbed.permission import has_netem, why_not
from validate.netbed.shape import delay_words, rate_words
from validate.netbed.shell import NetBedError, ip, tc
from validate.netbed.tun import forward

DEVICE = "bed0"
"""The device of every host."""
_NETWORK = "198.18.0"
"""Addresses reserved for benchmarks [RFC 2544, appendix C.2.2]; they never leave the namespaces."""
_MOST_HOSTS = 16
_START_SECONDS = 20.0
_BEDS = itertools.count()


class NetBed:
    """`num_hosts` hosts whose links carry `bytes_per_second` each way and take `latency_seconds` one way.

    A context manager. `launch` runs ranks on the hosts and has the signature of `validate.launch.launch_local`.
    Raises NetBedError where the machine does not allow it, and ValueError for figures that make no network.
    """

    def __init__(self, num_hosts: int, bytes_per_second: float, latency_seconds: float = 0.0) -> None:
        if not 2 <= num_hosts <= _MOST_HOSTS:
            raise ValueError(f"num_hosts: must be 2 to {_MOST_HOSTS}, got {num_hosts}")
        if not bytes_per_second > 0.0 or not latency_seconds >= 0.0:
            raise ValueError(f"a link needs a positive rate and a latency of at least 0, got {bytes_per_second:g} "
                             f"bytes/s and {latency_seconds:g} s")  # fmt: skip
        number = next(_BEDS)
        self.bytes_per_second, self.latency_seconds = bytes_per_second, latency_seconds
        self.hosts = tuple(host_name(os.getpid(), number, host) for host in range(num_hosts))
        self._switch = host_name(os.getpid(), number, "switch")
        self._forwarder: Any = None
        self._lifeline: Connection | None = None

    def __enter__(self) -> "NetBed":
        reason = why_not()
        if reason:
            raise NetBedError(f"no test bed here: {reason}")
        sweep()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove every trace; safe to call again."""
        if self._lifeline is not None:
            self._lifeline.close()
            self._forwarder.join(_START_SECONDS)
            self._lifeline = self._forwarder = None
        remove([*self.hosts, self._switch])

    def launch(self, body: Body, values: dict[str, Any], num_ranks: int, **options: Any) -> list[dict[str, Any]]:
        """Run `body` on `num_ranks` ranks, equally many in order on each host; see `validate.launch.launch_local`.

        Raises ValueError when the ranks do not fill the hosts equally, and LaunchError as that does.
        """
        if num_ranks % len(self.hosts) and num_ranks != 1:
            raise ValueError(f"num_ranks: {num_ranks} are not equally many on {len(self.hosts)} hosts")
        return launch_local(partial(run_on_host, body, self.hosts), values, num_ranks, **options)

    def _make(self) -> None:
        for name in self.hosts:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        if self.latency_seconds and not has_netem():
            self._start_forwarder()
        else:
            self._make_switch()
        for index, name in enumerate(self.hosts):
            ip("-n", name, "address", "add", f"{address(index)}/24", "dev", DEVICE)
            ip("-n", name, "link", "set", DEVICE, "up")

    def _make_switch(self) -> None:
        """A bridge with one port a host; what leaves a host, and what leaves the port to it, are shaped."""
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", self._switch, "link", "set", "bridge", "up")
        for index, name in enumerate(self.hosts):
            port = f"port{index}"
            peer = ("peer", "name", DEVICE, "netns", name)
            ip("-n", self._switch, "link", "add", port, "type", "veth", *peer)
            ip("-n", self._switch, "link", "set", port, "master", "bridge", "up")
            tc(self._switch, *rate_words(port, self.bytes_per_second))
            tc(name, *rate_words(DEVICE, self.bytes_per_second))
            if self.latency_seconds:
                tc(name, *delay_words(DEVICE, self.latency_seconds))

    def _start_forwarder(self) -> None:
        """A process that is the link: it ends with the pipe to it, and with it the devices."""
        context = multiprocessing.get_context("spawn")
        theirs, ours = context.Pipe(duplex=False)
        told, tell = context.Pipe(duplex=False)
        hosts = [(name, socket.inet_aton(address(index))) for index, name in enumerate(self.hosts)]
        arguments = (hosts, DEVICE, self.bytes_per_second, self.latency_seconds, theirs, tell)
        self._forwarder = context.Process(target=forward, args=arguments, daemon=True)
        self._forwarder.start()
        self._lifeline = ours
        theirs.close()
        tell.close()
        try:
            if not told.poll(_START_SECONDS) or not told.recv():
                raise NetBedError("the link's process did not start")
        except EOFError:
            raise NetBedError("the link's process ended at once; is /dev/net/tun usable?") from None


def address(host: int) -> str:
    """The address of the host number `host`."""
    return f"{_NETWORK}.{host + 1}"


def run_on_host(body: Body, hosts: tuple[str, ...], values: dict[str, Any], report: Report) -> dict[str, Any]:
    """`body` as the rank of this process, from within its host; ranks fill the hosts in order."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    share = max(1, world // len(hosts))
    enter(hosts[rank // share])
    os.environ.update({"MASTER_ADDR": address(0), "GLOO_SOCKET_IFNAME": DEVICE})
    return body(values, report)


__all__ = ["DEVICE", "NetBed", "address", "run_on_host"]
