"""Being let in by a broker, or being told why not: clients that are opened with a clear error, and refusals that are heard.

A client that a broker does not let in goes on trying for ever and calls that a time-out; why it was refused it says only to a callback. Here that
callback is a `Refusals`, and whoever waits for an answer looks at it meanwhile: a wrong password or certificate is an error within two seconds, by name,
and not "nobody answered" after ten. What a broker says never holds a secret. A right that is missing is named with the resource (`refused`), as
`hindscan doctor --acls` prints it.

Beside `kafka` one of the users of confluent_kafka; a foundation. ::

    opened(kind, properties) -> client;  Admin.result(future) -> answer | AccessRefused
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, Final, TypeVar

from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though not as the typing rules want it
    AdminClient,
    ClusterMetadata,
    ListOffsetsResultInfo,
)

from hindscan.errors import AccessRefused, ConfigError, ServiceUnavailable

__all__ = ["FORBIDDEN", "Admin", "Refusals", "answered", "opened", "refused"]

#: Seconds for which the log leaves out what was said before.
_SAID_SECONDS: Final = 60.0


class _Sparingly(logging.Filter):
    """Lets a complaint pass once a minute: while a broker is away each client repeats it up to twenty times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether it is new; the number of the client and how long it took make no difference."""
        complaint = re.sub(r"rdkafka#(\w+)-\d+|\(after \d+ms", r"\1", record.getMessage())
        now = time.monotonic()
        self._said = {text: at for text, at in self._said.items() if now - at < _SAID_SECONDS}
        if complaint in self._said:
            return False
        self._said[complaint] = now
        return True


_LOG = logging.getLogger("hindscan.kafka")
# The client complains at length while a broker is away. Who wants to read it sets a handler; nobody finds it on standard error.
_LOG.addHandler(logging.NullHandler())
_LOG.addFilter(_Sparingly())
_Client = TypeVar("_Client")
_Answer = TypeVar("_Answer")

#: What is refused for want of a right: the kind of resource, and the right that hindscan needs on it unless the caller knows better.
FORBIDDEN: Final[Mapping[str, tuple[str, str]]] = {
    "TOPIC_AUTHORIZATION_FAILED": ("topic", "DESCRIBE"),
    "GROUP_AUTHORIZATION_FAILED": ("group", "READ"),
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": ("transactional id", "WRITE"),
    "CLUSTER_AUTHORIZATION_FAILED": ("cluster", "IDEMPOTENT_WRITE"),
}
#: How the client says that it could not reach whoever gives out tokens.
_PROVIDER_AWAY: Final = re.compile(
    r"acquire SASL OAUTHBEARER token: .*(connect|resolve|timed out|timeout)", re.IGNORECASE
)
#: A client that is refused tries again within this time; a broker that goes down now and then, in the midst of a long write, is none that refuses.
_SOON_SECONDS: Final = 15.0
#: Looks at what was refused this often while an answer is waited for.
_LOOK_SECONDS: Final = 0.2
#: Metadata is asked for in goes of this length and twice as long each time, because what was refused can be looked at only in between.
_FIRST_SECONDS: Final = 1.0


class Refusals:
    """Why brokers did not let a client in; given to it as ``error_cb``.

    One refusal may be a broker that was just going down; the second of the same client, soon after, is believed.

    Parameters
    ----------
    clock : callable
        Gives seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said: list[tuple[float, str]] = []
        self._too_large = ""

    def __call__(self, error: KafkaError) -> None:
        """Hear an error of the client's connections."""
        text = error.str()
        if "increase receive.message.max.bytes" in text:
            self._too_large = text
        # A certificate that the broker does not take is told by the broker's alert, after the client believed to be connected.
        if error.name() in {"_AUTHENTICATION", "_SSL"} or (error.name() == "_TRANSPORT" and "SSL alert" in text):
            self._said = [(at, said) for at, said in self._said if self._clock() - at < _SOON_SECONDS]
            self._said.append((self._clock(), text))

    def forget(self) -> None:
        """Begin anew: what was refused before says nothing of a new question."""
        self._said.clear()

    def check_size(self, doing: str, settings: Mapping[str, Any]) -> None:
        """Raise if an answer was larger than the client may take: it would be asked for again and again.

        Raises
        ------
        ConfigError
            With the setting that is too small.
        """
        if self._too_large:
            raise ConfigError(
                f"{doing}: the largest record must fit into `receive.message.max.bytes`; the broker at {settings.get('bootstrap.servers')} sent more: "
                f"{self._too_large}. Raise it in [kafka.NAME]."
            )

    def check(self, doing: str, settings: Mapping[str, Any], *, enough: int = 2) -> None:
        """Raise if the client was refused so many times.

        Raises
        ------
        AccessRefused
            With what the broker, or the client of the broker, did not accept.
        ServiceUnavailable
            Whoever gives out tokens does not answer.
        """
        if len(self._said) >= enough:
            servers = settings.get("bootstrap.servers")
            said = self._said[-1][1]
            if _PROVIDER_AWAY.search(said):
                raise ServiceUnavailable(
                    f"{doing}: the provider of tokens for the broker at {servers} must answer; it did not: {said}. Check that it runs, and "
                    "`sasl.oauthbearer.token.endpoint.url` in [kafka.NAME].",
                    servers=servers,
                )
            raise AccessRefused(
                f"{doing}: the broker at {servers} must let this client in; it was refused: {said}. Check user, password, certificates, "
                "`security.protocol` and `sasl.mechanism` of the cluster in [kafka.NAME].",
                servers=servers,
            )


def refused(doing: str, error: KafkaError, settings: Mapping[str, Any], right: str | None = None) -> AccessRefused:
    """Give the error that says which right is missing, for the caller to raise.

    Parameters
    ----------
    doing : str
        What was being done.
    error : KafkaError
        One of `FORBIDDEN`.
    settings : Mapping
        The cluster's properties.
    right : str, optional
        The right and the resource, such as ``READ on topic 'bids'``. Default: what `FORBIDDEN` says.
    """
    kind, operation = FORBIDDEN[error.name()]
    # An idempotent producer without a right on its topic is refused for want of one on the cluster, which it then would not need.
    needed = (
        right if right is not None and (f" on {kind}" in right or kind == "cluster") else f"{operation} on the {kind}"
    )
    servers = settings.get("bootstrap.servers")
    return AccessRefused(
        f"{doing}: this client must have the right {needed}; the broker at {servers} refused: {error.str()}. "
        "Grant it: `hindscan doctor --acls` prints the rights that are needed, ready for kafka-acls.sh.",
        servers=servers,
        right=needed,
        code=error.name(),
    )


def opened(kind: Callable[..., _Client], settings: Mapping[str, Any]) -> _Client:
    """Make a client of the library; connects to nothing yet.

    Raises
    ------
    ConfigError
        A property is none, or its value is not valid: an unknown name, a file of a certificate that cannot be read.
    """
    try:
        return kind(dict(settings), logger=_LOG)
    except (KafkaException, TypeError, ValueError) as fault:
        error = fault.args[0] if fault.args else fault
        said = error.str() if isinstance(error, KafkaError) else error
        raise ConfigError(
            f"While connecting to Kafka at {settings.get('bootstrap.servers')}: every property of the cluster must be librdkafka's and valid; "
            f"the client refused: {said}. Correct it in [kafka.NAME]."
        ) from fault


def answered(told: ListOffsetsResultInfo) -> ListOffsetsResultInfo:
    """Give what was told of an offset, if anything was.

    Raises
    ------
    KafkaException
        The partition has no leader that could be asked. The client says so by an invalid offset and no error: taken for an offset it would be less than
        any other, and the log would look truncated.
    """
    if told.offset == OFFSET_INVALID:
        raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
    return told


class Admin:
    """A client for questions, which hears why it is not let in while it waits.

    Parameters
    ----------
    settings : Mapping
        librdkafka properties.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self._refusals = Refusals()
        self.client: AdminClient = opened(AdminClient, {**settings, "error_cb": self._refusals})

    def result(self, doing: str, answer: Future[_Answer], timeout_seconds: float) -> _Answer:
        """Wait for an answer of `client`.

        Raises
        ------
        AccessRefused
            The broker does not let this client in.
        KafkaException
            What the answer holds.
        concurrent.futures.TimeoutError
            Nobody answered.
        """
        self._refusals.forget()
        deadline = time.monotonic() + timeout_seconds
        while True:
            remaining = deadline - time.monotonic()
            try:
                return answer.result(max(min(_LOOK_SECONDS, remaining), 0.0))
            except FutureTimeoutError:
                self._look(doing, last=remaining <= 0)
                if remaining <= 0:
                    raise
            except KafkaException:
                self._look(doing, last=True)
                raise

    def metadata(self, doing: str, timeout_seconds: float) -> ClusterMetadata:
        """Ask for the topics that this client may see.

        Raises
        ------
        AccessRefused
            The broker does not let this client in.
        KafkaException
            Nobody answered.
        """
        self._refusals.forget()
        remaining, go = timeout_seconds, _FIRST_SECONDS
        while True:
            seconds = min(go, remaining)
            remaining, go = remaining - seconds, 2 * go
            try:
                return self.client.list_topics(timeout=seconds)
            except KafkaException:
                self._look(doing, last=remaining <= 0)
                if remaining <= 0:
                    raise

    def _look(self, doing: str, *, last: bool) -> None:
        self.client.poll(0)
        self._refusals.check(doing, self._settings, enough=1 if last else 2)
