"""An outlet: where events of runs go, as a `[publish.NAME]` table of the project file declares it.

A topic, or a webhook; with a filter of the same dialects as a trigger's over the event that would be sent. Checked when the project
file is loaded, with every fault at once.

::

    hindscan.toml -> outlet_from_toml -> Outlet -> outgoing.Sender
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from hindscan.errors import ConfigError
from hindscan.events.attributes import is_uri_reference
from hindscan.events.declared import parse_source, read_filter
from hindscan.events.filters import Filter
from hindscan.events.signature import read_secret
from hindscan.events.strict import shown
from hindscan.events.trigger import Source

__all__ = ["KEYS", "Outlet", "outlet_from_toml"]

KEYS: Final = ("to", "filter", "mode", "source", "secrets")

_Faults = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlet:
    """One `[publish.NAME]` of the project file.

    Parameters
    ----------
    name : str
        Its name.
    topic : Source | None
        The topic events go to; None for a webhook.
    url : str
        The webhook; empty for a topic.
    source : str
        The events' `source`.
    filter : Filter | None
        Which of the events go there; None for all.
    mode : "structured" or "binary"
        How they are written.
    secrets : tuple[bytes, ...]
        What a webhook's events are signed by; several while one is replaced by another. Empty: they are not.
    """

    name: str
    topic: Source | None = None
    url: str = ""
    source: str
    filter: Filter | None = None
    mode: Literal["structured", "binary"] = "structured"
    secrets: tuple[bytes, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return str(self.topic or self.url)


def outlet_from_toml(name: str, table: Mapping[str, Any], *, source: str) -> Outlet:
    """Build an outlet from its table in the project file.

    Parameters
    ----------
    name : str
        The table's name.
    table : mapping
        What stands in it.
    source : str
        The events' `source`, where the table names none.

    Raises
    ------
    ConfigError
        With every fault in `details["faults"]`, each a pair of the field and what is wrong with it.
    """
    faults: _Faults = []
    for key in table:
        if key not in KEYS:
            close = difflib.get_close_matches(key, KEYS, 1)
            hint = f"; is it {close[0]}? There are" if close else "; there are"
            faults.append((key, f"there is no such setting{hint} {', '.join(KEYS)}"))
    topic, url = _destination(table.get("to"), faults)
    source = table.get("source", source)
    if not isinstance(source, str) or not source or not is_uri_reference(source):
        faults.append(("source", f"it must be a URI-reference (RFC 3986, 4.1), not {shown(source)}"))
    mode = table.get("mode", "structured")
    if mode not in ("structured", "binary"):
        faults.append(("mode", f'it is "structured" or "binary", not {shown(mode)}'))
    chosen = read_filter(table.get("filter"), faults)
    secrets = _secrets(table.get("secrets", []), faults)
    if secrets and topic is not None:
        faults.append(("secrets", "they sign what goes to a webhook, and this goes to a topic"))
    elif secrets and mode == "binary":
        faults.append(
            ("mode", 'it must be "structured" where events are signed: attributes in headers are not covered')
        )
    if faults:
        listed = "; ".join(f"publish.{name}.{place}: {message}" for place, message in faults)
        raise ConfigError(
            f"While reading [publish.{name}]: its settings must be valid; {len(faults)} "
            f"{'is' if len(faults) == 1 else 'are'} not: {listed}. Correct the project file.",
            faults=faults,
        )
    return Outlet(name=name, topic=topic, url=url, source=source, filter=chosen, mode=mode, secrets=secrets)


def _secrets(written: object, faults: _Faults) -> tuple[bytes, ...]:
    """Read secrets; what is wrong with one does not repeat it."""
    if not isinstance(written, list):
        faults.append(("secrets", "it must be a list of secrets"))
        return ()
    found = []
    for number, secret in enumerate(written, 1):
        try:
            found.append(read_secret(str(secret)))
        except ValueError as fault:
            faults.append(("secrets", f"secret {number} {fault}"))
    return tuple(found)


def _destination(to: object, faults: _Faults) -> tuple[Source | None, str]:
    wanted = "it must be kafka:TOPIC, kafka:CLUSTER:TOPIC or http://HOST:PORT/PATH (or https)"
    if isinstance(to, str) and to.startswith(("http://", "https://")):
        try:
            parts = urlsplit(to)
            if parts.hostname and parts.port != 0 and parts.username is None and not parts.fragment and to.isascii():
                return None, to
        except ValueError:  # a port that is no number: a fault like the others
            pass
        # What stands there may hold a password and is not repeated.
        faults.append(("to", f"{wanted}, of ASCII, without a user's name, password or fragment"))
        return None, ""
    try:
        source = parse_source(to)
    except ValueError as fault:
        faults.append(("to", f"{wanted}: {fault}"))
        return None, ""
    if source.kind != "kafka":
        faults.append(("to", f"{wanted}, not {shown(to)}"))
        return None, ""
    return source, ""
