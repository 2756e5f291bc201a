"""Every way in does all that hindscan does on a broker, with the rights that `hindscan doctor --acls` prints and no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from clock import until
from hindscan.data import Data
from hindscan.errors import AccessRefused, ConfigError, ServiceUnavailable
from hindscan.events.event import Event
from hindscan.events.kafka import KafkaListener
from hindscan.events.received import Received, Unread
from hindscan.events.wire import encode_kafka
from hindscan.generate import generate_auctions
from hindscan.history.snapshot import KafkaPin, Window
from hindscan.kafka.cluster import ping
from hindscan.kafka.topic import TopicInspector
from hindscan.kafka.writer import send
from hindscan.plans.cut import cut
from integration.security.broker import CANARY, USERS, Authority, SecuredKafka, Settings
from integration.security.conftest import Site
from integration.security.provider import STALE

pytestmark = pytest.mark.kafka

BIDS = 300


def emit(site: Site, settings: Settings, id: str) -> None:
    message = encode_kafka(Event(id=id, source="/s", type="t"), "structured")
    send(settings, site.closed, message.value, key=b"k", headers=list(message.headers))


def heard(site: Site, settings: Settings, ids: list[str]) -> KafkaListener:
    """Listen from the beginning until these events have come, or an error has."""
    taken: list[Received] = []
    changed = threading.Event()

    def record(batch: list[Unread]) -> None:
        taken.extend(one for unread in batch for one in unread.read())
        changed.set()

    listener = KafkaListener(settings, site.group, "one", [site.closed], record, lambda *_: None, cluster="prod")
    with listener:
        until(lambda: len(taken) >= len(ids) or listener.error is not None, f"{ids} heard in group {site.group}", 30)
    assert listener.error is not None or [one.event.id for one in taken if one.event is not None] == ids
    return listener


def read(site: Site) -> tuple[KafkaPin, int]:
    """Pin the history, read every slice alone, verify, and count the rows."""
    history = site.load().history("bids")
    pin = history.pin(Window())
    assert isinstance(pin, KafkaPin)
    rows = 0
    for piece in cut(pin, 1000):
        with history.reader(pin).open([piece]) as source:
            rows += Data("bids", {"bids": source}).arrow(["price"]).num_rows
            [proof] = source.proofs()
            assert proof.digest
    return pin, rows


@pytest.mark.parametrize("way", USERS)
def test_each_way_in_writes_pins_reads_verifies_and_listens(
    secured: SecuredKafka, site: Callable[[str], Site], way: str
) -> None:
    here = site(way)
    secured.grant(here.user, here.rights())
    settings = here.load().clusters["prod"]
    assert settings == here.settings, "any property of librdkafka passes through, secrets filled in"
    generate_auctions(f"kafka:{here.bids}", bids=BIDS, kafka=settings, partitions=2)
    pin, rows = read(here)
    assert (pin.cluster, rows) == ("prod", BIDS)
    assert (pin.cleanup_policy, pin.retention_ms) == ("delete", -1)
    emit(here, settings, "first")
    assert heard(here, settings, ["first"]).error is None
    assert CANARY not in repr(here.load()) + repr(pin)


def questions(settings: Settings) -> dict[str, Callable[[], object]]:
    """Each way to begin talking to a broker."""
    return {
        "ask": lambda: TopicInspector(settings, "t").describe(),
        "connect": lambda: ping(settings, 5.0),
        "write": lambda: send(settings, "t", b"v", key=b"k", headers=[]),
    }


def is_refused_in_time(settings: Settings, what: str, *names: str) -> None:
    for name in names or ("ask",):
        ask = questions(settings)[name]
        began = time.monotonic()
        with pytest.raises(AccessRefused) as caught:
            ask()
        seconds = time.monotonic() - began
        assert seconds < 10, f"{name} took {seconds:.1f} s"
        assert what in str(caught.value), name
        assert str(settings["bootstrap.servers"]) in str(caught.value)
        assert CANARY not in str(caught.value) + repr(caught.value.details)


@pytest.mark.parametrize(
    ("way", "changed", "what"),
    [
        ("plain", {"sasl.password": f"{CANARY}-wrong"}, "Invalid username or password"),
        ("scram-256", {"sasl.password": f"{CANARY}-wrong"}, "invalid credentials with SASL mechanism SCRAM-SHA-256"),
        ("scram-512", {"sasl.mechanism": "PLAIN"}, "supported mechanisms: SCRAM-SHA"),
        ("oidc", {"sasl.oauthbearer.client.secret": f"{CANARY}-wrong"}, "invalid_client"),
        ("oidc", {"sasl.oauthbearer.client.id": STALE}, "unexpired token"),
        ("oauth", {"sasl.mechanism": "PLAIN", "sasl.username": "a", "sasl.password": f"{CANARY}-wrong"}, "OAUTHBEARER"),
    ],
)
def test_a_wrong_user_password_token_or_mechanism_is_refused_by_name_within_ten_seconds(
    secured: SecuredKafka, way: str, changed: Settings, what: str
) -> None:
    is_refused_in_time(secured.settings(way) | changed, what)


def test_a_provider_of_tokens_that_is_away_is_a_service_that_is_away(secured: SecuredKafka) -> None:
    settings = secured.settings("oidc") | {"sasl.oauthbearer.token.endpoint.url": "http://127.0.0.1:1/token"}
    with pytest.raises(ServiceUnavailable, match=r"provider of tokens.*127\.0\.0\.1:1"):
        questions(settings)["ask"]()


def test_however_the_talk_begins_the_refusal_is_heard(secured: SecuredKafka) -> None:
    settings = secured.settings("plain", sasl_password=f"{CANARY}-wrong")
    is_refused_in_time(settings, "Invalid username or password", *questions(settings))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that the broker does not know."""
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


def test_a_certificate_that_is_wrong_expired_or_missing_is_refused_by_name_within_ten_seconds(
    secured: SecuredKafka, stranger: Authority
) -> None:
    good = {name: value for name, value in secured.settings("mtls").items() if name != "ssl.key.password"}
    bare = {name: value for name, value in good.items() if not name.startswith(("ssl.key", "ssl.certificate"))}
    is_refused_in_time(bare, "certificate required", *questions(bare))
    for (key, certificate), what in (
        (stranger.issue("milo"), "certificate required"),
        (secured.authority.issue("milo", days=(-2, -1)), "certificate"),
    ):
        is_refused_in_time(good | {"ssl.key.location": str(key), "ssl.certificate.location": str(certificate)}, what)


@pytest.mark.parametrize("way", ["scram-256", "mtls"])
def test_a_broker_whose_certificate_nobody_vouches_for_is_not_trusted(
    secured: SecuredKafka, stranger: Authority, way: str
) -> None:
    settings = secured.settings(way, ssl_ca_location=str(stranger.file))
    is_refused_in_time(settings, "broker certificate could not be verified")


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"ssl.key.password": f"{CANARY}-wrong"}, "ssl.key.location failed"),
        ({"ssl.certificate.location": "/nowhere.pem"}, "ssl.certificate.location failed"),
        ({"sasl.pasword": f"{CANARY}-wrong"}, 'No such configuration property: "sasl.pasword"'),
        ({"security.protocol": "TLS"}, "security.protocol"),
    ],
)
def test_a_property_that_the_client_does_not_take_is_a_clear_error_at_once(
    secured: SecuredKafka, changed: Settings, what: str
) -> None:
    settings = secured.settings("mtls") | changed
    for name, ask in questions(settings).items():
        with pytest.raises(ConfigError) as caught:
            ask()
        assert what in str(caught.value), name
        assert CANARY not in str(caught.value)
