"""The client library inside confluent-kafka, driven without a Python object per record.

Keeps promise 2 at wire speed. It is the same librdkafka with the same settings as the plain client's, but a compiled loop takes messages from it in
thousands, copies values into one buffer and notes offsets and times; Arrow arrays are laid over these buffers without another copy. The loop holds no
interpreter lock. What it meets is handed to the same judge as the plain client's (`kafka.log`), and both pass one suite.

Nothing is compiled at installation: numba (the extra ``hindscan[fast]``) makes the loop once per machine, about a second, and keeps it. The loop reads
``rd_kafka_message_t``, a public struct of rdkafka.h; that it is laid out so is checked with the first message of every assignment, and the library's version at
the start. Where anything of this is missing `unavailable` says so, and the plain client does the work.

::

    librdkafka queue -> drain (compiled) -> buffers -> RawBatch
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import mmap
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError

from hindscan.errors import ConfigError, HindscanError, UsageError
from hindscan.kafka.access import Refusals
from hindscan.kafka.fetch import Event, RawBatch, Taken, settings_of

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

    from hindscan.kafka.fetch import Config, Part

__all__ = ["FastClient", "compile_loop", "is_for", "is_loaded", "unavailable", "uses_compiler"]

#: The first version whose struct and functions were tried.
_LEAST_VERSION: Final = 0x02_00_00_00
#: Messages of one call of the library; it waits until it has so many, or for the time below. What it notes of so many is in the processor's cache still when the
#: loop looks at it (of 10,000, each was seen to cost a tenth more).
_QUEUE_MESSAGES: Final = 500
_WAIT_MILLISECONDS: Final = 10
#: Records and bytes of one batch. A larger record gets a buffer of its own.
_BATCH_RECORDS: Final = 65_536
_BATCH_BYTES: Final = 12 * 2**20
#: `RD_KAFKA_CONSUMER`
_RD_KAFKA_CONSUMER: Final = 1

#: References to a buffer that is free, as `_Buffers.are_free` sees it: its own, two while it looks, and that of the call.
_REFERENCES: Final = 4

#: Why the loop stopped.
_IDLE, _FULL, _BEYOND, _EVENT = range(4)
#: Places in the loop's state: how far the messages of the last call are used up, how many they were, records written.
_AT, _HELD, _RECORDS = range(3)

_Array = np.ndarray[Any, np.dtype[Any]]
#: Bytes of texts, where each begins and ends, and whether it is there.
_Texts = tuple[_Array, _Array, _Array]


class _Message(ctypes.Structure):
    """`rd_kafka_message_t` of rdkafka.h."""

    _fields_ = (
        ("err", ctypes.c_int),
        ("topic", ctypes.c_void_p),
        ("partition", ctypes.c_int32),
        ("payload", ctypes.c_void_p),
        ("len", ctypes.c_size_t),
        ("key", ctypes.c_void_p),
        ("key_len", ctypes.c_size_t),
        ("offset", ctypes.c_int64),
        ("private", ctypes.c_void_p),
    )


class _Buffers:
    """What a batch is written to, and laid over. Used again when nothing of the batch is left: pages that are new to the process cost a tenth of all reading."""

    def __init__(self, records: int, size: int, *, keyed: bool) -> None:
        self.kind = size, keyed
        self.values = _texts(records, size)
        self.keys = _texts(records, size) if keyed else _texts(0, 0)
        self.offsets, self.times = np.empty(records, np.int64), np.empty(records, np.int64)

    def are_free(self) -> bool:
        """Tell whether nobody has one of them, or anything that is laid over it."""
        buffers = (*self.values, *self.keys, self.offsets, self.times)
        return all(sys.getrefcount(buffer) <= _REFERENCES for buffer in buffers)


def _texts(count: int, size: int) -> _Texts:
    return np.empty(size, np.uint8), np.empty(count + 1, np.int64), np.empty(count, np.uint8)


#: A function that hears errors of a client's connections: client, code, reason, nothing.
_ON_ERROR = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)


def is_loaded() -> bool:
    """Tell whether the compiled loop's compiler is in this process already, so that using it costs nothing more."""
    return "numba" in sys.modules


def uses_compiler(config: Config) -> bool:
    """Tell whether what is read of a cluster is decoded by compiled loops too: where the compiler is here already, unless the cluster is to be read plainly."""
    return is_loaded() and config.get("hindscan.reader", "auto") != "plain"


def is_for(config: Config) -> bool:
    """Tell whether what is much of a cluster is read by the fast client."""
    return config.get("hindscan.reader", "auto") != "plain" and unavailable(config) is None


@functools.cache
def _unavailable() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed; `pip install 'hindscan[fast]'` brings it"
    if sys.byteorder != "little" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return "it is for 64-bit little-endian machines"
    try:
        version = _library().rd_kafka_version()
    except (OSError, HindscanError, AttributeError) as fault:
        return f"the client library inside confluent-kafka cannot be reached: {fault}"
    if version < _LEAST_VERSION:
        return f"the client library inside confluent-kafka must be 2.0 or later; it is {version:#x}"
    return None


def unavailable(config: Config) -> str | None:
    """Say why the fast client cannot be had for a cluster; None where it can."""
    if "oauth" in str(config.get("sasl.mechanism", config.get("sasl.mechanisms", ""))).lower():
        return "tokens are fetched by the plain client only"
    return _unavailable()


@functools.cache
def _library() -> Any:
    """Find the library that confluent_kafka's own extension has loaded, and declare what is called."""
    import confluent_kafka  # noqa: F401 -- loads it

    names = importlib.metadata.files("confluent-kafka") or []
    found = [str(file.locate()) for file in names if file.name.startswith("librdkafka") and "++" not in file.name]
    if not found:
        raise HindscanError("While looking for librdkafka: confluent-kafka must carry it; it lists no such file.")
    library = ctypes.CDLL(found[0])
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    for name, gives, *takes in (
        ("version", ctypes.c_int),
        ("conf_new", pointer),
        ("conf_set", ctypes.c_int, pointer, text, text, text, ctypes.c_size_t),
        ("conf_set_log_cb", None, pointer, pointer),
        ("conf_destroy", None, pointer),
        ("new", pointer, ctypes.c_int, pointer, text, ctypes.c_size_t),
        ("conf_set_error_cb", None, pointer, _ON_ERROR),
        ("destroy", None, pointer),
        ("poll", ctypes.c_int, pointer, ctypes.c_int),
        ("queue_new", pointer, pointer),
        ("queue_destroy", None, pointer),
        ("topic_new", pointer, pointer, text, pointer),
        ("topic_destroy", None, pointer),
        ("topic_name", text, pointer),
        ("consume_start_queue", ctypes.c_int, pointer, ctypes.c_int32, ctypes.c_int64, pointer),
        ("consume_stop", ctypes.c_int, pointer, ctypes.c_int32),
        ("message_destroy", None, pointer),
        ("last_error", ctypes.c_int),
        ("err2str", text, ctypes.c_int),
    ):
        function = getattr(library, f"rd_kafka_{name}")
        function.restype, function.argtypes = gives, takes
    return library


@functools.cache
def _addresses() -> _Array:
    library = _library()
    names = ("rd_kafka_consume_batch_queue", "rd_kafka_message_destroy", "rd_kafka_message_timestamp")
    return np.array([ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in names], np.int64)


class FastClient:
    """One connection that reads one partition at a time, a batch of arrays at once.

    Parameters
    ----------
    config : mapping
        librdkafka properties of the cluster.
    topic : str
        The topic.
    isolation : str
        Which records are visible.

    Raises
    ------
    HindscanError
        The library refuses a property.
    """

    gives: frozenset[Part] = frozenset(("keys",))

    def __init__(self, config: Config, topic: str, isolation: str) -> None:
        # Now, not with the first message: whoever opens a client is prepared to wait.
        self._loop = _compiled().drain
        self._topic_name = topic
        self._lock = threading.Lock()
        self._partition: int | None = None
        self._is_checked = False
        #: Pointers to messages that were taken from the library and are not used up; `_state` says which.
        self._messages = np.zeros(_QUEUE_MESSAGES, np.int64)
        self._state = np.zeros(3, np.int64)
        self._batch_bytes = _BATCH_BYTES
        self._buffers: _Buffers | None = None
        self.refusals = Refusals()
        self._hears = _ON_ERROR(self._hear)  # kept: the library has only its address
        self._client = self._opened(settings_of(config, isolation))
        library = _library()
        self._queue = library.rd_kafka_queue_new(self._client)
        self._topic = library.rd_kafka_topic_new(self._client, topic.encode(), None)

    def begin(self, partition: int, offset: int) -> None:
        """Turn to a partition; see `kafka.fetch.Client.begin`."""
        library = _library()
        self._stop()
        # A queue of its own for every assignment: nothing of the one before can be in it.
        library.rd_kafka_queue_destroy(self._queue)
        self._queue = library.rd_kafka_queue_new(self._client)
        if library.rd_kafka_consume_start_queue(self._topic, partition, offset, self._queue):
            said = library.rd_kafka_err2str(library.rd_kafka_last_error()).decode()
            raise HindscanError(
                f"While opening {self._topic_name}[{partition}] at offset {offset}: the client refused: {said}."
            )
        self._partition, self._is_checked = partition, False

    def take(self, end: int, parts: Collection[Part] = ()) -> Taken:
        """Give what has come; see `kafka.fetch.Client.take`."""
        self._check_layout()
        into = self._free_buffers(keyed="keys" in parts)
        why = self._drain(end, into)
        count = int(self._state[_RECORDS])
        if why == _IDLE:
            _library().rd_kafka_poll(self._client, 0)  # lets `_hear` be called, in this thread
        if why == _FULL and count == 0:
            # The next record alone is larger than the buffer.
            self._batch_bytes = max(self._front().len, self._front().key_len)
            taken = self.take(end, parts)
            self._batch_bytes = _BATCH_BYTES
            return taken
        batch = RawBatch(
            offsets=_filled(into.offsets, count),
            times=_filled(into.times, count),
            values=_array(*into.values, count),
            keys=_array(*into.keys, count) if "keys" in parts else None,
        )
        return Taken(batch=batch, event=self._event() if why == _EVENT else None, beyond=why == _BEYOND)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            if self._client is None:
                return
            library = _library()
            self._stop()
            library.rd_kafka_topic_destroy(self._topic)
            library.rd_kafka_queue_destroy(self._queue)
            library.rd_kafka_destroy(self._client)
            _let_go_of_compiler()
            self._client = self._buffers = None  # `_hears` and this know each other, so that it may be there for long

    def _hear(self, _client: int, code: int, reason: bytes, _nothing: int) -> None:
        """Hear an error of the connections, as the plain client's ``error_cb`` does."""
        self.refusals(KafkaError(code, reason.decode("utf-8", "replace")))

    def _opened(self, settings: Config) -> Any:
        library = _library()
        said = ctypes.create_string_buffer(512)
        properties = library.rd_kafka_conf_new()
        # What the client complains of while a broker is away belongs on nobody's standard error.
        library.rd_kafka_conf_set_log_cb(properties, None)
        library.rd_kafka_conf_set_error_cb(properties, self._hears)
        for name, value in settings.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if library.rd_kafka_conf_set(properties, name.encode(), text.encode(), said, len(said)):
                library.rd_kafka_conf_destroy(properties)
                raise _not_valid(settings, said.value)
        client = library.rd_kafka_new(_RD_KAFKA_CONSUMER, properties, said, len(said))
        if not client:
            library.rd_kafka_conf_destroy(properties)
            raise _not_valid(settings, said.value)
        return client

    def _stop(self) -> None:
        library = _library()
        for at in range(int(self._state[_AT]), int(self._state[_HELD])):
            library.rd_kafka_message_destroy(int(self._messages[at]))
        self._state[:] = 0
        if self._partition is not None:
            library.rd_kafka_consume_stop(self._topic, self._partition)
            self._partition = None

    def _free_buffers(self, *, keyed: bool) -> _Buffers:
        """Give buffers for a batch: those of the one before, if it is gone."""
        found = self._buffers
        if found is None or found.kind != (self._batch_bytes, keyed) or not found.are_free():
            found = self._buffers = _Buffers(_BATCH_RECORDS, self._batch_bytes, keyed=keyed)
        return found

    def _drain(self, end: int, into: _Buffers) -> int:
        return int(self._loop(*_arguments(self._queue, self._messages, self._state, end, into)))

    def _check_layout(self) -> None:
        """Make sure, with the first record of an assignment, that its fields lie where the loop reads them."""
        if self._is_checked:
            return
        if self._drain(1 << 62, _Buffers(0, 0, keyed=False)) != _FULL:
            return
        first = self._front()
        if (first.topic, first.partition) != (self._topic, self._partition) or first.offset < 0:
            raise HindscanError(
                f"While reading {self._topic_name}[{self._partition}]: messages of the client library must be laid out as its header says; the first one is of "
                f'partition {first.partition}, offset {first.offset}. Set "hindscan.reader" = "plain" for this cluster.'
            )
        self._is_checked = True

    def _front(self) -> _Message:
        """Look at the first message that is not used up."""
        return _Message.from_address(int(self._messages[self._state[_AT]]))

    def _event(self) -> Event:
        """Take the message that is no record."""
        message = self._front()
        said = ctypes.string_at(message.payload, message.len).decode("utf-8", "replace") if message.payload else ""
        library = _library()
        event = Event(
            code=message.err,
            offset=int(message.offset) if message.offset >= 0 else None,
            text=said or library.rd_kafka_err2str(message.err).decode(),
            of_topic=bool(message.topic),
        )
        library.rd_kafka_message_destroy(int(self._messages[self._state[_AT]]))
        self._state[_AT] += 1
        return event


def _compiled() -> ModuleType:
    """Load the compiled loop."""
    try:
        from hindscan.kafka import drain
    except RuntimeError as fault:
        raise UsageError(
            f"While loading the loop that reads topics: numba must be able to keep what it compiles; {fault}. Set NUMBA_CACHE_DIR to a folder that "
            'this user may write to, or "hindscan.reader" = "plain" for the cluster.'
        ) from fault
    return drain


def _arguments(queue: int, messages: _Array, state: _Array, end: int, into: _Buffers) -> tuple[Any, ...]:
    """Give the arguments of the loop."""
    given = (_addresses(), queue, messages, state, end, _WAIT_MILLISECONDS)
    return (*given, *into.values, *into.keys, into.offsets, into.times)


def compile_loop() -> None:
    """Compile the loop, or load it where it is compiled.

    Raises
    ------
    UsageError
        The fast client cannot be had, or what is compiled cannot be kept.
    """
    reason = _unavailable()
    if reason is not None:
        raise UsageError(f"While compiling the loop that reads topics: the fast client must be there; {reason}.")
    none = np.zeros(0, np.int64)
    _compiled().compile_for(*_arguments(1, none, none, 1, _Buffers(0, 0, keyed=False)))


def _let_go_of_compiler() -> None:
    """Give the pages of the compiler's library, which has done its work, back to the system: fifty megabytes. It reads them again should it be needed."""
    if sys.platform == "linux":
        for first, size in _compiler_pages():
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


@functools.cache
def _compiler_pages() -> list[tuple[int, int]]:
    """Find where the compiler's code lies, which nothing has written to."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, *_, name = line.split()
        if "libllvmlite" in name and rights == "r-xp":
            first, end = (int(bound, 16) for bound in place.split("-"))
            found.append((first, end - first))
    return found


def _not_valid(settings: Config, said: bytes) -> ConfigError:
    return ConfigError(
        f"While connecting to Kafka at {settings.get('bootstrap.servers')}: every property of the cluster must be librdkafka's and valid; the client refused: "
        f"{said.decode('utf-8', 'replace')}. Correct it in [kafka.NAME]."
    )


def _filled(buffer: _Array, count: int) -> _Array:
    """Give the part of a buffer that was written; one that is mostly empty is not kept alive by the little in it."""
    return buffer[:count].copy() if count < len(buffer) // 2 else buffer[:count]


def _array(values: _Array, places: _Array, there: _Array, count: int) -> pa.LargeBinaryArray:
    """Lay an Arrow array over what the loop has written."""
    there, places = there[:count], _filled(places, count + 1)
    missing = count - int(there.sum())
    mask = pa.py_buffer(np.packbits(there, bitorder="little").data) if missing else None
    buffers = [mask, pa.py_buffer(places.data), pa.py_buffer(_filled(values, int(places[count])).data)]
    array = pa.Array.from_buffers(pa.large_binary(), count, buffers, missing)
    assert isinstance(array, pa.LargeBinaryArray)
    return array
