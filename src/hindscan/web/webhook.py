"""Webhooks: who may send events (CloudEvents HTTP 1.1 Web Hooks), and the proof that they did (Standard Webhooks).

Keeps promise 12 where events come through a proxy from outside: with secrets set, a request that does not prove knowledge of one is refused before its body is parsed.
The proof covers id, time and body. What stands in headers alone is not covered: an event in binary mode has its attributes there, and could be sent again under another
identity, so signed events are structured or batched. A request that is sent again as it was is harmless: the identity of its events is in the ledger (promise 4).

Pure: no clock, no secret of its own. The sentences quoted are those of the two specifications.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from hindscan.errors import SignatureRefused
from hindscan.events.signature import HEADERS, sign

__all__ = ["TOLERANCE_SECONDS", "Webhooks"]

#: How far a request's time may be from ours, both ways.
TOLERANCE_SECONDS: Final = 300
_STRUCTURED: Final = "application/cloudevents"


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
        found = {name: [value for other, value in headers if other.decode("latin-1") == name] for name in HEADERS}
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
            identity, timestamp, signatures = (found[name][0] for name in HEADERS)
            faults = [*_time_faults(timestamp, now), *self._signature_faults(identity, timestamp, signatures, body)]
        if faults:
            raise SignatureRefused(
                f"While checking the signature of a request: it must prove that its sender knows a webhook secret; {'; '.join(faults)}. "
                "Sign as Standard Webhooks has it.",
                scheme="StandardWebhooks",
                faults=faults,
            )

    def _signature_faults(self, identity: bytes, timestamp: bytes, signatures: bytes, body: bytes) -> list[str]:
        given = [part[3:] for part in signatures.split(b" ") if part.startswith(b"v1,")]
        if not given:
            return ["webhook-signature must have at least one signature that begins with v1, and has none"]
        valid = [
            hmac.compare_digest(sign(secret, identity, timestamp, body), signature)
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
