"""Whether threads of one process hinder each other: measured in the first slices of a simulation.

Serves promise 11. Threads are the cheaper way while a step lets go of the interpreter's lock, as numpy, Arrow and DuckDB do. A step that holds it gets no further on
two threads than on one: its slices take longer by the clock than by the processor. Then what is left, if it is worth the start, is done in processes, and what is
stored stays; which of the two worked on a slice never shows in a result. Only simulations are judged so: whoever reads a history waits for disks and brokers, too.

::

    SliceFinished(seconds, cpu_seconds), ... -> Contention -> Contended | nothing
"""

from __future__ import annotations

from typing import Final

from hindscan.plans.plan import Plan
from hindscan.progress import Fact, Observer, SliceFinished

__all__ = ["Contended", "Contention"]

#: Work that must be measured before anything is said of it: the first slices of a process also import and compile.
MEASURED_SECONDS: Final = 1.0
#: What must be left for each worker for a change to be worth it: starting processes takes about one second.
LEFT_SECONDS: Final = 4.0


class Contended(Exception):
    """Threads hinder each other, and enough is left to go on in processes."""


class Contention:
    """Hears the facts of a run that is done by threads.

    Parameters
    ----------
    plan : Plan
        What is carried out.
    workers : int
        Threads, two or more.
    observe : callable
        Hears every fact first.
    """

    def __init__(self, plan: Plan, workers: int, observe: Observer) -> None:
        self._workers, self._observe = workers, observe
        self._left = sum(
            s.rows
            for stage in plan.stages
            for s in stage.slices
            if s.position not in stage.reused and stage.table is None
        )
        self._draws, self._seconds, self._cpu_seconds = 0, 0.0, 0.0
        self._of_draws = {stage.step for stage in plan.stages if stage.table is None}

    def hear(self, fact: Fact) -> None:
        """Take one fact in.

        Raises
        ------
        Contended
            Go on in processes.
        """
        self._observe(fact)
        if not isinstance(fact, SliceFinished) or fact.stage not in self._of_draws:
            return
        self._draws += fact.rows
        self._left -= fact.rows
        self._seconds += fact.seconds
        self._cpu_seconds += fact.cpu_seconds
        if self._seconds < MEASURED_SECONDS:
            return
        left_seconds = self._seconds / self._draws * self._left / self._workers
        # Between all of the time at work, and the share that each thread has of one lock.
        if self._cpu_seconds < self._seconds * (1 + 1 / self._workers) / 2 and left_seconds > LEFT_SECONDS:
            raise Contended
