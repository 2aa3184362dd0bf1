"""What the models behind an answer leave out, in the words of a reader who decides by it."""

from meshwise.jobfile import Question
from profiles.mixed import MixedCluster

_ALWAYS = (
    "Figures hold for the software releases that their curves were measured with; other releases may be faster.",
    "Accelerators that nobody measured are priced by pooled curves; the error bar is wider there and says so.",
)
TRAINING = (
    "Loading of data, evaluation and logging are taken to hide behind the steps.",
    "Other jobs on the same network are taken to be quiet, and all devices to be equally fast.",
    "Memory includes fragmentation and buffers as is typical of the software; a plan near capacity may still run out.",
    "Whether the model learns: batch size, precision and compression are taken as given.",
)
NO_FAILURES = "Failures, checkpoints and restarts are not in a step's time; `meshwise simulate --days` plays them."
SERVING = (
    "The network to the users is not modelled; times begin at the engine's front end.",
    "Answers are as long as the load says; the quality of narrower weights has to be evaluated apart.",
    "All devices of a pool are of one kind and equally fast.",
)
BUYING = (
    "Prices are those of the day beside each offer, before tax and discounts; whether devices can be had is not known.",
    "Prices, failure rates and electricity carry no error bars of their own: ranges are of the speed of the run.",
    "Data, people who write the software, and what a late result costs are not on the bill.",
)
HERE = ("Timings are of this machine as it was while they ran; other processes beside them are counted and named.",)


def training_limits(question: Question, *, plays_failures: bool = False) -> tuple[str, ...]:
    """What is left out of a training job's figures."""
    mixed = ("Messages between groups of nodes are priced without contention for the link that joins them.",)
    return (
        *TRAINING,
        *(() if plays_failures else (NO_FAILURES,)),
        *(mixed if isinstance(question.cluster, MixedCluster) else ()),
        *_ALWAYS,
    )


def serving_limits() -> tuple[str, ...]:
    """What is left out of a serving job's figures."""
    return (*SERVING, *_ALWAYS)
