"""The order of tasks that depend on each other: what is submitted when, what a failure leaves out, and what an interrupt does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from genrec import task_graph
from genrec.engines import Report, Task
from genrec.engines.task_reports import interrupted, perform


@dataclass(frozen=True)
class Named:
    """A task that does nothing, or fails."""

    title: str
    fails: bool = False

    def __call__(self) -> str:
        if self.fails:
            raise ValueError(self.title)
        return self.title


class HandFuture:
    """A task that ends when the pool says so."""

    def __init__(self, task: Task) -> None:
        self.task, self.found = task, None

    def done(self) -> bool:
        return self.found is not None

    def report(self) -> Report:
        assert self.found is not None
        return self.found

    def cancel(self) -> None:
        self.found = interrupted()


class HandPool:
    """A pool that ends its oldest task at each look of the scheduler."""

    def __init__(self) -> None:
        self.rounds: list[list[str]] = []
        self.futures: list[HandFuture] = []

    def submit(self, tasks: Sequence[Task]) -> list[HandFuture]:
        self.rounds.append([task.title for task in tasks])
        made = [HandFuture(task) for task in tasks]
        self.futures += made
        return made

    def close(self) -> None:
        pass

    def look(self, seconds: float) -> None:
        future = next(future for future in self.futures if not future.done())
        future.found = perform(future.task)


NEEDS = {"data": set(), "embed": {"data"}, "sft": {"data", "embed"}, "popularity": {"data"}, "align": {"sft"}}


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> HandPool:
    found = HandPool()
    monkeypatch.setattr(task_graph.time, "sleep", found.look)
    return found


def test_a_task_is_submitted_once_all_that_it_needs_is_done(pool: HandPool) -> None:
    ended: list[str] = []

    def on_end(key: str, report: Report) -> bool:
        ended.append(report.value)
        return False

    task_graph.run(pool, NEEDS, Named, on_end)
    assert pool.rounds == [["data"], ["embed", "popularity"], ["sft"], ["align"]]
    assert ended == ["data", "embed", "popularity", "sft", "align"]


def test_what_needs_a_failed_task_is_left_out(pool: HandPool) -> None:
    failed: dict[str, str] = {}

    def on_end(key: str, report: Report) -> bool:
        failed.update({key: report.message} if report.error is not None else {})
        return False

    task_graph.run(pool, NEEDS, lambda key: Named(key, fails=key == "embed"), on_end)
    assert pool.rounds == [["data"], ["embed", "popularity"]]
    assert failed == {"embed": "embed"}


def test_a_task_is_submitted_again_if_others_need_it(pool: HandPool) -> None:
    fails = iter([True, False])
    task_graph.run(pool, {"sft": set()}, lambda key: Named(key, next(fails)), lambda key, report: report.error is not None)
    assert pool.rounds == [["sft"], ["sft"]]


def test_a_task_that_nobody_needs_is_left_out(pool: HandPool) -> None:
    task_graph.run(pool, NEEDS, lambda key: None if key == "embed" else Named(key), lambda key, report: False)
    assert pool.rounds == [["data"], ["popularity"]]


def test_an_interrupt_cancels_what_runs_and_submits_nothing(pool: HandPool, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: dict[str, BaseException | None] = {}

    def on_end(key: str, report: Report) -> bool:
        ended[key] = report.error
        return False

    def looks() -> Callable[[float], None]:
        steps = iter([pool.look, interrupt, lambda seconds: None])
        return lambda seconds: next(steps)(seconds)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(task_graph.time, "sleep", looks())
    with pytest.raises(KeyboardInterrupt):
        task_graph.run(pool, NEEDS, Named, on_end)
    assert pool.rounds == [["data"], ["embed", "popularity"]]
    assert ended.pop("data") is None
    assert {key: type(error) for key, error in ended.items()} == {"embed": KeyboardInterrupt, "popularity": KeyboardInterrupt}
