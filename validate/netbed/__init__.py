"""A test bed with a real network on one machine: hosts that are network namespaces, joined by links of chosen rate.

`NetBed` makes it and removes it; `why_not` says why a machine cannot have one.
"""

from validate.netbed.bed import NetBed
from validate.netbed.permission import why_not

__all__ = ["NetBed", "why_not"]
