"""Dask's distributed scheduler with worker processes of our own, or one that is already there.

Keeps promises 6, 11 and 12. The scheduler runs in the caller on loopback, without dashboard or other pages; each worker is a fresh interpreter with one thread that this
module starts, watches and ends. Dask's own nannies were seen to lose all workers and to hang for ever; here a dead worker is replaced at once,
and where workers die without getting to their tasks, that is an error within seconds.

A worker says through its pipe which task it begins, and sends its receipt there. So the one task it had begun is known when it dies: that one is lost, and the
tasks that Dask had only assigned to it are given out again without being blamed. Of workers behind an address (`tcp://`, `tls://`) nothing is known:
there receipts are fetched, and every task Dask gives up is lost.

::

    run --submit--> scheduler --> worker process: work(id, payload) --pipe: started, finished--> Finished | Lost
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

from hindscan.errors import SchedulerUnavailable, WorkerDied
from hindscan.tasks.executor import GRACE_SECONDS, Finished, Lost, Outcome, Work
from hindscan.tasks.memory import Guard
from hindscan.tasks.process import Frames, Process, start

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster, Nanny

__all__ = ["DaskExecutor", "work", "worker_main"]

#: Tasks for each worker that the scheduler has at a time: messages then go in batches.
_WINDOW: Final = 16
#: Workers that may die one after another before any has begun a task.
_STILLBORN_MOST: Final = 5
#: How often stops and dead workers are looked for while nothing else happens.
_TICK_SECONDS: Final = 0.02
#: How long a scheduler that was connected to may stay silent.
_CONNECT_SECONDS: Final = 10.0
#: Receipts are fetched in one go; a worker that dies meanwhile must not hold up the others.
_GATHER_SECONDS: Final = 10.0

_SETTINGS: Final[dict[str, object]] = {
    # One task with a worker at a time, the others at the scheduler. None waits behind a slow one, or is held by a worker whose user code keeps the interpreter lock and
    # so cannot give it back. The hand-over costs some milliseconds a task; tasks are grouped to take seconds.
    "distributed.scheduler.worker-saturation": 1.0,
    # A task is retried here, where it is known what is to blame; Dask's own retries would kill three more workers first.
    "distributed.scheduler.allowed-failures": 0,
    # Without it a client waits for ever where all workers are gone.
    "distributed.scheduler.no-workers-timeout": "30s",
    # A worker that gives no sign of life is removed, and its process ended. Long, because user code may hold the interpreter lock.
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.scheduler.work-stealing": False,
    # No pages, no profiles, no spilling: receipts are all that is kept.
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.comm.timeouts.connect": "10s",
    "distributed.admin.system-monitor.gil.enabled": False,
}


class DaskExecutor:
    """Tasks on a Dask cluster.

    Parameters
    ----------
    workers : int
        Worker processes of the local cluster; ignored with an address.
    address : str, optional
        A running scheduler. Default: a cluster of our own on this machine.
    memory : int, optional
        Bytes a worker of our own may take; one that has the machine for itself may take what all might. Default: no limit.
    """

    def __init__(self, workers: int = 2, address: str | None = None, memory: int | None = None) -> None:
        self._memory = memory
        self._guard = Guard(memory)
        self._count = workers
        self._address = address
        self._cluster: LocalCluster | None = None
        self._client: Client | None = None
        #: Workers of our own by their names.
        self._named: dict[str, Process] = {}
        #: What workers send, and futures that have ended.
        self._inbox: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        #: Tasks that are out, with their futures.
        self._live: dict[str, tuple[Work, Future[bytes]]] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        #: What each worker is at, by its process id.
        self._begun: dict[int, str] = {}
        self._stillborn = 0
        self._number = 0

    @property
    def workers(self) -> int:
        """How many tasks are worked on at the same time."""
        if self._address is None:
            return self._count
        assert self._client is not None
        threads: dict[str, int] = self._client.nthreads()
        return max(1, sum(threads.values()))

    def __enter__(self) -> Self:
        try:
            self._connect() if self._address is not None else self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *fault: object) -> None:
        for process in self._named.values():
            process.close()
        self._named.clear()
        with _quiet():
            if self._client is not None:
                self._client.close(timeout=2)
            if self._cluster is not None:
                self._cluster.close(timeout=2)
        self._client = self._cluster = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def run(self, tasks: Iterator[Work], stop: threading.Event, *, alone: bool = False) -> Iterator[Outcome]:
        """Do tasks; see `Executor.run`."""
        window = self._alone_window() if alone else self.workers * _WINDOW
        live = self._live = {}
        deadline: float | None = None
        self._tend()
        try:
            while True:
                if deadline is None and stop.is_set():
                    deadline = time.monotonic() + GRACE_SECONDS
                if deadline is None and len(live) <= window // 2:
                    self._submit(list(islice(tasks, window - len(live))))
                if not live or (deadline is not None and time.monotonic() > deadline):
                    return
                self._check_scheduler()
                self._guard.look(list(self._named.values()), times=self._count if len(live) == 1 else 1)
                yield from self._settle(self._events())
        finally:
            if live and self._client is not None:  # None: the executor was left before its iterator was closed
                self._abandon([future for _, future in live.values()])

    def _submit(self, tasks: list[Work]) -> None:
        """Give tasks to Dask, all in one message."""
        if not tasks:
            return
        assert self._client is not None
        import dask.config
        from dask.task_spec import Task

        graph: dict[str, Task] = {}
        owners: dict[str, Work] = {}
        for task in tasks:
            self._number += 1
            key = f"hindscan-{task.id}-{self._number}"
            owners[key] = task
            # As a producer of data it waits at the scheduler until a worker is free. Otherwise Dask would assign it at once, to whichever worker is there first.
            graph[key] = Task(key, work, task.id, task.payload, self._address is None, _data_producer=True)
        # Assignments of a batch may add up to what Dask takes for data that were put into a graph by mistake.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"}):
            futures = self._client.get(graph, list(graph), sync=False)
        for future in futures:
            task = owners[str(future.key)]
            self._live[task.id] = (task, future)
            future.add_done_callback(functools.partial(_tell, self._inbox, task.id))

    def _events(self) -> list[tuple[Any, Any]]:
        """Wait for something to happen, a tick at most, and take all that has."""
        found: list[tuple[Any, Any]] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._inbox.get(timeout=_TICK_SECONDS))
            while True:
                found.append(self._inbox.get_nowait())
        return found

    def _settle(self, events: list[tuple[Any, Any]]) -> Iterator[Outcome]:
        """Make outcomes of what has happened."""
        live = self._live
        fetch: list[Future[bytes]] = []
        for who, what in events:
            match who, what:
                case Process(), ("started", str(task)):
                    self._begun[who.pid] = task
                    self._stillborn = 0
                case Process(), ("finished", str(task), bytes(receipt)):
                    self._begun.pop(who.pid, None)
                    if self._let_go(task):
                        yield Finished(id=task, receipt=receipt)
                case Process(), None:
                    memory = self._guard.verdict(who)
                    task, reason = self._bury(who)
                    if self._let_go(task):
                        yield Lost(id=task, reason=reason, out_of_memory=memory)
                case str(), future if who in live and live[who][1] is future:  # not of an earlier attempt
                    if future.status == "error":
                        yield from self._failed(live[who][0], future)
                    elif future.status in ("cancelled", "lost"):
                        self._check_scheduler()
                        self._submit([live[who][0]])  # the scheduler has begun anew and knows of nothing
                    elif self._address is not None:
                        fetch.append(future)
        for task, receipt in self._gather(fetch).items():
            self._let_go(task)
            yield Finished(id=task, receipt=receipt)

    def _let_go(self, task: str) -> bool:
        """Forget a task that is out; tell whether it was."""
        if task not in self._live:
            return False
        _, future = self._live.pop(task)
        # Events may hold it still, and the scheduler would compute it again when the worker that has it dies.
        future.release()
        return True

    def _failed(self, task: Work, future: Future[bytes]) -> Iterator[Lost]:
        """Take in that Dask has given a task up."""
        from distributed import KilledWorker

        fault = future.exception(timeout=_GATHER_SECONDS)
        if not isinstance(fault, KilledWorker) or self._address is not None:
            self._let_go(task.id)
            yield Lost(id=task.id, reason=f"{type(fault).__name__}: {fault}")
            return
        process = self._named.get(str(fault.last_worker.name))
        if process is not None:
            # The scheduler has removed it: it is dead, dying, or deaf. In each case it shall not go on, and its end is heard next.
            process.kill()
        if process is None or self._begun.get(process.pid) != task.id:
            self._submit([task])  # it was only assigned to that worker

    def _gather(self, futures: list[Future[bytes]]) -> dict[str, bytes]:
        """Fetch receipts; tasks whose receipts cannot be had are given out again."""
        if not futures:
            return {}
        assert self._client is not None
        owners = {str(future.key): task for task, (_, future) in self._live.items()}
        try:
            got = self._client.sync(
                self._client._gather,  # noqa: SLF001 -- `gather` takes no time-out
                {future.key: future for future in futures},
                errors="skip",
                callback_timeout=_GATHER_SECONDS,
            )
        except (OSError, RuntimeError):  # RuntimeError is what a closed pool of connections raises
            self._check_scheduler()
            got = {}
        found = {owners[key]: receipt for key, receipt in got.items() if isinstance(receipt, bytes)}
        for future in futures:
            if owners[str(future.key)] not in found:
                self._submit([self._live[owners[str(future.key)]][0]])
        return found

    def _alone_window(self) -> int:
        # A worker of our own says what it has begun; elsewhere only a single task is surely what killed its worker.
        return self.workers if self._address is None else 1

    def _abandon(self, futures: list[Future[bytes]]) -> None:
        """End tasks that are being worked on."""
        assert self._client is not None
        with _quiet():
            if self._address is None:
                # Every worker may have begun another one by now. New ones import while nobody waits for them.
                for process in self._named.values():
                    process.close()
                self._named.clear()
                self._client.cancel(futures, force=True)
                self._fill()
                return
            if self._client.status != "running":
                return  # nobody is there who could be asked
            keys = {future.key for future in futures}
            busy = [name for name, held in self._client.processing().items() if keys & set(held)]
            self._client.cancel(futures, force=True)
            self._end_busy(busy)

    def _end_busy(self, busy: list[str]) -> None:
        """End workers of somebody else that are at cancelled tasks. A restart would wait some seconds for each to finish, and for ever where there is no nanny."""
        assert self._client is not None
        known = self._client.scheduler_info(n_workers=-1)["workers"]
        watched = [name for name in busy if known.get(name, {}).get("nanny")]
        if watched:
            self._client.sync(
                self._client._run,  # noqa: SLF001 -- `run` takes no time-out
                _end_worker,
                workers=watched,
                nanny=True,
                on_error="ignore",
                callback_timeout=_CONNECT_SECONDS,
            )
        if alone := [name for name in busy if name not in watched]:
            self._client.restart_workers(alone, timeout=_CONNECT_SECONDS, raise_for_error=False)

    # A cluster that is there already ---------------------------------------------------------------------------

    def _connect(self) -> None:
        assert self._address is not None
        from distributed import Client

        with _quiet():
            try:
                self._client = Client(self._address, timeout=_CONNECT_SECONDS, set_as_default=False)
                self._client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
            except (OSError, TimeoutError) as fault:
                raise _gone(self._address) from fault

    # One's own cluster -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        # Workers import while this process does.
        self._folder = tempfile.TemporaryDirectory(prefix="hindscan-workers-", ignore_cleanup_errors=True)
        self._fill()
        # Imported before its settings are changed for the moment: the import adds the defaults.
        import dask.config
        from distributed import Client, LocalCluster

        with _quiet(), dask.config.set(_SETTINGS):
            self._cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                host="127.0.0.1",
                protocol="tcp://",
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
                scheduler_kwargs={"dashboard": False, "dashboard_address": "127.0.0.1:0"},
            )
            self._client = Client(self._cluster, set_as_default=False)
        for process in self._named.values():
            process.send(("connect", self._cluster.scheduler_address))

    def _fill(self) -> None:
        assert self._folder is not None
        while len(self._named) < self._count:
            self._number += 1
            name = f"hindscan-{self._number}"
            process = start(
                self._inbox, "hindscan.tasks.dask:worker_main", name, self._folder.name, memory=self._memory
            )
            self._named[name] = process
            if self._cluster is not None:
                process.send(("connect", self._cluster.scheduler_address))

    def _tend(self) -> None:
        """Replace workers that died while there was nothing to do."""
        if self._address is None:
            for process in list(self._named.values()):
                if not process.alive:
                    self._bury(process)

    def _bury(self, process: Process) -> tuple[str, str]:
        """Replace a dead worker; give the task it was at, and how it ended."""
        name = next((name for name, p in self._named.items() if p is process), None)
        if name is None:
            return "", ""  # ended by us, and replaced already
        reason = process.reason()
        task = self._begun.pop(process.pid, "")
        self._stillborn += not task
        process.close()
        del self._named[name]
        if self._stillborn >= _STILLBORN_MOST:
            raise WorkerDied(
                f"Starting worker processes: each must live until it has begun a task, and {self._stillborn} in a row did not. "
                f"The last {reason}\nRun `hindscan doctor`, which tries to start one."
            )
        self._fill()
        return task, reason

    def _check_scheduler(self) -> None:
        assert self._client is not None
        if self._client.status not in ("running", "connecting"):
            raise _gone(self._address or "the local address")


def _tell(inbox: queue.SimpleQueue[tuple[Any, Any]], task: str, future: Future[bytes]) -> None:
    inbox.put((task, future))


def _gone(address: str) -> SchedulerUnavailable:
    return SchedulerUnavailable(
        f"Working on tasks with the Dask scheduler at {address}: it must answer and have workers, and it does not. "
        "Start it and its workers, then retry the run: what is computed is kept.",
        address=address,
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log of what it is told here: workers that are killed on purpose are no news."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


# On the worker -----------------------------------------------------------------------------------------------------

_frames: Frames | None = None


def _end_worker(dask_worker: Nanny) -> None:
    """Kill the worker of a nanny, which then starts another."""
    if dask_worker.process is not None and dask_worker.process.pid is not None:
        os.kill(dask_worker.process.pid, signal.SIGKILL)


def work(task: str, payload: bytes, by_pipe: bool) -> bytes:
    """Do one task: the only function that is ever given to Dask.

    Parameters
    ----------
    task : str
        Its id.
    payload : bytes
        For `perform`.
    by_pipe : bool
        Whoever gave the task started this worker and hears it.

    Returns
    -------
    bytes
        The receipt; empty where it has gone through the worker's own pipe, which spares two fetches.
    """
    from hindscan.tasks.perform import perform

    if not by_pipe or _frames is None:
        return perform(payload)
    _frames.send(("started", task))
    _frames.send(("finished", task, perform(payload)))
    return b""


def worker_main(frames: Frames, name: str, folder: str) -> None:
    """Be a worker until the scheduler or the parent is gone: the whole life of a worker process."""
    global _frames
    _frames = frames
    import dask.config
    from distributed import Worker

    from hindscan.tasks.perform import warm

    dask.config.set(_SETTINGS)

    async def live(address: str) -> None:
        async with Worker(
            address,
            nthreads=1,
            name=name,
            host="127.0.0.1",
            dashboard=False,
            dashboard_address="127.0.0.1:0",
            local_directory=folder,
            memory_limit=0,
            death_timeout=_CONNECT_SECONDS,
        ) as worker:
            await worker.finished()

    warm()
    message = frames.receive()
    if message is not None:
        asyncio.run(live(str(message[1])))
    os._exit(0)
