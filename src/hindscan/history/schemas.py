"""Which schemas a topic's records follow: found once when the history is pinned, looked up by id when it is read.

Keeps promise 1 for schemas. What every record is read as (the latest version of the topic's subject, else the schema of the greatest id in the
pinned sample, else a declared file) becomes part of the pin, and so do the schemas of the sample's ids. A later version changes nothing for a
run that is pinned: its records are resolved to the pinned schema. An id that the sample did not show is asked of the registry by the worker that meets it.

::

    SchemaSource + sample -> Coding (in the pin);  Coding + registry -> known_schemas -> a decoder's writers
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from hindscan.errors import SchemaMismatch, SourceMissing
from hindscan.history.formats.choose import KINDS, Lookup, columns_of
from hindscan.history.formats.confluent import UnknownSchema, split
from hindscan.history.formats.decoder import Misfit
from hindscan.history.snapshot import Coding
from hindscan.kafka.registry import RegisteredSchema, SchemaRegistry

__all__ = ["SchemaSource", "known_schemas"]

Settings = Mapping[str, str | int | float | bool]


def known_schemas(coding: Coding | None, format_: str, settings: Settings | None) -> Lookup:
    """Give the function that gives the schema of an id: from the pin, else from the registry.

    Parameters
    ----------
    coding : Coding, optional
        What the pin says.
    format_ : str
        The format that the schema must be of.
    settings : mapping, optional
        The registry's.
    """
    known = {} if coding is None else dict(coding.known)

    def lookup(schema_id: int) -> RegisteredSchema:
        assert coding is not None
        found = known.get(schema_id)
        if found is None and settings is not None:
            found = SchemaRegistry(settings, coding.registry or "").schema(schema_id, KINDS[format_])
        if found is None:
            raise UnknownSchema(f"schema id {schema_id} is not in registry {coding.registry}")
        if found.kind != KINDS[format_]:
            raise UnknownSchema(f"schema id {schema_id} is of {found.kind}; {KINDS[format_]} is required")
        return found

    return lookup


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaSource:
    """Where a history's schemas are.

    Parameters
    ----------
    history, topic, format : str
        Whose they are.
    registry : str, optional
        Name of the registry in the project file. None: `file` is declared.
    settings : mapping, optional
        The registry's settings, with their secrets.
    subject : str
        Of the registry.
    file : Path, optional
        A declared schema.
    message : str, optional
        Full name of the Protobuf message. Default: the one the sample shows, else the only one there is.
    """

    history: str
    topic: str
    format: str
    registry: str | None = None
    settings: Settings | None = field(default=None, repr=False)
    subject: str = ""
    file: Path | None = None
    message: str | None = None

    def coding(self, sample: Sequence[bytes]) -> tuple[Coding, str]:
        """Find the schemas.

        Parameters
        ----------
        sample : sequence of bytes
            Values at the pinned starts.

        Returns
        -------
        coding, origin
            The schemas; and where the reader's comes from, in words.

        Raises
        ------
        SchemaMismatch
            There is no schema, or it is not of the format.
        SourceMissing
            The declared file is not there.
        RegistryUnavailable
            The registry does not answer.
        """
        if self.file is not None:
            reader, origin = self._declared(self.file), f"declared in {self.file.name}"
            return self._with_message(Coding(registry=None, reader=reader), ()), origin
        registry = SchemaRegistry(self.settings or {}, self.registry or "")
        ids, _ = split(pa.array(sample, pa.large_binary()))
        seen = Counter(each for each in ids.tolist() if each >= 0)
        kind = KINDS[self.format]
        found = {each: registry.schema(each, kind) for each in sorted(seen)}
        known = {each: schema for each, schema in found.items() if schema is not None and schema.kind == kind}
        latest = registry.latest(self.subject, kind)
        if latest is None and known:
            latest = max(known.items())
        if latest is None:
            raise self._mismatch(
                f"the registry must know subject {self.subject!r}, or a schema id that its first records name; it knows neither "
                f"(ids seen: {', '.join(map(str, seen)) or 'none'})",
                "Set `subject`, `registry` or `schema`",
            )
        schema_id, reader = latest
        if reader.kind != kind:
            raise self._mismatch(
                f"schema id {schema_id} must be of {kind}; it is of {reader.kind}", "Set `format` or `subject`"
            )
        coding = Coding(registry=self.registry, reader=reader, known=tuple(known.items()))
        bodies = [value for value, each in zip(sample, ids.tolist(), strict=True) if each in known]
        return self._with_message(coding, bodies), f"schema id {schema_id} of registry {self.registry}"

    def columns(self, coding: Coding, declared: pa.Schema | None) -> pa.Schema:
        """Give the columns that the pinned schema gives, or those of them that are declared.

        Raises
        ------
        SchemaMismatch
            A field can be no column, or a declared column is not what the schema gives.
        """
        try:
            found, refused = columns_of(self.format, coding)
        except ValueError as fault:
            raise self._mismatch(f"its schema {fault}", "Correct the schema") from fault
        if declared is None:
            if refused:
                said = "; ".join(f"{name} is {why}" for name, why in refused)
                raise self._mismatch(
                    f"every field of its schema must give a column; {said}",
                    "Declare `columns` without what can be none",
                )
            return found
        faults = [fault for each in declared for fault in _column_faults(each, found, dict(refused))]
        if faults:
            raise self._mismatch(
                f"declared columns must be those that its schema gives; {'; '.join(faults)}", "Correct `columns`"
            )
        return pa.schema([found.field(each.name) for each in declared])

    def _declared(self, file: Path) -> RegisteredSchema:
        try:
            content = file.read_bytes()
        except OSError as fault:
            raise SourceMissing(
                f"While pinning history {self.history}: its schema must be in {file}; {fault.strerror}. "
                f"Correct `schema` in [history.{self.history}].",
                history=self.history,
            ) from fault
        if self.format == "protobuf":
            from hindscan.history.formats.protobuf_schema import schema_of_descriptor_set

            try:
                return schema_of_descriptor_set(content)
            except ValueError as fault:
                raise self._mismatch(f"{file.name} {fault}", "Write it with protoc") from fault
        text = content.decode("utf-8", "replace")
        return RegisteredSchema(kind=KINDS[self.format], files=((file.name, text),))

    def _with_message(self, coding: Coding, bodies: Sequence[bytes]) -> Coding:
        if self.format != "protobuf":
            return coding
        from hindscan.history.formats.protobuf import read_indexes
        from hindscan.history.formats.protobuf_schema import load_file, message_at

        try:
            file = load_file(coding.reader)
        except ValueError as fault:
            raise self._mismatch(f"its schema {fault}", "Register the schema again, or correct the file") from fault
        name, found = self.message, None
        if name is None and bodies:
            try:
                found = message_at(file, read_indexes(bodies[0])[0])
            except Misfit:
                found = None
        elif name is None and len(file.message_types_by_name) == 1:
            found = message_at(file, (0,))
        name = name or (found.full_name if found is not None else None)
        known = _all_messages(file)
        if name not in known:
            raise self._mismatch(
                f"its records must be of one message; {f'{name} is none of those in its schema' if name else 'it does not show of which'}: {', '.join(known)}",
                "Set `message`",
            )
        return Coding(registry=coding.registry, reader=coding.reader, known=coding.known, message=name)

    def _mismatch(self, fault: str, todo: str) -> SchemaMismatch:
        return SchemaMismatch(
            f"While pinning history {self.history}: to read topic {self.topic!r} as {self.format}, {fault}. {todo} in [history.{self.history}].",
            history=self.history,
        )


def _column_faults(declared: pa.Field[Any], found: pa.Schema, refused: Mapping[str, str]) -> list[str]:
    if declared.name in refused:
        return [f"{declared.name} is {refused[declared.name]}"]
    if declared.name not in found.names:
        return [f"{declared.name} is not in it; it has {', '.join(found.names)}"]
    given = found.field(declared.name).type
    return [] if given == declared.type else [f"{declared.name} is {given}, declared {declared.type}"]


def _all_messages(file: Any) -> list[str]:
    names: list[str] = []
    rest = list(file.message_types_by_name.values())
    while rest:
        message = rest.pop(0)
        names.append(message.full_name)
        rest += message.nested_types
    return names
