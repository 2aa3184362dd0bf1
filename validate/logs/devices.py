"""What drivers call devices, and what the catalog calls them."""

import re

_MAKERS = re.compile(r"^(NVIDIA|AMD Instinct|AMD|Tesla|Intel)\s+", re.IGNORECASE)


def without_maker(device_name: str) -> str:
    """A driver's name of a device as the catalog knows it: "NVIDIA H100 80GB HBM3" -> "H100 80GB HBM3"."""
    return _MAKERS.sub("", device_name)
