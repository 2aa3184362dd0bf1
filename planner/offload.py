"""What a plan moves to the memory of the host, and fetches back when it is needed."""

from enum import IntFlag

from planner.flags import named, names_of


class Offload(IntFlag):
    """Parts of a rank's memory that live on the host [Ren 2021, ZeRO-Offload, arXiv:2101.06840, section 4]."""

    NOTHING = 0
    OPTIMIZER = 1
    """Optimizer states; the host's cores update them. Sharded gradients (ZeRO-2 and 3) go there as they come."""
    ACTIVATIONS = 2
    """What a microbatch keeps between its passes, layer by layer; two layers of it stay, one on its way."""
    PARAMETERS = 4
    """The shards of ZeRO-3, fetched before they are gathered [Rajbhandari 2021, arXiv:2104.07857, section 5]."""

    @classmethod
    def parse(cls, text: str) -> "Offload":
        """The parts named in `text`, separated by commas; raises ValueError listing the names."""
        return named(cls, text, "offload", "nothing")

    @property
    def words(self) -> str:
        """The names, separated by commas; "nothing" if there are none."""
        return names_of(self, "nothing")
