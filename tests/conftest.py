"""Options and fixtures that tests share."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("meshwise", deadline=None, max_examples=30)  # how long one takes depends on what else runs
settings.register_profile("thorough", parent=settings.get_profile("meshwise"), max_examples=500)
settings.load_profile("meshwise")

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate-golden", action="store_true", help="write the golden files and README outputs anew")


def normalise(text: str) -> str:
    """Output without what differs from run to run: how long a search took, how much a bound saved, blanks at ends."""
    text = re.sub(r"(searched [\d,]+ plans \([\d,]+ splits of the devices\) in )[\d.,]+ m?s", r"\1... s", text)
    text = re.sub(r"[\d,]+ priced in full", "... priced in full", text)
    text = re.sub(r" +[\d,]+ (fit, but their kernels)", r"      ... \1", text)
    text = re.sub(r'("elapsed_seconds": )[-+.\de]+', r"\1 0", text)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip() + "\n"


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Searches are remembered for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MESHWISE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare text with `golden/NAME`, or write that file under --regenerate-golden."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--regenerate-golden"):
            path.write_text(normalise(text))
        assert path.read_text() == normalise(text), (
            f"{path.name} differs; if the new output is right, run pytest --regenerate-golden"
        )

    return compare
