"""Whether this machine lets a process make networks, and if not, why."""

import os
import shutil
import sys
from functools import cache

from profiles.units import GIGA
from validate.netbed.names import PREFIX, remove, sweep
from validate.netbed.shape import rate_words
from validate.netbed.shell import NetBedError, ip, tc


@cache
def why_not() -> str:
    """Why no test bed can be made here, in one sentence; empty when one can."""
    if sys.platform != "linux":
        return f"network namespaces are Linux's, this is {sys.platform}"
    if os.geteuid():
        return "network namespaces need root"
    for program in ("ip", "tc"):
        if shutil.which(program) is None:
            return f"{program} is not installed (package iproute2)"
    return _try_one()


def _try_one() -> str:
    """Make a namespace with a shaped link, and remove it."""
    sweep()
    name = f"{PREFIX}-{os.getpid()}-trial"
    try:
        ip("netns", "add", name)
        ip("-n", name, "link", "add", "trial", "type", "veth", "peer", "name", "other")
        ip("-n", name, "link", "add", "switch", "type", "bridge")
        tc(name, *rate_words("trial", GIGA))
    except NetBedError as error:
        return f"this kernel or container does not allow it ({error})"
    finally:
        remove([name])
    return ""


@cache
def has_netem() -> bool:
    """Whether the kernel can delay packets (netem)."""
    name = f"{PREFIX}-{os.getpid()}-netem"
    try:
        ip("netns", "add", name)
        tc(name, "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms")
    except NetBedError:
        return False
    finally:
        remove([name])
    return True
