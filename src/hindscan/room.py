"""What room the SQL engine of a process has: variables of its environment, set by whoever starts it as a worker.

Serves promise 10. What a statement holds beyond its memory goes to files in a folder, and the folder goes with the worker. Foundation: imports nothing, so that a worker
can be started before anything is loaded.

::

    tasks.process.start -> environment -> engine.database
"""

from __future__ import annotations

from typing import Final

__all__ = ["ENGINE_FOLDER", "ENGINE_MEMORY"]

#: Bytes that the engine may hold in memory. Absent: as much as it takes of its own accord.
ENGINE_MEMORY: Final = "HINDSCAN_ENGINE_MEMORY"
#: Where it keeps the rest while a statement runs. Absent: in the folder for temporary files.
ENGINE_FOLDER: Final = "HINDSCAN_ENGINE_FOLDER"
