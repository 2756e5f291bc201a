"""Commands around the dispatcher: `serve`, `emit`, `events`, `match`, `doctor`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from hindscan.cli.options import DEFAULTS, Count, Input, Options, Whole, WindowOptions
from hindscan.cli.output import print_document, print_table
from hindscan.errors import ServiceUnavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hindscan.events.event import Event
    from hindscan.events.filters import Filter

__all__ = ["doctor", "emit", "events", "match", "serve"]

#: What the extra `serve` brings.
_SERVER_LIBRARIES = ("fastapi", "h11", "prometheus_client", "uvicorn")


def serve(
    *,
    host: str | None = None,
    port: Whole | None = None,
    log_format: Literal["text", "json"] | None = None,
    options: Options = DEFAULTS,
) -> None:
    """Run the dispatcher and the HTTP API until it is told to stop.

    Parameters
    ----------
    host : str
        Loopback address to listen on. Default: [serve].host.
    port : int
        Port to listen on; 0 takes a free one. Default: [serve].port.
    log_format : str
        How the log is written to standard error: text, or json: one object a line. Default: [serve].log.
    """
    absent = [name for name in _SERVER_LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        raise UsageError(
            f"Serving: it needs {', '.join(absent)}, not installed here. `pip install 'hindscan[serve]'` brings what there is not."
        )
    from hindscan.server import run_server

    run_server(options.load(), host=host, port=port, log_format=log_format, as_json=options.json)


def emit(
    file: Input | None = None,
    /,
    *,
    type: str | None = None,
    source: str = "/hindscan/emit",
    id: str | None = None,
    subject: str | None = None,
    time: str | None = None,
    data: str | None = None,
    to: str | None = None,
    mode: Literal["structured", "binary"] = "structured",
    options: Options = DEFAULTS,
) -> None:
    """Send a CloudEvent by HTTP or to a topic.

    Parameters
    ----------
    file : str
        A file with one event in the JSON format, or `-` for standard input.
    type : str
        Type of the event, where there is no file.
    source : str
        Its source.
    id : str
        Its id. Default: a random one.
    subject : str
        Its subject.
    time : str
        When it happened. Default: now.
    data : str
        Its data, as JSON.
    to : str
        URL of a dispatcher, or kafka:TOPIC or kafka:CLUSTER:TOPIC. Default: the dispatcher of this project.
    mode : str
        How it is written.
    """
    from hindscan.sending import send_event

    event = _event_of(
        None if file is None else Path(file), type=type, source=source, id=id, subject=subject, time=time, data=data
    )
    answer = send_event(event, to, mode=mode, project=options.load)
    document = {"event": {"source": event.source, "id": event.id, "type": event.type}, **answer}
    if options.json:
        print_document(document)
        return
    print(f"sent {event.type} {event.id} of {event.source} to {answer['to']}")
    for word in ("runs", "existing", "quarantined"):
        for one in answer.get(word, ()):
            print(f"  {word}: {one}")


def _event_of(file: Path | None, **fields: Any) -> Event:
    import uuid

    from hindscan import times
    from hindscan.events.event import event_from_json

    if file is not None:
        if fields["type"] is not None:
            raise UsageError("Emitting an event: give a file or --type, not both.")
        return event_from_json(_parsed(_read(file), str(file)), f"reading {file}")
    if fields["type"] is None:
        raise UsageError("Emitting an event: it must be given as a file, or by --type and the other options.")
    document: dict[str, Any] = {name: value for name, value in fields.items() if value is not None and name != "data"}
    document |= {
        "specversion": "1.0",
        "id": fields["id"] or str(uuid.uuid4()),
        "time": fields["time"] or times.to_text(times.now()),
    }
    if fields["data"] is not None:
        document |= {"datacontenttype": "application/json", "data": _parsed(fields["data"].encode(), "--data")}
    return event_from_json(document)


def _read(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise UsageError(f"Reading {file}: {error.strerror}.") from error


def _parsed(text: bytes, name: str) -> object:
    from hindscan.events.strict import parse_json

    try:
        return parse_json(text)
    except ValueError as error:
        raise UsageError(f"Reading {name}: it must be JSON: {error}.") from None


def events(
    *, quarantined: Annotated[bool, Parameter(negative="")] = False, limit: Count = 20, options: Options = DEFAULTS
) -> None:
    """Show received events, what matched and why not.

    Parameters
    ----------
    quarantined : bool
        Only what is in quarantine.
    limit : int
        How many.
    """
    from hindscan.runs.inbox import list_events
    from hindscan.runs.store import open_store

    project = options.load()
    with open_store(project.store_url, project.root) as store:
        found = list_events(store, quarantined=quarantined, limit=limit)
    if options.json:
        print_document({"events": found})
        return
    whole = ("event", "received_at", "type", "source", "id", "position")
    rows = [
        (*(event[name] for name in whole), made["trigger"], made["outcome"], made["run"] or made["reason"])
        for event in found
        for made in event["decisions"]
        or [{"trigger": "", "outcome": event["outcome"], "run": "", "reason": event["reason"]}]
    ]
    columns = ("event", "received", "type", "source", "id", "position", "trigger", "outcome", "run or reason")
    print_table(columns, rows)


def match(
    filter: str,
    file: Input,
    /,
    *,
    offsets: str | None = None,
    since: str | None = None,
    until: str | None = None,
    limit: Count = 1_000_000,
    options: Options = DEFAULTS,
) -> int:
    """Try a filter on the events of a file or topic; exit code 1 if one could not be decided.

    Parameters
    ----------
    filter : str
        The filter as JSON, such as {"exact": {"type": "auction.closed"}}, or the name of a trigger.
    file : str
        A file with one event a line in the JSON format, `-` for standard input, or kafka:TOPIC.
    offsets : str
        Of a topic: offsets [start, end) of the only partitions to read, as 0:100-200,1:0-50.
    since : str
        Of a topic: from the first record on that is not older.
    until : str
        Of a topic: up to the first record that is not older.
    limit : int
        Events to look at, at most.
    """
    from itertools import islice

    from hindscan.errors import EventError, InvalidEvent
    from hindscan.history.window import make_window

    compiled = _filter_of(filter, options)
    window = WindowOptions(offsets=offsets, since=since, until=until).values()
    make_window(**window, doing=f"Matching events of {file}")
    counts = {"matched": 0, "unmatched": 0, "failed": 0}
    rows: list[dict[str, Any]] = []
    for place, event in islice(_events_in(file, window, options), limit):
        row: dict[str, Any] = {"at": place, "source": None, "id": None, "type": None}
        try:
            if isinstance(event, InvalidEvent):
                raise event
            row |= {"source": event.source, "id": event.id, "type": event.type}
            matched = compiled.matches(event)
            row |= {
                "outcome": "matched" if matched else "unmatched",
                "reason": "" if matched else compiled.explain(event).reason,
            }
        except EventError as error:
            row |= {"outcome": "failed", "reason": str(error)}
        counts[row["outcome"]] += 1
        rows.append(row)
    if options.json:
        print_document({"filter": compiled.spec, **counts, "events": rows})
    else:
        print_table(
            ("at", "type", "source", "id", "outcome", "reason"),
            [(r["at"], r["type"], r["source"], r["id"], r["outcome"], r["reason"]) for r in rows],
        )
        print(", ".join(f"{count} {word}" for word, count in counts.items()))
    return 1 if counts["failed"] else 0


def _filter_of(text: str, options: Options) -> Filter:
    from hindscan.events.filters import Filter

    if text.lstrip().startswith("{"):
        spec = _parsed(text.encode(), "the filter")
        assert isinstance(spec, dict)
        return Filter(spec)
    trigger = options.load().triggers.get(text)
    if trigger is None:
        raise UsageError(f"Reading the filter {text!r}: it must be a JSON object or the name of a trigger.")
    # The trigger's own, which may be strict; one without a filter takes every event.
    return trigger.filter or Filter({"sql": "TRUE"})


def _events_in(place: str, window: dict[str, Any], options: Options) -> Iterator[tuple[str, Any]]:
    """Give events, or what is wrong with them, with where they stand."""
    from hindscan.errors import InvalidEvent
    from hindscan.events.event import event_from_json

    if place.startswith("kafka:"):
        from hindscan.sending import events_of_topic

        yield from events_of_topic(place, options.load(), **window)
        return
    if window:
        raise UsageError(f"Reading {place}: {', '.join(window)} choose what is read of a topic, and this is a file.")
    for number, line in enumerate(_read(Path(place)).splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield f"line {number}", event_from_json(_parsed(line, f"{place}, line {number}"), f"reading line {number}")
        except (InvalidEvent, UsageError) as error:
            yield f"line {number}", error if isinstance(error, InvalidEvent) else InvalidEvent(str(error))


def doctor(
    *,
    acls: Annotated[bool, Parameter(negative="")] = False,
    principal: str = "hindscan",
    options: Options = DEFAULTS,
) -> int:
    """Check project, store, artefacts, jobs, brokers, workers and versions; say what to do. Exit code 1 if something is wrong, 3 if a service cannot be reached.

    Parameters
    ----------
    acls : bool
        Instead, print the least rights that the project needs on its Kafka clusters, and the lines for kafka-acls.sh that grant them. Connects to nothing.
    principal : str
        Whom these lines grant them.
    """
    from hindscan.diagnosis import diagnose

    if acls:
        _print_rights(options, principal)
        return 0
    findings = list(diagnose(options.load()))
    if options.json:
        print_document(
            {
                "ok": all(f.ok for f in findings),
                "findings": [{"what": f.what, "ok": f.ok, "found": f.found, "todo": f.todo} for f in findings],
            }
        )
    else:
        rows = []
        for f in findings:
            rows.append(("ok" if f.ok else "WRONG", f.what, f.found))
            if not f.ok:
                rows.append(("", "", f"-> {f.todo}"))
        print_table(("", "what", "found, and what to do"), rows)
    unreachable = [f for f in findings if not f.ok and f.unreachable]
    return ServiceUnavailable.exit_code if unreachable else int(any(not f.ok for f in findings))


def _print_rights(options: Options, principal: str) -> None:
    """Print rights and, ready to be run, the commands that grant them; those that may be left out apart."""
    from hindscan.rights import acl_commands, needed_rights

    project = options.load()
    rights = needed_rights(project)
    apart = [[right for right in rights if right.needed is needed] for needed in (True, False)]
    needed, optional = (acl_commands(project, some, principal) for some in apart)
    if options.json:
        commands = {"needed": needed, "optional": optional}
        print_document({"principal": f"User:{principal}", "rights": rights, "commands": commands})
        return
    rows = [(r.cluster, r.kind, r.name, r.operation, "" if r.needed else "optional", r.purpose) for r in rights]
    print_table(("cluster", "resource", "name", "right", "", "what for"), rows)
    for heading, lines in (("needed", needed), ("optional: run those that you need", optional)):
        if lines:
            print(f"\n# {heading}", *lines, sep="\n")
