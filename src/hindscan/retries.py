"""Retries: whether a run that failed is tried again, and when; pure.

Part of promise 6. The rule reads the class of the error, never its text: without `on` what is `retryable` in `errors` is tried again, because the same attempt may
succeed later without anybody changing anything; a fault of the job or of its parameters is not. The wait doubles from try to try and is spread by a jitter that
follows from the run's id: a thousand runs that failed together do not come back together, and the same run waits the same wherever it is asked.

::

    failed, error class, tries so far -> Retries.wait -> microseconds, or None: it stays failed
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from hindscan import errors, times

__all__ = ["Retries", "retries_from"]

#: Beyond this many tries it is no transient fault.
MOST_ATTEMPTS: Final = 100


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """How often and when a run that failed is tried again. Times are microseconds."""

    #: Tries in all, the first one included.
    attempts: int = 1
    #: Wait before the second try; doubles from try to try.
    backoff: int = 1_000_000
    #: No wait is longer.
    longest: int = 300_000_000
    #: Part of the wait that is drawn by lot: 0 waits exactly, 1 anything up to the whole.
    jitter: float = 0.5
    #: Names of error classes, each with those below it; empty: what is `retryable`.
    on: tuple[str, ...] = ()

    def wait(self, run: str, failures: int, error: str) -> int | None:
        """Tell how long a run waits for its next try; None: it stays failed.

        Parameters
        ----------
        run : str
            Its id.
        failures : int
            Tries that have failed, this one included; at least 1.
        error : str
            Name of the class of the last failure.
        """
        if failures >= self.attempts or not self._covers(error):
            return None
        whole = min(self.longest, self.backoff << min(failures - 1, 40))
        return whole - int(whole * self.jitter * _lot(run, failures))

    def _covers(self, error: str) -> bool:
        found = getattr(errors, error, None)
        if not (isinstance(found, type) and issubclass(found, errors.HindscanError)):
            return False
        if not self.on:
            return found.retryable
        return any(kind.__name__ in self.on for kind in found.__mro__)


def _lot(run: str, failures: int) -> float:
    """Draw a number from 0 to 1, the same for the same run and try."""
    return int.from_bytes(hashlib.sha256(f"{run}:{failures}".encode()).digest()[:6]) / 2**48


def retries_from(value: object) -> Retries:
    """Read what is declared: further tries as a number, or a table of attempts, backoff, longest, jitter and on.

    Raises
    ------
    ValueError
        It is neither; the text is the reason.

    Examples
    --------
    >>> retries_from(3).attempts, retries_from({"attempts": 5, "backoff": "2s"}).backoff
    (4, 2000000)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = {"attempts": value + 1}
    if not isinstance(value, Mapping):
        raise ValueError(f"it is a number of further tries, or a table with attempts, not {value!r}")  # noqa: TRY004 - collected
    table: dict[str, Any] = dict(value)
    for name in ("backoff", "longest"):
        if name in table:
            table[name] = times.duration(str(table[name]))
    try:
        retries = msgspec.convert(table, _Declared)
    except msgspec.ValidationError as fault:
        raise ValueError(f"its table has attempts, backoff, longest, jitter and on: {fault}") from None
    known = {
        name
        for name in errors.__all__
        if issubclass(getattr(errors, name), errors.HindscanError) and name not in _NEVER
    }
    unknown = sorted(set(retries.on) - known)
    if unknown:
        raise ValueError(f"on names classes of hindscan.errors; none are tried again of {', '.join(unknown)}")
    return Retries(**msgspec.structs.asdict(retries))


#: Trying again would undo what somebody asked for, or act under a claim that is lost.
_NEVER: Final = frozenset({"RunCancelled", "Fenced"})


class _Declared(Retries, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same with its bounds checked."""

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= MOST_ATTEMPTS:
            raise ValueError(f"attempts must be from 1 to {MOST_ATTEMPTS} (retries from 0 to {MOST_ATTEMPTS - 1})")
        if not 0 <= self.jitter <= 1:
            raise ValueError("jitter must be from 0 to 1")
