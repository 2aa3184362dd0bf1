"""What this machine is, in words and figures, without torch."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from profiles.units import GIB
from validate.launch import num_cores


def machine_words() -> str:
    """Processor, cores, memory and system."""
    return f"{processor()}, {num_cores()} cores, {host_memory_bytes() / GIB:.0f} GiB, {platform.system()}"


def processor() -> str:
    """The processor as it calls itself."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def host_memory_bytes() -> float:
    """Memory of the host."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def torch_version() -> str:
    """The torch that ranks will import; empty where there is none."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return ""
