"""Requests of ill will: what a sender can get wrong, or does on purpose, as bytes on a socket.

Each case says what the answer must be: its status, and words of its reason. Bytes, not a client's calls, because a client would correct half of them.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import dataclass
from typing import Any

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
#: Generous: two busy cores.
SECONDS = 60.0


@dataclass(frozen=True)
class Case:
    """One request, and the refusal that it must get."""

    name: str
    status: int
    #: Each stands in the answer.
    words: tuple[str, ...]
    raw: bytes


def request(
    body: bytes | str = b"",
    *headers: tuple[str, str | bytes],
    method: str = "POST",
    path: str = "/events",
    host: str | None = "127.0.0.1",
    length: str | None = None,
) -> bytes:
    """Write a request as it goes over the wire."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1".encode()]
    if host is not None:
        lines.append(f"Host: {host}".encode())
    lines.append(f"Content-Length: {len(content) if length is None else length}".encode())
    lines += [
        name.encode() + b": " + (value if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in headers
    ]
    return b"\r\n".join([*lines, b"Connection: close", b"", content])


def event(**changed: Any) -> dict[str, Any]:
    """Build an event that matches the sample's trigger."""
    built = {
        "specversion": "1.0", "id": "hostile", "source": "/auctions", "type": "auction.closed", "time": "2020-06-01T00:00:00Z",
        "datacontenttype": "application/json", "data": {"category": "cars", "year": 2018},
    }  # fmt: skip
    return {name: value for name, value in {**built, **changed}.items() if value is not ...}


def text(data: str) -> str:
    """Write an event whose data is a JSON text that no writer would give."""
    return json.dumps(event(data="@")).replace('"@"', data)


def structured(body: bytes | str, media_type: str = STRUCTURED) -> bytes:
    return request(body, ("Content-Type", media_type))


def binary(body: bytes | str = '{"category": "cars"}', **changed: Any) -> bytes:
    attributes: dict[str, Any] = {
        "ce-specversion": "1.0", "ce-id": "hostile", "ce-source": "/auctions", "ce-type": "auction.closed", "Content-Type": "application/json",
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }  # fmt: skip
    return request(body, *((name, value) for name, value in attributes.items() if value is not ...))


def submission(body: bytes | str, *headers: tuple[str, str], path: str = "/jobs/bidder_scan/runs") -> bytes:
    return request(body, ("Content-Type", "application/json"), *headers, path=path)


def answer_to(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read to the end of the answer."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as connection:
        # Refused before all was sent: the answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.sendall(raw)
        parts: list[bytes] = []
        # What was not read of the request makes the close a reset, after the answer.
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(65_536):
                parts.append(part)
    head, _, body = b"".join(parts).partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def _deep(depth: int) -> str:
    return "[" * depth + "]" * depth


EVENTS = [
    Case("an empty body", 400, ("empty",), structured("")),
    Case("no JSON", 400, ("not JSON", "column"), structured("{specversion: 1}")),
    Case("half a document", 400, ("not JSON",), structured(json.dumps(event())[:-5])),
    Case("two documents", 400, ("not JSON",), structured(json.dumps(event()) * 2)),
    Case("a list that is no batch", 400, ("object",), structured(json.dumps([event()]))),
    Case("a number", 400, ("object",), structured("7")),
    Case("null", 400, ("object",), structured("null")),
    Case("a byte order mark", 400, ("byte order mark",), structured(b"\xef\xbb\xbf" + json.dumps(event()).encode())),
    Case("Latin-1 bytes", 400, ("UTF-8",), structured(json.dumps(event(subject="@")).encode().replace(b"@", b"\xe9"))),
    Case("UTF-16", 400, ("UTF-8",), structured(json.dumps(event()).encode("utf-16"))),
    Case("a charset that is not the JSON's", 415, ("UTF-8",), structured(json.dumps(event()), f"{STRUCTURED}; charset=iso-8859-1")),
    Case("overlong UTF-8", 400, ("UTF-8",), structured(json.dumps(event(subject="@")).encode().replace(b"@", b"\xc0\xaf"))),
    Case("NaN", 400, ("NaN",), structured(text('{"category": NaN}'))),
    Case("Infinity", 400, ("Infinity",), structured(text('{"category": -Infinity}'))),
    Case("a number beyond doubles", 400, ("beyond the range",), structured(text('{"year": 1e999}'))),
    Case("a number of 5000 digits", 400, ("5000 digits",), structured(text('{"year": ' + "9" * 5000 + "}"))),
    Case("a key twice in the data", 400, ("twice",), structured(text('{"category": "cars", "category": "boats"}'))),
    Case("an attribute twice", 400, ("twice",), structured(json.dumps(event())[:-1] + ', "id": "other"}')),
    Case("half a surrogate pair in the data", 400, ("surrogate",), structured(text(r'{"category": "\ud800"}'))),
    Case("half a surrogate pair in a key", 400, ("surrogate",), structured(text(r'{"\udfff": 1}'))),
    Case("half a surrogate pair in the id", 400, ("id",), structured(json.dumps(event(id="\ud800")))),
    Case("nested 65 deep", 400, ("nested deeper than 64",), structured(text(_deep(65)))),
    Case("nested 100,000 deep", 400, ("nested deeper than 64",), structured(text(_deep(100_000)))),
    Case("an unclosed nest", 400, ("nested deeper than 64",), structured("[" * 500_000)),
    Case("objects 100,000 deep", 400, ("nested deeper than 64",), structured(text('{"a":' * 100_000 + "1" + "}" * 100_000))),
    Case("no specversion", 400, ("specversion",), structured(json.dumps(event(specversion=...)))),
    Case("a version there is not", 400, ("specversion",), structured(json.dumps(event(specversion="2.0")))),
    Case("no attribute at all", 400, ("specversion", "id", "source", "type"), structured("{}")),
    Case("an empty id", 400, ("id",), structured(json.dumps(event(id="")))),
    Case("a number for an id", 400, ("id",), structured(json.dumps(event(id=7)))),
    Case("an object for a type", 400, ("type",), structured(json.dumps(event(type={"$gt": ""})))),
    Case("a source that is no URI reference", 400, ("source",), structured(json.dumps(event(source="a b")))),
    Case("a time that is none", 400, ("time",), structured(json.dumps(event(time="yesterday")))),
    Case("the 30th of February", 400, ("time",), structured(json.dumps(event(time="2020-02-30T00:00:00Z")))),
    Case("a NUL in the id", 400, ("id",), structured(json.dumps(event(id="a\0b")))),
    Case("a line feed in the subject", 400, ("subject",), structured(json.dumps(event(subject="a\nb")))),
    Case("an extension in capitals", 400, ("TraceParent",), structured(json.dumps(event(TraceParent="x")))),
    Case("an extension that is an object", 400, ("extra",), structured(json.dumps(event(extra={"a": 1})))),
    Case("data twice", 400, ("data_base64",), structured(json.dumps(event(data_base64="AAAA")))),
    Case("data that is no base64", 400, ("data_base64",), structured(json.dumps(event(data=..., data_base64="*")))),
    Case("four faults at once", 400, ("specversion", "id", "source", "time"), structured(json.dumps(event(specversion=1, id="", source="", time="x")))),
    Case("the wrong format", 415, (STRUCTURED,), structured("<event/>", "application/cloudevents+xml")),
    Case("no format", 415, ("content-type",), structured(json.dumps(event()), "application/json")),
    Case("a content type that is none", 415, ("content-type",), structured(json.dumps(event()), ";;;=,")),
    Case("no content type", 415, ("content-type",), request(json.dumps(event()))),
    Case("a form", 415, ("content-type",), structured("id=1&source=/s", "application/x-www-form-urlencoded")),
    Case("two content types", 400, ("content-type", "once"), request(json.dumps(event()), ("Content-Type", STRUCTURED), ("Content-Type", "text/plain"))),
    Case("two content types of data", 400, ("once",), request("{}", ("ce-id", "hostile"), ("Content-Type", "application/json"), ("Content-Type", "text/plain"))),
    Case("a compressed body", 415, ("Content-Encoding",), request(b"\x1f\x8b\x08\x00", ("Content-Type", STRUCTURED), ("Content-Encoding", "gzip"))),
]  # fmt: skip

BATCHES = [
    Case("a batch that is no list", 400, ("array",), structured(json.dumps(event()), BATCH)),
    Case("a batch with one bad event", 400, ("event 1", "specversion"), structured(json.dumps([event(id="good-1"), event(specversion=...), event(id="good-2")]), BATCH)),
    Case("a batch with two bad events", 400, ("event 0", "event 2"), structured(json.dumps([event(id=""), event(id="good-3"), 7]), BATCH)),
    Case("a batch in a batch", 400, ("event 0",), structured(json.dumps([[event()]]), BATCH)),
    Case("a batch cut short", 400, ("not JSON",), structured(json.dumps([event(), event()])[:-1], BATCH)),
]  # fmt: skip

BINARY = [
    Case("binary without an id", 400, ("id",), binary(ce_id=...)),
    Case("binary without anything but data", 415, ("ce-id",), binary(ce_id=..., ce_specversion=..., ce_source=..., ce_type=...)),
    Case("an attribute header twice", 400, ("once",), request("{}", ("ce-id", "a"), ("ce-id", "b"), ("ce-specversion", "1.0"), ("ce-source", "/s"), ("ce-type", "t"))),
    Case("a bad percent sign", 400, ("percent",), binary(ce_subject="100%")),
    Case("percent-encoded bytes that are no UTF-8", 400, ("UTF-8",), binary(ce_subject="%ff%fe")),
    Case("raw bytes in an attribute", 400, ("ASCII",), binary(ce_subject=b"caf\xe9")),
    Case("a percent-encoded NUL", 400, ("subject",), binary(ce_subject="a%00b")),
    Case("binary data that is no JSON", 400, ("JSON",), binary("{")),
    Case("binary NaN", 400, ("NaN",), binary('{"category": NaN}')),
    Case("binary data nested deep", 400, ("nested deeper",), binary(_deep(65))),
    Case("an attribute of its own for the content type", 400, ("datacontenttype",), binary(ce_datacontenttype="text/plain")),
    Case("an extension's name that is none", 400, ("bad-name",), binary(**{"ce-bad_name": "x"})),
]  # fmt: skip

PROTOCOL = [
    Case("a body over 1 MiB", 413, ("1048576",), structured(b" " * ((1 << 20) + 1))),
    Case("a length over 1 MiB that is a lie", 413, ("1048576",), request(b"{}", ("Content-Type", STRUCTURED), length="99999999")),
    Case("a length that is no number", 400, ("Content-Length",), request(b"{}", ("Content-Type", STRUCTURED), length="abc")),
    Case("a negative length", 400, ("Content-Length",), request(b"{}", ("Content-Type", STRUCTURED), length="-1")),
    Case("a length of 5000 digits", 400, ("",), request(b"{}", ("Content-Type", STRUCTURED), length="9" * 5000)),
    Case("two lengths", 400, ("Content-Length",), request(b"{}", ("Content-Type", STRUCTURED), ("Content-Length", "3"))),
    Case("chunks of chunks", 400, ("",), request(b"0\r\n\r\n", ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked"))),
    Case("chunks that are none", 400, ("",), request().replace(b"Content-Length: 0", b"Transfer-Encoding: chunked") + b"zz\r\n{}\r\n0\r\n\r\n"),
    Case("headers over 64 KiB", 431, ("",), binary(ce_extra="x" * 70_000)),
    Case("ten thousand headers", 431, ("",), request(b"{}", ("Content-Type", STRUCTURED), *((f"x-{n}", "y") for n in range(10_000)))),
    Case("a path over 64 KiB", 431, ("",), request(method="GET", path="/" + "a" * 70_000)),
    Case("a line feed in a header", 400, ("",), request(b"{}", ("ce-subject", b"a\nb"))),
    Case("a NUL in a header", 400, ("",), request(b"{}", ("ce-subject", b"a\0b"))),
    Case("a header's name with a space", 400, ("",), request(b"{}", ("ce subject", "x"))),
    Case("no host", 400, ("",), request(b"{}", host=None)),
    Case("another host", 421, ("loopback",), request(b"{}", ("Content-Type", STRUCTURED), host="evil.example")),
    Case("a host that is no address", 421, ("loopback",), request(b"{}", host="[::1")),
    Case("a host behind a user", 421, ("loopback",), request(b"{}", host="evil.example@127.0.0.1")),
    Case("a host with a path", 421, ("loopback",), request(b"{}", host="127.0.0.1/evil.example")),
    Case("two hosts", 400, ("",), request(b"{}", ("Host", "evil.example"))),
    Case("another page's request", 403, ("Origin",), request(b"{}", ("Content-Type", STRUCTURED), ("Origin", "https://evil.example"))),
    Case("an origin that is none", 403, ("Origin",), request(b"{}", ("Content-Type", STRUCTURED), ("Origin", "http://[::1"))),
    Case("no HTTP", 400, ("",), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    Case("another version of HTTP", 415, ("",), b"POST /events HTTP/9.9\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"),
    Case("a method there is not", 405, ("",), request(method="BREW")),
    Case("a method of another path", 405, ("",), request(method="DELETE")),
    Case("an absolute target", 404, ("",), request(method="GET", path="http://evil.example/events")),
]  # fmt: skip

SUBMISSIONS = [
    Case("a submission that is no JSON", 422, ("not JSON",), submission("{")),
    Case("a submission that is a list", 422, ("object",), submission("[]")),
    Case("a submission of NaN", 422, ("NaN",), submission('{"parameters": {"year": NaN}}')),
    Case("a submission with a key twice", 422, ("twice",), submission('{"parameters": {"year": 2018, "year": 2019}}')),
    Case("a submission nested deep", 422, ("nested deeper",), submission('{"parameters": {"year": ' + _deep(65) + "}}")),
    Case("a submission nested 100,000 deep", 422, ("nested deeper",), submission('{"parameters": {"year": ' + _deep(100_000) + "}}")),
    Case("a submission of half a surrogate pair", 422, ("surrogate",), submission(r'{"parameters": {"category": "\ud800"}}')),
    Case("a submission in Latin-1", 422, ("UTF-8",), submission(b'{"parameters": {"category": "\xe9"}}')),
    Case("a submission of another type", 415, ("application/json",), request("{}", ("Content-Type", "text/plain"), path="/jobs/bidder_scan/runs")),
    Case("a submission of no type", 415, ("application/json",), request("{}", path="/jobs/bidder_scan/runs")),
    Case("a year beyond 64 bits", 422, ("year",), submission('{"parameters": {"year": 100000000000000000000}}')),
    Case("a year of 300 digits", 422, ("year",), submission('{"parameters": {"year": ' + "9" * 300 + "}}")),
    Case("unknown members", 422, ("colour", "shape"), submission('{"colour": 1, "shape": 2}')),
    Case("an unknown parameter", 422, ("colour",), submission('{"parameters": {"colour": 1}}')),
    Case("two wrong parameters", 422, ("category", "year"), submission('{"parameters": {"category": 1, "year": "x"}}')),
    Case("workers beyond 64 bits", 422, ("workers",), submission('{"workers": 100000000000000000000}')),
    Case("a seed beyond 64 bits", 422, ("seed",), submission('{"seed": 100000000000000000000}')),
    Case("no workers", 422, ("workers",), submission('{"workers": 0}')),
    Case("a time out of range", 422, ("as_of",), submission('{"as_of": "99999-01-01"}')),
    Case("a time at the world's beginning", 422, ("as_of",), submission('{"as_of": "0001-01-01T00:00:00+14:00"}')),
    Case("a length of time for ever", 422, ("last",), submission('{"last": "99999999999999999999999d"}')),
    Case("an idempotency key over 255", 422, ("Idempotency-Key",), submission("{}", ("Idempotency-Key", "k" * 256))),
    Case("an empty idempotency key", 422, ("Idempotency-Key",), submission("{}", ("Idempotency-Key", ""))),
    Case("a job there is not", 404, ("none",), submission("{}", path="/jobs/none/runs")),
    Case("a job's name that climbs", 404, ("",), submission("{}", path="/jobs/..%2f..%2fetc%2fpasswd/runs")),
    Case("a run's name with a NUL", 400, ("control",), request(method="GET", path="/runs/a%00b")),
    Case("a run's name in no UTF-8", 404, ("",), request(method="GET", path="/runs/%ff%fe")),
    Case("a result of a run there is not", 404, ("",), request(method="GET", path="/runs/..%2f..%2fhindscan.toml/result")),
    Case("runs of a job with a NUL", 400, ("control",), request(method="GET", path="/runs?job=a%00b")),
    Case("a state there is not", 422, ("state",), request(method="GET", path="/runs?state=dreaming")),
    Case("a limit beyond 64 bits", 422, ("limit",), request(method="GET", path="/runs?limit=100000000000000000000")),
    Case("a wait that is no number", 422, ("wait",), request(method="GET", path="/runs/x?wait=nan")),
    Case("a rerun of a run there is not", 404, ("",), submission("{}", path="/runs/none/rerun")),
    Case("a rerun of slices that are none", 422, ("slices",), submission('{"slices": "all"}', path="/runs/none/rerun")),
]  # fmt: skip

CASES = [*EVENTS, *BATCHES, *BINARY, *PROTOCOL, *SUBMISSIONS]
