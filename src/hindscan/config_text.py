"""The project file as it is written: where a setting stands, what the environment lays over it, and its secrets.

Keeps promise 12's part on secrets: one stands in the file as ``${NAME}`` only, is taken from the environment, and is repeated in no message. Every setting can be
overridden by ``HINDSCAN_SECTION__KEY``. Faults are collected, each with its line and field, until all are known.

::

    text + environment -> Written -> fault, overridden, filled, demand_reference -> config_file, config_properties
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

__all__ = ["Written", "is_secret", "url_password"]

_SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
#: librdkafka's properties whose values are secrets: passwords, the secret of an OAuth client, keys written out.
_SECRET_PROPERTY = re.compile(
    r"(password|passphrase|secret|\.key\.pem|auth\.user\.info|auth\.token|secret_key|session_token"
    r"|^token|^credential|secret-access-key|session-token)$"
)
#: The password of a database URL.
_URL_PASSWORD = re.compile(r"://[^/@:]*:([^/@]+)@")


class Written:
    """One file as it is written, and all that is found to be wrong with it.

    Parameters
    ----------
    file : Path
        Named in faults.
    text : str
        What it says.
    environment : mapping
        Where overrides and secrets come from.
    """

    def __init__(self, file: Path, text: str, environment: Mapping[str, str]) -> None:
        self.file, self.text, self._environment = file, text, environment
        #: One for each fault: file, line, field, what was required, what was found.
        self.faults: list[str] = []
        #: Fields that an environment variable has set: a secret may stand there, for that is where secrets come from.
        self._overridden: set[tuple[str, ...]] = set()

    def fault(self, field: tuple[str, ...], message: str) -> None:
        """Add a fault of a field."""
        line = _line_of(self.text, field)
        place = f"{self.file.name}:{line}" if line else self.file.name
        self.faults.append(f"{place}: {'.'.join(field)}: {message}")

    def override(self, document: dict[str, Any], sections: Collection[str]) -> None:
        """Lay ``HINDSCAN_SECTION__KEY`` over what the file says."""
        for variable, raw in sorted(self._environment.items()):
            parts = variable.removeprefix("HINDSCAN_").lower().split("__")
            if not variable.startswith("HINDSCAN_") or len(parts) < 2 or parts[0] not in sections:
                continue
            if parts[0] in ("kafka", "registry"):
                parts[-1] = parts[-1].replace("_", ".")
            table = document
            for part in parts[:-1]:
                table = table.setdefault(part, {})
                if not isinstance(table, dict):
                    self.fault(tuple(parts), f"{variable} reaches into what is no table")
                    break
            else:
                table[parts[-1]] = raw if is_secret(parts[-1]) else _value_of(raw)
                self._overridden.add(tuple(parts))

    def demand_reference(self, field: tuple[str, ...], value: str, what: str = "") -> None:
        """Demand ``${NAME}``: a secret in the file would be in its history, in backups and on screens; what stands there is not repeated."""
        if field not in self._overridden and not _SECRET.fullmatch(value):
            self.fault(field, f"{what}is a secret and must be written ${{NAME}}, to be taken from the environment")

    def filled(self, field: tuple[str, ...], value: Any) -> Any:
        """Put secrets in the place of ``${NAME}``."""
        if isinstance(value, list):
            return [self.filled(field, part) for part in value]
        if not isinstance(value, str):
            return value

        def secret(match: re.Match[str]) -> str:
            if match[1] not in self._environment:
                self.fault(field, f"the environment variable {match[1]} must be set; it is not")
                return ""
            return self._environment[match[1]]

        return _SECRET.sub(secret, value)


def is_secret(name: str) -> bool:
    """Tell whether a library's property of this name is a secret."""
    return _SECRET_PROPERTY.search(name) is not None


def url_password(url: str) -> str | None:
    """Give the password in a URL, if there is one."""
    found = _URL_PASSWORD.search(url)
    return found[1] if found else None


def _value_of(raw: str) -> Any:
    """Read an override as TOML has it, else as text: ``8`` is a number, ``data/bids`` is a path."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _line_of(text: str, field: tuple[str, ...]) -> int | None:
    """Find the line of a field: the longest prefix of it that is a table header or key. None for an override."""
    best: tuple[int, int] | None = None
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = _names(stripped.strip("[]").split("]")[0])
            here = table
        elif "=" in stripped and not stripped.startswith("#"):
            here = table + _names(stripped.split("=", 1)[0])
        else:
            continue
        depth = len(here) if here == field[: len(here)] else 0
        if depth and (best is None or depth > best[0]):
            best = (depth, number)
    return best[1] if best else None


def _names(dotted: str) -> tuple[str, ...]:
    """Split a TOML key: ``kafka.default`` and ``"bootstrap.servers"``."""
    return tuple(match[0] or match[1] for match in re.findall(r'"([^"]*)"|([A-Za-z0-9_-]+)', dotted))
