"""Engines run tasks in other processes: on this machine, on a Ray cluster, or as jobs of SLURM.

`engine_of("local:2")` returns an engine, `start` its pool, and `submit` a future for each task. Tasks know nothing of engines, and
engines nothing of experiments.
"""

from genrec.engines.engine_choice import engine_of
from genrec.engines.engine_protocols import Engine, Future, Pool, Task
from genrec.engines.task_reports import Report

__all__ = ["Engine", "Future", "Pool", "Report", "Task", "engine_of"]
