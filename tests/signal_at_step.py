"""Lets a training signal itself at its third step; for experiment files that the tests run in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from genrec.training import lightning_module, loop
from genrec.training.schedule import Schedule


def install() -> None:
    """Save a checkpoint at each step, and send the signal of the data folder's file `signal-NUMBER`, which is then removed.

    The first training that comes to step 3 gets it: SIGKILL itself, any other signal the process that has started it.
    """
    learning_rate = lightning_module.learning_rate

    def signalled(plan: Schedule, step: int) -> float:
        for file in list(Path(os.environ["GENREC_HOME"]).glob("signal-*")) if step == 3 else []:
            try:
                file.unlink()
            except FileNotFoundError:  # another training was first
                continue
            number = int(file.name.partition("-")[2])
            os.kill(os.getpid() if number == signal.SIGKILL else os.getppid(), number)
        return learning_rate(plan, step)

    lightning_module.learning_rate, loop.CHECKPOINT_SECONDS, loop.LOG_EVERY = signalled, -1.0, 1
