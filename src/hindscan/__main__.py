"""`python -m hindscan` and the console script: the command line, nothing else."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from hindscan.lean import leave_pandas_out

    leave_pandas_out()
    from hindscan.cli.app import run_app

    sys.exit(run_app())


if __name__ == "__main__":
    main()
