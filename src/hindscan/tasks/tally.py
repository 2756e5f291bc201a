"""What is counted over all stages of a run, and who hears of it.

::

    receipts -> Hearing of a stage -> Tally: retried, CPU seconds, output;   facts -> observer
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Sequence
from typing import Final

from hindscan.progress import Observer, SliceFailed, SliceFinished, TaskLost
from hindscan.tasks.attempts import Hearing, Piece
from hindscan.tasks.task import Done, Failed, Receipt

__all__ = ["OUTPUT_MOST", "Tally"]

#: Characters that are kept of what user code printed in a run.
OUTPUT_MOST: Final = 65_536


class Tally:
    """What is counted over all stages of a run, and who hears of it."""

    def __init__(self, run: str, observe: Observer) -> None:
        self.run = run
        self.observe = observe
        self.retried = 0
        self.cpu_seconds = 0.0
        self.output = ""
        self.ids = (f"{secrets.token_hex(4)}-{number}" for number in itertools.count())

    def hearing(self, stage: str, take: Callable[[Done], None], read: Callable[[Done], int] | None) -> Hearing:
        """Listen for one stage, which takes what is done; `read` gives the rows of a slice, and None means that pieces are no slices."""

        def done(made: Done, receipt: Receipt) -> None:
            self.cpu_seconds += made.cpu_seconds
            take(made)
            if read is not None:
                self.observe(
                    SliceFinished(
                        run=self.run,
                        stage=stage,
                        slice=made.position,
                        rows=read(made),
                        seconds=made.seconds,
                        cpu_seconds=made.cpu_seconds,
                        worker=receipt.worker,
                    )
                )

        def failed(fault: Failed) -> None:
            if read is not None:
                self.observe(
                    SliceFailed(
                        run=self.run, stage=stage, slice=fault.position, error=fault.error, message=fault.message
                    )
                )

        def lost(pieces: Sequence[Piece], reason: str) -> None:
            slices = tuple(piece.position for piece in pieces) if read is not None else ()
            self.observe(TaskLost(run=self.run, stage=stage, slices=slices, reason=reason))

        def again(count: int) -> None:
            self.retried += count

        def printed(text: str) -> None:
            self.output = (self.output + text)[-OUTPUT_MOST:]

        return Hearing(done=done, failed=failed, lost=lost, again=again, printed=printed)
