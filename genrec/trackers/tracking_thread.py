"""The thread in which a tracker is called, so that neither its errors nor its waiting reach the training.

What a tracker has received is kept in a file, so a row that is resumed goes on in the same tracked run, and no point is sent twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from genrec.progress import say
from genrec.store import hash_of, write_json
from genrec.types.tracking import TrackedRow, TrackedRun, Tracker

CLOSE_SECONDS = 60.0  # time that a tracker may take at the end of a row for what it has not sent

Call = Callable[[], None]


class TrackingThread:
    """Passes a row's curves and metrics on to one tracker, in order. After the first error one warning is logged and nothing is sent.

    - `title`: the tracker's name, for messages.
    - `state`: the file with the run's identifier and the last step of each stage.
    - `keys`: the key of each stage; another key means another training, which gets a run of its own.
    - `anew`: start a new run in any case.
    """

    def __init__(self, tracker: Tracker, title: str, row: TrackedRow, keys: Mapping[str, str], state: Path, anew: bool) -> None:
        self.title, self.row, self.state_file, self.error = title, row, state, ""
        self._state: dict[str, Any] = {"keys": dict(keys), "run": None, "steps": {}, "points": 0, "metrics": ""}
        self._anew = anew
        self._run: TrackedRun | None = None
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=f"genrec tracker {title}", daemon=True)
        self._calls.put(lambda: self._start(tracker))
        self._thread.start()

    def log(self, stage: str, curve_row: Mapping[str, float]) -> None:
        """Pass on a row of a stage's curves, unless the tracker has received its step."""
        values = {name: float(value) for name, value in curve_row.items() if name != "step" and math.isfinite(value)}
        step = int(curve_row["step"])
        self._calls.put(lambda: self._log(stage, step, values))

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Pass on the metrics of the test, unless the tracker has received the same."""
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        self._calls.put(lambda: self._finish(finite))

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """End the session; wait for the tracker up to `seconds`."""
        self._calls.put(self._close)
        self._calls.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._fail(f"it has not finished in {seconds:.0f} s")

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            if self.error:
                continue
            try:
                call()
            except BaseException as error:  # SystemExit of a tracker would end its thread without a word
                self._fail(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _fail(self, why: str) -> None:
        if not self.error:
            self.error = why
            say(
                f"{self.title} no longer tracks {self.row.name} (seed {self.row.seed}) and what follows it: {why}; the training goes "
                "on, and its curves are stored as always"
            )

    def _start(self, tracker: Tracker) -> None:
        before = None if self._anew else self._read()
        if before is not None:
            self._state = before
        self._run = tracker.start(self.row._replace(points=self._state["points"]), self._state["run"])
        if self._run.identifier() != self._state["run"]:  # a new run, also where the tracker has lost the earlier one
            self._state |= {"run": self._run.identifier(), "steps": {}, "points": 0, "metrics": ""}
        self._save()

    def _log(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        assert self._run is not None
        if values and step > self._state["steps"].get(stage, -1):
            self._run.log(stage, step, values)
            self._state["steps"][stage] = step
            self._state["points"] += 1
            self._save()

    def _finish(self, metrics: Mapping[str, float]) -> None:
        assert self._run is not None
        found = hash_of(metrics)
        if found != self._state["metrics"]:
            self._run.finish(metrics)
            self._state["metrics"] = found
            self._save()

    def _close(self) -> None:
        assert self._run is not None
        self._run.close()

    def _save(self) -> None:
        self.state_file.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.state_file, self._state)

    def _read(self) -> dict[str, Any] | None:
        """Return the state of an earlier session with the same trainings, or None. A file of another form counts as none."""
        try:
            found = json.loads(self.state_file.read_text(encoding="utf-8"))
            fits = found["keys"] == self._state["keys"] and isinstance(found["run"], str) and isinstance(found["metrics"], str)
            fits = fits and all(isinstance(step, int) for step in (found["points"], *found["steps"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return found if fits else None
