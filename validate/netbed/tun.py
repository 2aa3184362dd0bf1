"""A link with delay for kernels without netem: forwards packets between TUN devices at their release times.

Each host's device sends and receives at the link's rate, and every packet arrives its latency later. Offloaded
frames of up to 64 KB pass whole, so that forwarding costs a tenth of a core rather than all of one.
"""

import fcntl
import heapq
import os
import selectors
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from validate.netbed.namespace import within

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 0x01, 0x02, 0x04
"""Requests and flags of linux/if_tun.h."""
_HEADER_BYTES = 10
"""virtio_net_hdr, which carries what is left to offload."""
_DESTINATION = slice(_HEADER_BYTES + 16, _HEADER_BYTES + 20)
"""The destination address of an IPv4 packet behind it."""
_MOST_FRAME_BYTES = 65_536 + _HEADER_BYTES
_LONGEST_QUEUE_SECONDS = 0.5
"""Packets that would wait longer are dropped, as a full queue does."""


@dataclass(slots=True)
class _Port:
    """One host's end of the link; times are of `time.monotonic`."""

    file: int
    address: bytes
    sent_until: float = 0.0
    received_until: float = 0.0


@dataclass(slots=True)
class _Line:
    """Packets under way, by release time."""

    bytes_per_second: float
    latency_seconds: float
    ports: dict[bytes, _Port]
    queue: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    num_packets: int = 0

    def take(self, source: _Port, frame: bytes, now: float) -> None:
        """Put a frame on its way: it leaves `source` at the rate, and reaches its target at the rate, later."""
        target = self.ports.get(frame[_DESTINATION])
        if target is None or source.sent_until - now > _LONGEST_QUEUE_SECONDS:
            return
        duration = (len(frame) - _HEADER_BYTES) / self.bytes_per_second
        source.sent_until = max(now, source.sent_until) + duration
        arrival = source.sent_until + self.latency_seconds
        target.received_until = max(arrival, target.received_until + duration)
        self.num_packets += 1
        heapq.heappush(self.queue, (target.received_until, self.num_packets, target.file, frame))

    def release(self, now: float) -> None:
        """Hand over every frame that has arrived by now."""
        while self.queue and self.queue[0][0] <= now:
            _, _, file, frame = heapq.heappop(self.queue)
            try:
                os.write(file, frame)
            except OSError:  # the host is gone, or its queue is full
                continue


def open_device(namespace: str, name: str) -> int:
    """A TUN device called `name` in `namespace`, with offloads; its file."""
    with within(namespace):
        file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(file, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(file, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
    return file


def forward(
    hosts: Sequence[tuple[str, bytes]],
    device: str,
    bytes_per_second: float,
    latency_seconds: float,
    lifeline: Connection,
    ready: Connection,
) -> None:
    """Be the link between `hosts` (namespace, IPv4 address) until `lifeline` closes."""
    ports = {address: _Port(open_device(name, device), address) for name, address in hosts}
    line = _Line(bytes_per_second, latency_seconds, ports)
    watch = selectors.DefaultSelector()
    for port in ports.values():
        watch.register(port.file, selectors.EVENT_READ, port)
    watch.register(lifeline, selectors.EVENT_READ, None)
    ready.send(True)
    while True:
        wait = max(0.0, line.queue[0][0] - time.monotonic()) if line.queue else None
        for key, _ in watch.select(wait):
            if key.data is None:
                return
            _drain(line, key.data)
        line.release(time.monotonic())


def _drain(line: _Line, port: _Port) -> None:
    while True:
        try:
            frame = os.read(port.file, _MOST_FRAME_BYTES)
        except BlockingIOError:
            return
        line.take(port, frame, time.monotonic())


__all__ = ["forward", "open_device"]
