"""Test ids that are the same in every process, so that pytest-xdist collects the same tests in all workers."""

from __future__ import annotations

import re


def stable_id(value: object) -> str:
    """Return the text of a parameter without the memory addresses in it."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
