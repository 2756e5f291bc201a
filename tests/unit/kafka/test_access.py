"""When a refusal is believed, and that what is no answer is not taken for one."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import OFFSET_INVALID, KafkaError, KafkaException, Producer

from hindscan.errors import AccessRefused, ConfigError, ServiceUnavailable
from hindscan.kafka.access import FORBIDDEN, Refusals, answered, opened
from hindscan.kafka.cluster import translated

SETTINGS = {"bootstrap.servers": "b:1"}


def said(code: int, text: str) -> KafkaError:
    return KafkaError(code, text)


REFUSED = [
    said(KafkaError._AUTHENTICATION, "SASL authentication error: no"),
    said(KafkaError._SSL, "SSL handshake failed: no"),
    said(KafkaError._TRANSPORT, "Receive failed: SSL alert number 116"),
]


@pytest.mark.parametrize("error", REFUSED)
def test_the_second_refusal_is_believed_and_the_last_look_believes_one(error: KafkaError) -> None:
    refusals = Refusals()
    refusals(error)
    refusals.check("While asking", SETTINGS)
    with pytest.raises(
        AccessRefused, match="While asking: the broker at b:1 must let this client in; it was refused: "
    ):
        refusals.check("While asking", SETTINGS, enough=1)
    refusals(error)
    with pytest.raises(AccessRefused):
        refusals.check("While asking", SETTINGS)
    refusals.forget()
    refusals.check("While asking", SETTINGS, enough=1)


@pytest.mark.parametrize(
    "why", ["Failed to connect to h:1 after 0 ms", "Could not resolve host: h", "Operation timed out"]
)
def test_a_provider_of_tokens_that_does_not_answer_is_a_service_that_is_away(why: str) -> None:
    refusals = Refusals()
    refusals(said(KafkaError._AUTHENTICATION, f"Failed to acquire SASL OAUTHBEARER token: {why}"))
    with pytest.raises(ServiceUnavailable, match="provider of tokens"):
        refusals.check("While asking", SETTINGS, enough=1)


def test_two_refusals_far_apart_are_two_brokers_that_went_down() -> None:
    now = [0.0]
    refusals = Refusals(clock=lambda: now[0])
    for seconds in (0.0, 100.0, 200.0):
        now[0] = seconds
        refusals(REFUSED[0])
        refusals.check("While writing", SETTINGS)
    now[0] = 201.0
    refusals(REFUSED[0])
    with pytest.raises(AccessRefused):
        refusals.check("While writing", SETTINGS)


def test_a_broker_that_is_away_is_no_refusal() -> None:
    refusals = Refusals()
    for error in (
        said(KafkaError._TRANSPORT, "Connect failed: Connection refused"),
        said(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down"),
        said(KafkaError._RESOLVE, "no such host"),
    ):
        refusals(error)
        refusals(error)
    refusals.check("While asking", SETTINGS, enough=1)
    refusals.check_size("While asking", SETTINGS)


def test_an_answer_that_is_too_large_names_the_setting() -> None:
    refusals = Refusals()
    refusals(
        said(KafkaError._BAD_MSG, "Receive failed: Invalid response size 9 (0..8): increase receive.message.max.bytes")
    )
    refusals.check("While reading", SETTINGS, enough=1)
    with pytest.raises(
        ConfigError, match=r"While reading: .*`receive\.message\.max\.bytes`; the broker at b:1 sent more"
    ):
        refusals.check_size("While reading", SETTINGS)


def test_an_offset_that_nobody_told_is_no_offset() -> None:
    told: Any = SimpleNamespace(offset=7)
    assert answered(told) is told
    none: Any = SimpleNamespace(offset=-1)
    assert answered(none) is none, "the end of what a time look-up can find"
    absent: Any = SimpleNamespace(offset=OFFSET_INVALID)
    with pytest.raises(KafkaException, match="LEADER_NOT_AVAILABLE"):
        answered(absent)


@pytest.mark.parametrize("name", sorted(FORBIDDEN))
def test_a_missing_right_is_named_whoever_asks(name: str) -> None:
    error = said(getattr(KafkaError, name), "not authorized")
    plain = translated("While asking", error, SETTINGS)
    assert isinstance(plain, AccessRefused)
    kind, operation = FORBIDDEN[name]
    assert plain.details["right"] == f"{operation} on the {kind}"
    named = translated("While writing", error, SETTINGS, "WRITE on topic 't'")
    # A group or a transactional id that is refused is not the topic; the cluster is what an idempotent producer falls back to.
    wanted = "WRITE on topic 't'" if kind in ("topic", "cluster") else f"{operation} on the {kind}"
    assert named.details["right"] == wanted
    assert f"must have the right {wanted}" in str(named)


@pytest.mark.parametrize(
    "settings", [{"no.such": "x"}, {"security.protocol": "TLS"}, {"linger.ms": "x"}, {"acks": object()}]
)
def test_a_property_that_the_client_does_not_take_is_an_error_of_the_project(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Kafka at b:1: every property of the cluster must be librdkafka's and valid"):
        opened(Producer, {**SETTINGS, **settings})


def test_a_complaint_that_every_client_repeats_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("hindscan.kafka.access.time.monotonic", lambda: now)
    log = logging.getLogger("hindscan.kafka")
    away = "FAIL [rdkafka#producer-%d] [thrd:b:1/bootstrap]: b:1/bootstrap: Connection refused (after %dms in state CONNECT)"
    with caplog.at_level(logging.ERROR, logger="hindscan.kafka"):
        for client in range(5):
            log.error(away, client, client * 7)
        log.error("FAIL [rdkafka#producer-1] [thrd:c:1/bootstrap]: c:1/bootstrap: Connection refused (after 0ms in state CONNECT)")  # fmt: skip
        now += 61
        log.error(away, 9, 0)
    assert [record.getMessage()[:24] for record in caplog.records] == [
        "FAIL [rdkafka#producer-0", "FAIL [rdkafka#producer-1", "FAIL [rdkafka#producer-9",
    ]  # fmt: skip
