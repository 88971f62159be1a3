"""One stage of one experiment as a task for a worker process."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from genrec import live_runs, pipeline, progress
from genrec.errors import InputError, UsageError
from genrec.experiment import Experiment
from genrec.workspace import home

Origin = Callable[[], Sequence[Experiment]]  # makes the list of experiments in any process; a frozen value that can be pickled
VARIABLE = "GENREC_"  # environment variables that begin with it are those of the parent process in every worker


@dataclass(frozen=True)
class Surroundings:
    """What a worker process takes over from the process that started it."""

    folder: str  # the current folder, from which the paths of an experiment count
    variables: tuple[tuple[str, str], ...]  # environment variables of genrec

    @staticmethod
    def here() -> Surroundings:
        """Return those of this process. The data folder is an absolute path."""
        found = {name: value for name, value in os.environ.items() if name.startswith(VARIABLE)}
        found["GENREC_HOME"] = str(home().absolute())
        return Surroundings(str(Path.cwd()), tuple(sorted(found.items())))

    def enter(self) -> None:
        """Make them those of this process. Raises UsageError if this machine does not have the folder."""
        if not Path(self.folder).is_dir():
            raise UsageError(f"{socket.gethostname()} has no folder {self.folder}; run from a folder that all machines share")
        os.chdir(self.folder)
        os.environ.update(self.variables)


@dataclass(frozen=True)
class Given:
    """Experiments that Python code has made."""

    experiments: tuple[Experiment, ...]

    def __call__(self) -> Sequence[Experiment]:
        """Return the experiments."""
        return self.experiments


@dataclass(frozen=True)
class StageTask:
    """Builds the artifact of one stage. All stages that it reads are done."""

    origin: Origin
    number: int  # place of the experiment among those of the origin, from 0
    name: str  # of the row
    seed: int
    stage: str
    key: str  # of the artifact
    place: tuple[int, int]  # of the row and seed in the list of the command, from 1, and the length of the list
    anew: bool  # build again what is done
    command: str  # resumes the run
    surroundings: Surroundings

    @property
    def title(self) -> str:
        """The work in words."""
        return f"{self.stage} of {self.name} (seed {self.seed})"

    def __call__(self) -> float:
        """Build the artifact and return the processor seconds that this took.

        Raises InputError if the experiment's key of the stage is another one in this process.
        """
        before = time.process_time()
        experiment, steps = planned_here(self.surroundings, self.origin, self.number, self.stage, self.key)
        keys = {step.stage: step.key for step in steps}
        refresh, known = self.stage if self.anew else None, set(keys.values()) - {self.key}
        with live_runs.recorded(self.command) as recorder, progress.labeled(f"{self.name} (seed {self.seed})"):
            recorder.row(*self.place, self.name, self.seed, keys, self.stage)
            pipeline.run(experiment, refresh, known, last=self.stage, alone=True)
        return time.process_time() - before


def planned_here(
    surroundings: Surroundings, origin: Origin, number: int, stage: str, key: str
) -> tuple[Experiment, list[pipeline.Step]]:
    """Enter the surroundings of a task about a stage, and return its experiment, `number` of the origin, with the experiment's stages.

    Raises InputError if the stage has another key in this process than in that of the command.
    """
    surroundings.enter()
    experiment = origin()[number]
    steps = pipeline.plan(experiment)
    found = next((step.key for step in steps if step.stage == stage), None)
    if found != key:
        raise InputError(
            f"the settings or files of {experiment.name} (seed {experiment.seed}) are not those of the command on "
            f"{socket.gethostname()}: {stage} has the key {found}, expected {key}; run the same command "
            "again if its files have changed, and give all machines the same files and the same version of genrec"
        )
    return experiment, steps
