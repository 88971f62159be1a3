"""Shared fixtures and settings: real data, hypothesis, pictures that runs draw, and tests of libraries that a machine may lack."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

# Other work on the machine must not fail a test: no deadlines, and no limit on the seconds that examples take to generate.
# A property without a number of its own is tried with 200 examples; `make test`, which leaves out the slow tests, tries 30.
settings.register_profile("genrec", deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("genrec"), max_examples=30)
settings.load_profile("genrec")
os.environ["NUMBA_DISABLE_JIT"] = "1"  # ranx, an oracle, would compile for a minute to read short lists; only ranx uses numba
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it in workers; without it a table in a pipe has all columns

REAL_DATA = Path(os.environ.get("GENREC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
LIBRARIES = (
    "faiss",
    "duckdb",
    "tyro",
    "optuna",
    "vl_convert",
)  # a machine with a GPU may lack them; `skip_without_library` skips the tests that need one
COLLECTED = pytest.StashKey[list[str]]()
PICTURE_OF_A_RUN = re.compile(r".+-seed-\d+-[a-z0-9-]+\.png")  # in reports/, one for each training


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of examples before the tests are imported, since their settings begin with those of the profile."""
    if "not slow" in config.option.markexpr:
        settings.load_profile("fast")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data; skip the test if it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data in {REAL_DATA}; set GENREC_TEST_DATA to a folder that holds it")
    return REAL_DATA


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the temporary folder that all workers of pytest-xdist share; without workers, that of the session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def curves_are_drawn() -> list[bool]:
    """Return whether runs draw their training curves, as a list of one value that `drawn_curves` sets."""
    return [False]


@pytest.fixture(scope="session", autouse=True)
def undrawn_curves(curves_are_drawn: list[bool]) -> Iterator[None]:
    """Let `genrec run` write an empty file in place of each picture of training curves: drawing is most of the time of a short run.

    `genrec curves`, other pictures and tests with the fixture `drawn_curves` draw.
    """
    from genrec.training import curve_plots

    draw = curve_plots.draw

    def draw_or_write(runs: Any, title: str, path: Path, *rest: Any, **named: Any) -> None:
        if curves_are_drawn[0] or not PICTURE_OF_A_RUN.fullmatch(path.name):
            draw(runs, title, path, *rest, **named)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curve_plots, "draw", draw_or_write)
        yield


@pytest.fixture
def drawn_curves(curves_are_drawn: list[bool]) -> Iterator[None]:
    """Let runs draw their training curves, as they do for users."""
    curves_are_drawn[0] = True
    yield
    curves_are_drawn[0] = False


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Skip symbolic links, which may lead to another checkout, or around in a circle."""
    return True if collection_path.is_symlink() else None


class MissingLibraries:
    """A finder of modules that finds nothing, and keeps the names of the missing libraries that were imported in vain."""

    def __init__(self, missing: set[str]) -> None:
        self.missing = missing
        self.wanted: set[str] = set()

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> None:
        self.wanted |= {name.partition(".")[0]} & self.missing


def is_missing(library: str) -> bool:
    try:
        return find_spec(library) is None
    except ImportError:
        return True


MISSING = MissingLibraries({library for library in LIBRARIES if is_missing(library)})
if MISSING.missing:
    sys.meta_path.insert(0, MISSING)  # type: ignore[arg-type]


def missing_causes(error: BaseException | None) -> Iterator[str]:
    """Yield the missing libraries among the errors that led to this one, such as that of a fixture of the whole module."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            yield from {error.name.partition(".")[0]} & MISSING.missing
        error = error.__cause__ or error.__context__


def skip_without_library() -> Generator[None, object, object]:
    """Skip a test that fails after it tried to import a library that this machine lacks; elsewhere this changes nothing."""
    try:
        return (yield)
    except (Exception, pytest.fail.Exception) as error:
        libraries = MISSING.wanted | set(missing_causes(error))
        if not libraries:
            raise
        pytest.skip(f"needs {', '.join(sorted(libraries))}, which this machine lacks")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    MISSING.wanted.clear()
    return (yield from skip_without_library())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    return (yield from skip_without_library())


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[COLLECTED] = sorted(library for library in LIBRARIES if library in sys.modules)


@pytest.fixture
def imported_by_collection(request: pytest.FixtureRequest) -> list[str]:
    """Return those of `LIBRARIES` that were imported when the tests had been collected."""
    return request.config.stash[COLLECTED]
