"""What went wrong in a task, in the words of the one who has to mend it.

Where user code raised, its traceback comes first and hindscan's own frames are left out; where hindscan itself knows the fault (damaged data, a broker that is
gone), the fault keeps its class, because the retry rule reads the class.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

import msgspec

from hindscan.errors import HindscanError, JobFailed, UsageError
from hindscan.tasks.task import Failed

__all__ = ["failed"]

_OURS: Final = str(Path(__file__).resolve().parents[1])
#: Characters of a traceback or message that are kept: its beginning and its end.
_MOST: Final = 20_000


def failed(fault: BaseException, *, doing: str, position: int, key: str) -> Failed:
    """Write a fault down.

    Parameters
    ----------
    fault : BaseException
        As it was caught.
    doing : str
        What was being done: "computing slice 3 of job scan".
    position : int
        Of the slice or node.
    key : str
        Of the partial there is none of now.
    """
    shown = traceback.TracebackException.from_exception(fault)
    _strip(shown)
    text = _plain("".join(shown.format()))
    of_user = _has_user_frames(fault)
    # A UsageError out of user code is the job's own mistake, such as a statement that is no SELECT.
    if isinstance(fault, HindscanError) and not (isinstance(fault, UsageError) and of_user):
        return Failed(
            position=position,
            key=key,
            error=type(fault).__name__,
            message=_plain(str(fault)),
            retryable=fault.retryable,
            traceback=text if of_user else "",
            details=msgspec.to_builtins(fault.details, str_keys=True, enc_hook=str),
        )
    said = "".join(shown.format_exception_only()).strip()
    return Failed(
        position=position,
        key=key,
        error=JobFailed.__name__,
        message=f"{text}\nWhile {doing}: the job's function must return, and it raised {_plain(said, 500)}. "
        "Mend the function and run the job again.",
        retryable=False,
        traceback=text,
        details={"exception": type(fault).__name__},
    )


def _plain(text: str, most: int = _MOST) -> str:
    """Make text that any receiver can take: not endless, and without halves of characters."""
    cut = text if len(text) <= most else f"{text[: most // 2]}\n...\n{text[-most // 2 :]}"
    return cut.encode(errors="replace").decode()


def _strip(shown: traceback.TracebackException) -> None:
    """Leave out the frames of hindscan, here and in all that led to it."""
    kept = [frame for frame in shown.stack if not frame.filename.startswith(_OURS)]
    if kept:
        shown.stack = traceback.StackSummary.from_list(kept)
    for cause in (shown.__cause__, shown.__context__):
        if cause is not None:
            _strip(cause)
    for part in getattr(shown, "exceptions", None) or ():
        _strip(part)


def _has_user_frames(fault: BaseException) -> bool:
    at: TracebackType | None = fault.__traceback__
    while at is not None:
        if not at.tb_frame.f_code.co_filename.startswith(_OURS):
            return True
        at = at.tb_next
    return False
