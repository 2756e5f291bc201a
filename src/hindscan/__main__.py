"""`python -m hindscan` and the console script: the command line, nothing else."""

from __future__ import annotations

import atexit
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from hindscan.lean import leave_pandas_out

    leave_pandas_out()
    codes: list[int] = []
    # The first to be registered is the last to be called.
    atexit.register(_leave, codes)
    from hindscan.cli.app import run_app

    codes.append(run_app())
    sys.exit(codes[0])


def _leave(codes: list[int]) -> None:
    """End the process when its threads and all that wanted to hear of the end are done: to take a thousand modules apart takes longer than some commands."""
    if not codes:
        return  # something was raised, and Python says what
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except BrokenPipeError:
        pass  # who read has gone: nothing is wrong here
    except OSError:
        return
    os._exit(codes[0])


if __name__ == "__main__":
    main()
