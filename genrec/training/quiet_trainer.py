"""Lightning's trainer without its own logs, and with this process's signal handlers restored."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytorch_lightning as lightning
import torch

from genrec.precision import Resolved


@contextmanager
def restored_signal_handlers() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM on exit. Lightning may leave its own behind."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def quiet_trainer(precision: Resolved, steps: int, callback: lightning.Callback) -> lightning.Trainer:
    """Return a trainer on one device that runs `steps` steps, without logs and bars of its own."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    return lightning.Trainer(
        max_steps=steps,
        accelerator="auto",
        devices=[torch.cuda.current_device()] if torch.cuda.is_available() else 1,
        precision=precision,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
