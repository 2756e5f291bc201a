"""Loops of simulations that a compiler makes faster, where there is one and it is worth loading.

Serves promise 8: a loop gives the bits that numpy gives, so whether it is compiled is nobody's business but the clock's. numba (the extra ``hindscan[fast]``) compiles a
loop when it is first called on a machine, some seconds, and keeps it (`hindscan.loops` does it beforehand); loading it takes a process half a second. So a process
loads it when it has drawn so many numbers without as take about as long: knowing beforehand would at best have saved half of that time.

::

    numbers that are drawn without -> is_ready -> compiled (jobs.normal, jobs.sums)
"""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any, Final

__all__ = ["Compiler", "compiled", "compiler", "part"]

#: Numbers that a process draws before it loads the compiler: some half a second of them.
PATIENCE: Final = 1 << 25


class Compiler:
    """The compiler in this process.

    Parameters
    ----------
    patience : int
        Numbers that are drawn without before it is loaded.
    """

    def __init__(self, patience: int = PATIENCE) -> None:
        self._left, self._loading = patience, threading.Lock()
        self._is_loaded = False

    def load(self) -> bool:
        """Load it, unless that was tried before; tell whether it is there."""
        # Other threads go on without it meanwhile.
        if self._loading.acquire(blocking=False):
            with contextlib.suppress(ImportError):  # also where numba is not for this numpy
                importlib.import_module("numba")
                self._is_loaded = True
        return self._is_loaded

    def is_ready(self, drawn: int = 0) -> bool:
        """Tell whether loops are compiled now; else so many more numbers are noted as drawn without."""
        if not self._is_loaded and drawn:
            self._left -= drawn
            if self._left < 0:
                return self.load()
        return self._is_loaded


#: Of this process.
compiler = Compiler()


def compiled(function: Callable[..., Any], signature: str, **called: Any) -> Callable[..., Any] | None:
    """Compile a loop, or load it where it is compiled already; it holds no interpreter lock.

    Parameters
    ----------
    function : callable
        Over arrays and numbers.
    signature : str
        What it takes and gives, as numba writes it.
    **called
        What stands for functions that it calls: `part` of them.

    Returns
    -------
    callable or None
        None where the compiler finds no folder for what it compiles.
    """
    import numba

    try:
        loop: Callable[..., Any] = numba.njit(signature, nogil=True, cache=True, error_model="numpy")(
            _calling(function, called)
        )
    except RuntimeError:
        return None
    return loop


def part(function: Callable[..., Any], **called: Any) -> Any:
    """Make a function one that compiled loops can call."""
    import numba

    # With Python's model a quotient is asked whether it divides by zero, and nothing is done side by side.
    return numba.njit(error_model="numpy")(_calling(function, called))


def _calling(function: Callable[..., Any], called: dict[str, Any]) -> FunctionType:
    """Give the same code, which finds other functions under some names."""
    return FunctionType(function.__code__, function.__globals__ | called, function.__name__)
