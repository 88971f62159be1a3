"""Lets a training signal itself at its third step; for experiment files that the tests run in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from genrec.training import lightning_module, loop
from genrec.training.schedule import Schedule

COMMAND = "GENREC_TEST_COMMAND"  # the process of the command: it sets this variable, and its workers take it over


def install() -> None:
    """Save a checkpoint at each step, and send the signal of the data folder's file `signal-NUMBER`, which is then removed.

    The first training that comes to step 3 gets it: SIGKILL itself, any other signal the process of the command.
    """
    command = int(os.environ.setdefault(COMMAND, str(os.getpid())))
    learning_rate = lightning_module.learning_rate

    def signalled(plan: Schedule, step: int) -> float:
        for file in list(Path(os.environ["GENREC_HOME"]).glob("signal-*")) if step == 3 else []:
            try:
                file.unlink()
            except FileNotFoundError:  # another training was first
                continue
            number = int(file.name.partition("-")[2])
            os.kill(os.getpid() if number == signal.SIGKILL else command, number)
        return learning_rate(plan, step)

    lightning_module.learning_rate, loop.CHECKPOINT_SECONDS, loop.LOG_EVERY = signalled, -1.0, 1
