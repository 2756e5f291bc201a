"""Signatures of webhooks: the vector of Standard Webhooks, and what an attacker would try."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import SignatureRefused
from hindscan.events.signature import read_secret, signature_headers
from hindscan.web.webhook import TOLERANCE_SECONDS, Webhooks

#: As the reference implementations of Standard Webhooks test themselves.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
IDENTITY, TIMESTAMP, BODY = b"msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}'
SIGNATURE = b"v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = base64.b64encode(bytes(range(32))).decode()

Headers = list[tuple[bytes, bytes]]


def signed(
    *secrets: str, identity: bytes = IDENTITY, timestamp: int = TIMESTAMP, body: bytes = BODY
) -> list[tuple[bytes, bytes]]:
    """Sign by the words of the specification, with nothing of ours."""
    content = identity + b"." + str(timestamp).encode() + b"." + body
    keys = [base64.b64decode(secret.removeprefix("whsec_")) for secret in secrets]
    signatures = [b"v1," + base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()) for key in keys]
    return headers(identity, str(timestamp).encode(), b" ".join(signatures))


def headers(identity: bytes, timestamp: bytes, signature: bytes) -> Headers:
    return [
        (b"content-type", b"application/cloudevents+json"),
        (b"webhook-id", identity),
        (b"webhook-timestamp", timestamp),
        (b"webhook-signature", signature),
    ]


def webhooks(*secrets: str) -> Webhooks:
    return Webhooks(secrets=tuple(read_secret(secret) for secret in secrets or (SECRET,)))


def faults(
    found: Sequence[tuple[bytes, bytes]], body: bytes = BODY, now: float = TIMESTAMP, *secrets: str
) -> list[str]:
    with pytest.raises(SignatureRefused) as refused:
        webhooks(*secrets).check(found, body, now)
    listed = refused.value.details["faults"]
    assert isinstance(listed, list)
    assert SECRET.removeprefix("whsec_") not in str(refused.value)
    return listed


def test_the_vector_of_the_specification_is_valid_and_signed_alike() -> None:
    webhooks().check(headers(IDENTITY, str(TIMESTAMP).encode(), SIGNATURE), BODY, TIMESTAMP)
    assert signed(SECRET)[-1] == (b"webhook-signature", SIGNATURE)
    ours = signature_headers([read_secret(SECRET)], IDENTITY.decode(), BODY, TIMESTAMP + 0.9)
    assert list(ours.values()) == [IDENTITY.decode(), str(TIMESTAMP), SIGNATURE.decode()]


def test_without_secrets_no_proof_is_demanded() -> None:
    Webhooks().check([], b"", 0)


def test_while_secrets_are_rotated_either_is_valid_and_one_of_several_signatures_is_enough() -> None:
    for sender in ((SECRET,), (OTHER,), (OTHER, SECRET)):
        webhooks(SECRET, OTHER).check(signed(*sender), BODY, TIMESTAMP)
    webhooks(SECRET).check(signed(OTHER, SECRET), BODY, TIMESTAMP)
    assert faults(signed(OTHER)) == ["no signature is valid"]


@pytest.mark.parametrize("off", [-TOLERANCE_SECONDS, -1, 0, 1, TOLERANCE_SECONDS])
def test_a_time_within_five_minutes_is_valid(off: int) -> None:
    webhooks().check(signed(SECRET), BODY, TIMESTAMP + off)


@pytest.mark.parametrize(("off", "word"), [(TOLERANCE_SECONDS + 1, "old"), (-TOLERANCE_SECONDS - 1, "ahead")])
def test_an_old_and_a_future_time_are_refused(off: int, word: str) -> None:
    (fault,) = faults(signed(SECRET), BODY, TIMESTAMP + off)
    assert word in fault


@pytest.mark.parametrize(
    "time", [b"", b"now", b"1e9", b"-1", b"1614265330.0", b" 1614265330", b"9" * 5000, b"\xc2\xb2"]
)
def test_what_is_no_time_is_refused(time: bytes) -> None:
    assert any("webhook-timestamp" in fault for fault in faults(headers(IDENTITY, time, SIGNATURE)))


@pytest.mark.parametrize("signature", [
    b"", b"v1", b"v1,", SIGNATURE[3:], SIGNATURE[:-1], SIGNATURE[:-2], b"v2," + SIGNATURE[3:], b"v1a," + SIGNATURE[3:], SIGNATURE.upper(),
    b"v1," * 1000, b"v1,\xff\xfe", b"v1,====",
])  # fmt: skip
def test_a_signature_that_is_cut_or_of_another_version_is_refused(signature: bytes) -> None:
    assert len(faults(headers(IDENTITY, str(TIMESTAMP).encode(), signature))) == 1


@given(place=st.integers(0, 8 * len(BODY) - 1))
def test_a_flipped_bit_of_the_body_is_refused(place: int) -> None:
    flipped = bytearray(BODY)
    flipped[place // 8] ^= 1 << place % 8
    assert faults(signed(SECRET), bytes(flipped)) == ["no signature is valid"]


def test_another_id_or_time_under_the_same_signature_is_refused() -> None:
    assert faults(headers(b"msg_other", str(TIMESTAMP).encode(), SIGNATURE)) == ["no signature is valid"]
    assert faults(headers(IDENTITY, str(TIMESTAMP + 1).encode(), SIGNATURE)) == ["no signature is valid"]


def test_every_header_that_is_missing_or_twice_is_named() -> None:
    assert len(faults([(b"content-type", b"application/cloudevents+json")])) == 3
    (fault,) = faults([*signed(SECRET), (b"webhook-id", b"other")])
    assert "webhook-id" in fault
    assert "2 times" in fault


@pytest.mark.parametrize("media_type", [b"application/json", b"text/plain", b"", None])
def test_binary_mode_is_refused_because_its_attributes_are_not_signed(media_type: bytes | None) -> None:
    kind = [] if media_type is None else [(b"content-type", media_type)]
    (fault,) = faults([*kind, *signed(SECRET)[1:], (b"ce-id", b"another")])
    assert "attributes in headers are not signed" in fault


@pytest.mark.parametrize(
    ("text", "word"), [("whsec_AAAA", "24"), ("", "24"), ("not base64!", "base64"), ("ünicode", "base64")]
)
def test_a_secret_that_is_none_is_refused_and_not_repeated(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word) as refused:
        read_secret(text)
    assert not text or text not in str(refused.value)


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(webhooks())


def test_origins_are_compared_as_host_names() -> None:
    assert Webhooks().allows("any.example")
    some = Webhooks(origins=("Auctions.example",))
    assert some.allows("auctions.example")
    assert not some.allows("auctions.example.evil.example")
