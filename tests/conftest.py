"""Shared fixtures and settings: the folder of real data, and a hypothesis profile without deadlines."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("genrec", deadline=None)  # other work on the machine must not fail a test
settings.load_profile("genrec")

REAL_DATA = Path(os.environ.get("GENREC_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data; skip the test if it is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real data in {REAL_DATA}; set GENREC_TEST_DATA to a folder that holds it")
    return REAL_DATA
