"""What shapes a link: a token bucket for its rate, and netem for its delay where the kernel has it."""

from profiles.units import KIB, MILLI

_BITS_PER_BYTE = 8.0
_BUCKET_SECONDS = 1.0 * MILLI
"""Traffic that passes at once after a pause: long buckets let short messages go free."""
_LEAST_BUCKET_BYTES, _MOST_BUCKET_BYTES = 64 * KIB, 256 * KIB
"""A bucket below one offloaded frame splits each into packets, which costs cores; a larger one lets a message pass."""
_QUEUE_SECONDS = 0.2
"""Longest wait in the queue; TCP fills it, and drops beyond it would measure retransmission."""


def rate_words(device: str, bytes_per_second: float) -> tuple[str, ...]:
    """Words of tc(8) that limit what leaves `device` to `bytes_per_second` [tc-tbf(8)]."""
    bucket = min(max(bytes_per_second * _BUCKET_SECONDS, _LEAST_BUCKET_BYTES), _MOST_BUCKET_BYTES)
    return (
        "qdisc", "add", "dev", device, "root", "handle", "1:", "tbf",
        "rate", f"{bytes_per_second * _BITS_PER_BYTE:.0f}bit",
        "burst", f"{bucket:.0f}b",
        "latency", f"{_QUEUE_SECONDS / MILLI:.0f}ms",
    )  # fmt: skip


def delay_words(device: str, seconds: float) -> tuple[str, ...]:
    """Words of tc(8) that delay what leaves `device`, behind `rate_words` [tc-netem(8)]."""
    return ("qdisc", "add", "dev", device, "parent", "1:1", "netem", "delay", f"{seconds / MILLI:g}ms")
