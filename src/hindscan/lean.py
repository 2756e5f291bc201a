"""Pandas is loaded by who asks for it, not by Arrow on the off chance.

Arrow looks for pandas when the first Python list becomes a column, or a data set is opened, so as to know its objects if it meets any. Where pandas is installed that
costs each process a third of a second and 40 MB, though nearly no run has a pandas object. Here Arrow's first look finds none, and once pandas is imported in earnest, by
a job, by the user or by `to_pandas`, Arrow is told at once: from then on it knows pandas' objects as ever. Foundation: for processes of hindscan's own, called
before anything else is imported.

::

    main, become_worker -> leave_pandas_out -> (pyarrow is imported: its look finds nothing) -> (pandas is imported: Arrow is told)
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

__all__ = ["leave_pandas_out"]


def leave_pandas_out() -> None:
    """Have pandas loaded only once something imports it; nothing where Arrow or pandas is loaded already."""
    if "pyarrow" not in sys.modules and "pandas" not in sys.modules:
        sys.meta_path.insert(0, _After("pyarrow", _let_arrow_look))


class _After:
    """Calls a function when a module has been imported for the first time."""

    def __init__(self, name: str, then: Callable[[], object]) -> None:
        self._name, self._then = name, then

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002
        """Find the module as it would be found, and hear of its end."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            load, then = spec.loader.exec_module, self._then

            def load_and_tell(module: Any) -> None:
                load(module)
                then()

            vars(spec.loader)["exec_module"] = load_and_tell
        return spec


class _Nowhere:
    """Finds that there is no pandas."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> None:  # noqa: ARG002
        """Refuse pandas."""
        if name == "pandas":
            raise ModuleNotFoundError(f"no {name} yet", name=name)


def _let_arrow_look() -> None:
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    nowhere = _Nowhere()
    sys.meta_path.insert(0, nowhere)
    try:
        pa.array([0])
    finally:
        sys.meta_path.remove(nowhere)
    # Asked for the module, Arrow looks again.
    sys.meta_path.insert(0, _After("pandas", lambda: pa.lib._pandas_api.pd))  # noqa: SLF001 -- it has no other ear
