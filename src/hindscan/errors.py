"""Every way hindscan can fail, as one tree.

A caller picks the level to catch; the retry rule reads the class (`retryable`), never the text; the command line turns the
class into its exit code; the HTTP edge into a problem document (`status`). A message has four parts: what was being done,
what was required, what was found (value and ids), what to do next. The docstring's first line is the default message.

::

    HindscanError                       1   (exit code)
    ├── UsageError                      2   you asked wrongly
    │   ├── ConfigError                     the project file: file, line, field
    │   ├── NotFound                        an unknown job, history, trigger, run, event
    │   ├── ParameterError                  parameters of a job, all faults at once
    │   ├── JobDefinitionError              a job that cannot be run as declared
    │   ├── FilterSyntaxError               a filter that cannot be evaluated on any event
    │   ├── PlanRefused                     over a declared limit, with the figures
    │   ├── Gone                            what it takes was deleted: by a retention, or on request
    │   └── Conflict                        not possible in the state it is in
    ├── EventError                      1   an event that cannot be taken
    │   ├── InvalidEvent                    not a CloudEvent, all faults at once
    │   │   └── UnknownFormat                   a format or charset that cannot be read
    │   ├── SignatureRefused                no valid signature where one is demanded
    │   ├── FilterError                     a filter that failed on this event
    │   │   └── CesqlError                  a CESQL expression that gives no value, or is none
    │   └── MappingError                    event fields that do not become parameters
    ├── HistoryError                    1   the data is not what was pinned, or cannot be proven complete
    │   ├── SourceMissing                   no such topic, partition or file
    │   ├── SourceChanged                   recreated topic, changed or vanished file
    │   ├── DataLost                        offsets gone by retention or truncation
    │   ├── CorruptData                     checksums, broken or truncated files
    │   ├── BadRecord                       a record that does not decode
    │   ├── SchemaMismatch                  a column that is not as declared or pinned
    │   ├── OutOfOrder                      times further out of order than the history's lateness promises
    │   └── ReadIncomplete                  a read that did not reach its end (retryable)
    ├── ExecutionError                  1   the work itself failed
    │   ├── JobFailed                       the user's function raised; its traceback comes first
    │   ├── CodeLoadError                   the job's code cannot be loaded where it runs
    │   ├── NotReproducible                 a simulation drew other numbers when the same block was drawn again
    │   ├── BadPartial                      a step returned what cannot be a partial or a result
    │   ├── WorkerDied                      the process was killed or crashed (retryable)
    │   ├── OutOfMemory                     a worker took more memory than it may, alone on the machine too
    │   ├── CorruptPartial                  a stored partial whose digest is wrong (recomputed)
    │   ├── RunCancelled                    somebody cancelled
    │   └── TimeLimitExceeded               the declared limit passed
    ├── AccessRefused                   1   a broker does not let this client in, or do what it asks
    ├── StoreError                      1   what we remember
    │   ├── StoreTooNew                     written by a newer hindscan
    │   └── Fenced                          another owner took the run over
    └── ServiceUnavailable              3   a service cannot be reached (retryable)
        ├── BrokerUnavailable
        ├── RegistryUnavailable
        ├── StoreUnavailable
        ├── SchedulerUnavailable
        └── PortInUse
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessRefused",
    "BadPartial",
    "BadRecord",
    "BrokerUnavailable",
    "CesqlError",
    "CodeLoadError",
    "ConfigError",
    "Conflict",
    "CorruptData",
    "CorruptPartial",
    "DataLost",
    "EventError",
    "ExecutionError",
    "Fenced",
    "FilterError",
    "FilterSyntaxError",
    "Gone",
    "HindscanError",
    "HistoryError",
    "InvalidEvent",
    "JobDefinitionError",
    "JobFailed",
    "MappingError",
    "NotFound",
    "NotReproducible",
    "OutOfMemory",
    "OutOfOrder",
    "ParameterError",
    "PlanRefused",
    "PortInUse",
    "ReadIncomplete",
    "RegistryUnavailable",
    "RunCancelled",
    "SchedulerUnavailable",
    "SchemaMismatch",
    "ServiceUnavailable",
    "SignatureRefused",
    "SourceChanged",
    "SourceMissing",
    "StoreError",
    "StoreTooNew",
    "StoreUnavailable",
    "TimeLimitExceeded",
    "UnknownFormat",
    "UsageError",
    "WorkerDied",
]


class HindscanError(Exception):
    """hindscan could not do what was asked."""

    #: Exit code of the command line.
    exit_code: ClassVar[int] = 1
    #: Status of the HTTP answer.
    status: ClassVar[int] = 500
    #: Whether the same attempt may succeed later without anybody changing anything.
    retryable: ClassVar[bool] = False

    def __init__(self, message: str | None = None, /, **details: object) -> None:
        super().__init__(message if message is not None else (type(self).__doc__ or "").split("\n", 1)[0])
        #: Values and ids of the fault, JSON-able, for problem documents and the store.
        self.details: dict[str, object] = details

    def __reduce__(self) -> tuple[object, ...]:
        # The default drops keyword arguments, so an error that crossed a process would lose its details.
        return (_rebuild, (type(self), str(self), self.details))


def _rebuild(kind: type[HindscanError], message: str, details: dict[str, object]) -> HindscanError:
    return kind(message, **details)


class UsageError(HindscanError):
    """The request cannot be carried out as it was made."""

    exit_code = 2
    status = 422


class ConfigError(UsageError):
    """The project file is not valid."""


class NotFound(UsageError):
    """There is nothing of that name."""

    status = 404


class ParameterError(UsageError):
    """The parameters do not fit the job."""


class JobDefinitionError(UsageError):
    """The job cannot be run as it is declared."""


class FilterSyntaxError(UsageError):
    """The filter is not valid."""


class PlanRefused(UsageError):
    """The plan is over a declared limit."""


class Gone(UsageError):
    """What this takes was deleted."""

    status = 410


class Conflict(UsageError):
    """That is not possible in the present state."""

    status = 409


class EventError(HindscanError):
    """The event cannot be taken."""

    status = 400


class InvalidEvent(EventError):
    """What was received is not a valid CloudEvent."""


class UnknownFormat(InvalidEvent):
    """What was received is in a format that cannot be read."""

    status = 415


class SignatureRefused(EventError):
    """The request does not carry a valid signature.

    `scheme` of its details names what would be one: StandardWebhooks or AmazonSNS.
    """

    status = 401


class FilterError(EventError):
    """The filter failed on this event."""


class CesqlError(FilterError):
    """The CESQL expression gives no value."""

    @property
    def kind(self) -> str:
        """The specification's kind of error: "parse", "math", "cast", "missingAttribute", "missingFunction" or "functionEvaluation"."""
        return str(self.details.get("kind"))


class MappingError(EventError):
    """The event's fields do not map to the job's parameters."""


class HistoryError(HindscanError):
    """The history could not be read as it was pinned."""


class SourceMissing(HistoryError):
    """The source of the history does not exist."""


class SourceChanged(HistoryError):
    """The source is no longer the one that was pinned."""


class DataLost(HistoryError):
    """Pinned data is gone."""


class CorruptData(HistoryError):
    """Stored data is damaged."""


class BadRecord(HistoryError):
    """A record cannot be decoded."""


class SchemaMismatch(HistoryError):
    """The data does not have the schema that was declared or pinned."""


class OutOfOrder(HistoryError):
    """Records are further out of order than the history promises."""


class ReadIncomplete(HistoryError):
    """The read did not reach its end."""

    retryable = True


class ExecutionError(HindscanError):
    """The work failed."""


class JobFailed(ExecutionError):
    """The job's function raised."""


class CodeLoadError(ExecutionError):
    """The job's code cannot be loaded where it runs."""


class BadPartial(ExecutionError):
    """A step returned what cannot be a partial or a result."""


class NotReproducible(ExecutionError):
    """A block of a simulation, drawn again, has other numbers: the function does not take them from its block alone."""


class WorkerDied(ExecutionError):
    """The process that did the work ended without an answer."""

    retryable = True


class OutOfMemory(ExecutionError):
    """The work takes more memory than a worker may."""


class CorruptPartial(ExecutionError):
    """A stored partial is damaged."""

    retryable = True


class RunCancelled(ExecutionError):
    """The run was cancelled."""


class TimeLimitExceeded(ExecutionError):
    """The run took longer than its limit."""


class AccessRefused(HindscanError):
    """A service knows this client and refuses it."""

    status = 502


class StoreError(HindscanError):
    """The store could not do what was asked."""


class StoreTooNew(StoreError):
    """The store was written by a newer hindscan."""


class Fenced(StoreError):
    """Another owner has taken this run over."""

    status = 409


class ServiceUnavailable(HindscanError):
    """A service cannot be reached."""

    exit_code = 3
    status = 503
    retryable = True


class BrokerUnavailable(ServiceUnavailable):
    """The Kafka broker cannot be reached."""


class RegistryUnavailable(ServiceUnavailable):
    """The schema registry cannot be reached."""


class SchedulerUnavailable(ServiceUnavailable):
    """The Dask scheduler cannot be reached, or has no workers."""


class StoreUnavailable(ServiceUnavailable):
    """The store cannot be reached."""


class PortInUse(ServiceUnavailable):
    """The port is taken."""
