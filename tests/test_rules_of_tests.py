"""Rules of the tests themselves: they depend on no clock, on no other test's address in memory, and are the same in all workers."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
CLOCK = {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "process_time", "sleep"}


def test_hypothesis_has_no_deadline_and_no_limit_on_seconds() -> None:
    assert settings.default.deadline is None
    assert HealthCheck.too_slow in settings.default.suppress_health_check


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_depends_on_a_clock(path: Path) -> None:
    """Seconds are those of the machine and its load: count operations, replace the clock, or wait without a limit."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        if isinstance(called, ast.Attribute) and ast.unparse(called.value) == "time" and called.attr in CLOCK:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        for keyword in node.keywords:
            value = ast.unparse(keyword.value)
            limit = keyword.arg in ("timeout", "deadline") and value != "None"
            checks = keyword.arg == "suppress_health_check" and "too_slow" not in value and value != "list(HealthCheck)"
            if limit or checks:
                found.append(f"line {node.lineno}: {keyword.arg}={value}")
    assert found == []


def test_names_of_tests_hold_no_addresses(request: pytest.FixtureRequest) -> None:
    """pytest-xdist refuses to run tests that have other names in each worker."""
    assert [item.nodeid for item in request.session.items if re.search(r"\b0x[0-9a-f]{6,}", item.nodeid)] == []


def test_symbolic_links_are_not_collected(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(TESTS)
    ignore = request.config.hook.pytest_ignore_collect
    assert ignore(collection_path=tmp_path / "link", config=request.config) is True
    assert not ignore(collection_path=TESTS, config=request.config)
