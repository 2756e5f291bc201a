"""Signatures of webhooks as Standard Webhooks has them: secrets, and the headers that prove knowledge of one.

Keeps promise 12 both ways: what comes in is checked by `web.webhook`, what goes out is signed by `outgoing`. Pure: no clock, no secret of its own. The sentences
quoted are those of the specification.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

__all__ = ["HEADERS", "read_secret", "sign", "signature_headers"]

#: Names of the headers: id, time, signatures.
HEADERS: Final = ("webhook-id", "webhook-timestamp", "webhook-signature")
#: "symmetric secrets [...] between 24 bytes (192 bits) and 64 bytes (512 bits)".
_LEAST_BYTES: Final = 24
_PREFIX: Final = "whsec_"


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


def signature_headers(secrets: Sequence[bytes], identity: str, body: bytes, now: float) -> dict[str, str]:
    """Give the headers that prove knowledge of secrets, with a signature by each: while one is replaced by another, receivers know either."""
    timestamp = str(int(now))
    # "Multiple signatures are space delimited."
    signed = " ".join(f"v1,{sign(secret, identity.encode(), timestamp.encode(), body).decode()}" for secret in secrets)
    return dict(zip(HEADERS, (identity, timestamp, signed), strict=True))


def sign(secret: bytes, identity: bytes, timestamp: bytes, body: bytes) -> bytes:
    """Sign a body under an id and a time."""
    # "the signature is [...] the message id, the timestamp, and the payload, all separated by full-stop characters"
    content = b".".join((identity, timestamp, body))
    return base64.b64encode(hmac.digest(secret, content, hashlib.sha256))
