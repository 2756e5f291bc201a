"""Webhooks: who may send events (CloudEvents HTTP 1.1 Web Hooks), and the proof that they did (Standard Webhooks).

Keeps promise 12 where events come through a proxy from outside: with secrets set, a request that does not prove knowledge of one is refused before its body is parsed.
The proof covers id, time and body. What stands in headers alone is not covered: an event in binary mode has its attributes there, and could be sent again under another
identity, so signed events are structured or batched. A request that is sent again as it was is harmless: the identity of its events is in the ledger (promise 4).

Pure: no clock, no secret of its own. The sentences quoted are those of the two specifications.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hindscan.errors import SignatureRefused

__all__ = ["TOLERANCE_SECONDS", "Webhooks", "read_secret", "signature_headers"]

#: How far a request's time may be from ours, both ways.
TOLERANCE_SECONDS: Final = 300
#: "symmetric secrets [...] between 24 bytes (192 bits) and 64 bytes (512 bits)".
_LEAST_BYTES: Final = 24

_STRUCTURED: Final = "application/cloudevents"
_PREFIX: Final = "whsec_"
_HEADERS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")


def read_secret(text: str) -> bytes:
    """Read a secret as it is handed out: base64, with or without ``whsec_`` before it.

    Raises
    ------
    ValueError
        It is not base64, or of less than 24 bytes. The text does not repeat it.
    """
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"must be base64, with or without {_PREFIX} before it, and is not") from None
    if len(secret) < _LEAST_BYTES:
        raise ValueError(f"must be of at least {_LEAST_BYTES} bytes, and has {len(secret)}")
    return secret


def signature_headers(secret: bytes, identity: str, body: bytes, now: float) -> dict[str, str]:
    """Give the headers that prove knowledge of a secret."""
    timestamp = str(int(now))
    signature = _signature(secret, identity.encode(), timestamp.encode(), body).decode()
    return dict(zip(_HEADERS, (identity, timestamp, f"v1,{signature}"), strict=True))


def _signature(secret: bytes, identity: bytes, timestamp: bytes, body: bytes) -> bytes:
    # "the signature is [...] the message id, the timestamp, and the payload, all separated by full-stop characters"
    content = b".".join((identity, timestamp, body))
    return base64.b64encode(hmac.digest(secret, content, hashlib.sha256))


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhooks:
    """Who may send events, and what must prove it."""

    #: Each is valid: while one is replaced by another, senders use either.
    secrets: tuple[bytes, ...] = field(default=(), repr=False)
    #: Names of senders that the handshake lets in; ``*``: all.
    origins: tuple[str, ...] = ("*",)

    def allows(self, origin: str) -> bool:
        """Tell whether a sender of this name may send."""
        return "*" in self.origins or origin.lower() in {allowed.lower() for allowed in self.origins}

    def check(
        self, headers: Sequence[tuple[bytes, bytes]], body: bytes, now: float, *, cloudevents: bool = True
    ) -> None:
        """Check the proof that a request carries; without secrets none is demanded.

        Parameters
        ----------
        headers : Sequence[tuple[bytes, bytes]]
            All headers, names in lower case.
        body : bytes
            As it was received, before anything has read it.
        now : float
            Seconds since the epoch.
        cloudevents : bool
            Whether the body is to be a CloudEvent; of any other all that counts is in the body.

        Raises
        ------
        SignatureRefused
            With every fault. It does not say what a valid signature would be.
        """
        if not self.secrets:
            return
        found = {name: [value for other, value in headers if other.decode("latin-1") == name] for name in _HEADERS}
        faults = [
            f"header {name} must be there once, and is there {len(values)} times"
            for name, values in found.items()
            if len(values) != 1
        ]
        kinds = [value.decode("latin-1").strip().lower() for name, value in headers if name == b"content-type"]
        if cloudevents and not all(kind.startswith(_STRUCTURED) for kind in kinds or [""]):
            faults.append(
                f"the content type must be {_STRUCTURED}+json or {_STRUCTURED}-batch+json: attributes in headers are not signed"
            )
        if not faults:
            identity, timestamp, signatures = (found[name][0] for name in _HEADERS)
            faults = [*_time_faults(timestamp, now), *self._signature_faults(identity, timestamp, signatures, body)]
        if faults:
            raise SignatureRefused(
                f"While checking the signature of a request: it must prove that its sender knows a webhook secret; {'; '.join(faults)}. "
                "Sign as Standard Webhooks has it.",
                faults=faults,
            )

    def _signature_faults(self, identity: bytes, timestamp: bytes, signatures: bytes, body: bytes) -> list[str]:
        given = [part[3:] for part in signatures.split(b" ") if part.startswith(b"v1,")]
        if not given:
            return ["webhook-signature must have at least one signature that begins with v1, and has none"]
        valid = [
            hmac.compare_digest(_signature(secret, identity, timestamp, body), signature)
            for secret in self.secrets
            for signature in given
        ]
        return [] if any(valid) else ["no signature is valid"]


def _time_faults(timestamp: bytes, now: float) -> list[str]:
    # "The timestamp is an integer unix timestamp (seconds since epoch)." Longer ones are no time of this planet.
    if not timestamp.isdigit() or len(timestamp) > 12:
        return ["webhook-timestamp must be whole seconds since 1970, and is not"]
    off = int(timestamp) - now
    if abs(off) <= TOLERANCE_SECONDS:
        return []
    return [
        f"webhook-timestamp must be within {TOLERANCE_SECONDS} s of now, and is {abs(off):.0f} s {'ahead' if off > 0 else 'old'}"
    ]
