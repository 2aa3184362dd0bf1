"""Runs ip(8) and tc(8), and turns their complaints into one sentence."""

import subprocess

_TIMEOUT_SECONDS = 20.0


class NetBedError(ValueError):
    """A network that could not be made: one sentence."""


def run(*words: str) -> str:
    """What the command printed; raises NetBedError with its own complaint."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NetBedError(f"{' '.join(words)}: {error}") from None
    if done.returncode:
        complaint = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise NetBedError(f"{' '.join(words)}: {complaint[0]}")
    return done.stdout


def ip(*words: str) -> str:
    """`ip WORDS`."""
    return run("ip", *words)


def tc(namespace: str, *words: str) -> str:
    """`tc WORDS` within `namespace`."""
    return run("tc", "-n", namespace, *words)
