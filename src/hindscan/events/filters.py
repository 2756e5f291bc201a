"""Filters: which events a trigger is for, in the dialects of the CloudEvents Subscriptions API and in JMESPath (promise 5).

A filter is compiled once and refused then if it can be evaluated on no event, with all its faults. On an event it gives true or false; anything else is
a `FilterError`, never "no match", because an event that is dropped for a typing error in a filter is lost. Between the parse of an event and its run:
`trigger.decide` asks it, `hindscan match` tries it.

=========  ============================================================  =========================================
dialect    written                                                       true when
=========  ============================================================  =========================================
exact      ``{exact = {type = "auction.closed"}}``                       every attribute is the value
prefix     ``{prefix = {type = "auction."}}``                            every attribute begins with the value
suffix     ``{suffix = {source = "/cars"}}``                             every attribute ends with the value
all        ``{all = [FILTER, ...]}``                                     all are true, asked up to the first false
any        ``{any = [FILTER, ...]}``                                     one is true, asked up to the first true
not        ``{not = FILTER}``                                            it is false
sql        ``{sql = "type LIKE 'auction.%'"}``                           the CESQL expression gives true
jmespath   ``{jmespath = "data.price > `100`"}``                         the expression gives true
=========  ============================================================  =========================================

The rules are those of https://github.com/cloudevents/spec, subscriptions/spec.md, 3.2.4; `jmespath` is hindscan's own. "If any errors are returned, the event MUST NOT
pass" a CESQL filter: an attribute that is absent is no match, and the reason says so, or an error where the filter is strict; every other error is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from hindscan.errors import CesqlError, FilterError, FilterSyntaxError
from hindscan.events.attributes import attribute_name_fault
from hindscan.events.cesql import Expression, cesql
from hindscan.events.event import Event, event_from_json
from hindscan.events.path import Path, compile_path
from hindscan.events.strict import shown

__all__ = ["Explanation", "Filter"]

#: Filters within filters: no sensible one comes near, and a deeper one would exhaust the stack.
MAX_NESTING: Final = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """Why a filter gave what it gave on one event.

    Parameters
    ----------
    matched : bool | None
        The result; None where the evaluation failed.
    reason : str
        One line: what decided.
    parts : tuple[Explanation, ...]
        The filters within, as far as they were asked.
    """

    matched: bool | None
    reason: str
    parts: tuple[Explanation, ...] = ()


class Filter:
    """A filter over events.

    Parameters
    ----------
    spec : Mapping[str, object]
        One dialect and its properties.
    strict : bool
        An attribute that is absent is an error of a CESQL expression that names it, not no match.

    Raises
    ------
    FilterSyntaxError
        With every fault in `details["faults"]`, each `{"field", "message"}` and for JMESPath the `column`.

    Examples
    --------
    >>> closed = Filter({"exact": {"type": "auction.closed"}})
    >>> closed.matches({"specversion": "1.0", "id": "1", "source": "/site", "type": "auction.opened"})
    False
    """

    __slots__ = ("_root", "spec")

    def __init__(self, spec: Mapping[str, object], *, strict: bool = False) -> None:
        faults: list[dict[str, object]] = []
        root = _Compiler(strict, faults).compile(spec, "", 0)
        if faults or root is None:
            listed = "; ".join(f"{fault['field'] or 'filter'}: {fault['message']}" for fault in faults)
            raise FilterSyntaxError(
                f"While compiling a filter: it must be one that can be evaluated on every event; it has {len(faults)} "
                f"{'fault' if len(faults) == 1 else 'faults'}: {listed}. Correct the filter.",
                faults=faults,
                **({"column": faults[0]["column"]} if "column" in faults[0] else {}),
            )
        self._root = root
        self.spec = spec

    def __repr__(self) -> str:
        return f"Filter({self.spec!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and self._root == other._root

    def __hash__(self) -> int:
        return hash(self._root)

    def matches(self, event: Event | Mapping[str, Any]) -> bool:
        """Tell whether the filter is true of an event.

        Parameters
        ----------
        event : Event | Mapping[str, Any]
            The event, or its JSON format.

        Raises
        ------
        FilterError
            If the evaluation gives neither true nor false.
        InvalidEvent
            If a mapping is not an event.
        """
        return self._root.test(_subject(event))

    def explain(self, event: Event | Mapping[str, Any]) -> Explanation:
        """Tell what the filter gives on an event, and why; a failed evaluation is part of the answer.

        Raises
        ------
        InvalidEvent
            If a mapping is not an event.
        """
        return self._root.explain(_subject(event))


class _Subject:
    """An event under test, its JSON format made at most once."""

    __slots__ = ("_document", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self._document: dict[str, Any] | None = None

    @property
    def document(self) -> dict[str, Any]:
        if self._document is None:
            self._document = self.event.to_json()
        return self._document


def _subject(event: Event | Mapping[str, Any]) -> _Subject:
    return _Subject(event if isinstance(event, Event) else event_from_json(event, "filtering an event"))


class _Node(Protocol):
    def test(self, subject: _Subject) -> bool: ...

    def explain(self, subject: _Subject) -> Explanation: ...


@dataclass(frozen=True, slots=True)
class _Attributes:
    dialect: str
    wanted: tuple[tuple[str, str], ...]

    def test(self, subject: _Subject) -> bool:
        for name, wanted in self.wanted:  # noqa: SIM110 - a generator would take longer than all the rest
            if not self._holds(subject.event.attribute(name), wanted):
                return False
        return True

    def explain(self, subject: _Subject) -> Explanation:
        for name, wanted in self.wanted:
            found = subject.event.attribute(name)
            if found is None:
                return Explanation(matched=False, reason=f"{name} is absent; {self.dialect} {wanted!r} is wanted")
            if not self._holds(found, wanted):
                return Explanation(
                    matched=False, reason=f"{name} is {shown(found)}; {self.dialect} {wanted!r} is wanted"
                )
        return Explanation(matched=True, reason=f"{self.dialect} {dict(self.wanted)} holds")

    def _holds(self, found: str | None, wanted: str) -> bool:
        # "To evaluate to true the values of the matching CloudEvents attributes MUST all exactly match with the
        # associated value String specified (case sensitive)": an absent attribute has no value that could.
        if found is None:
            return False
        match self.dialect:
            case "exact":
                return found == wanted
            case "prefix":
                return found.startswith(wanted)
            case _:
                return found.endswith(wanted)


@dataclass(frozen=True, slots=True)
class _All:
    parts: tuple[_Node, ...]

    def test(self, subject: _Subject) -> bool:
        return all(part.test(subject) for part in self.parts)

    def explain(self, subject: _Subject) -> Explanation:
        asked: list[Explanation] = []
        for part in self.parts:
            asked.append(part.explain(subject))
            if not asked[-1].matched:
                return Explanation(matched=asked[-1].matched, reason=asked[-1].reason, parts=tuple(asked))
        return Explanation(matched=True, reason=f"all {len(asked)} hold", parts=tuple(asked))


@dataclass(frozen=True, slots=True)
class _Any:
    parts: tuple[_Node, ...]

    def test(self, subject: _Subject) -> bool:
        return any(part.test(subject) for part in self.parts)

    def explain(self, subject: _Subject) -> Explanation:
        asked: list[Explanation] = []
        for part in self.parts:
            asked.append(part.explain(subject))
            if asked[-1].matched is not False:
                return Explanation(matched=asked[-1].matched, reason=asked[-1].reason, parts=tuple(asked))
        reason = f"none of {len(asked)} holds: " + "; ".join(part.reason for part in asked)
        return Explanation(matched=False, reason=reason, parts=tuple(asked))


@dataclass(frozen=True, slots=True)
class _Not:
    part: _Node

    def test(self, subject: _Subject) -> bool:
        return not self.part.test(subject)

    def explain(self, subject: _Subject) -> Explanation:
        asked = self.part.explain(subject)
        matched = None if asked.matched is None else not asked.matched
        return Explanation(
            matched=matched, reason=asked.reason if matched is None else f"not ({asked.reason})", parts=(asked,)
        )


@dataclass(frozen=True, slots=True)
class _JmesPath:
    path: Path

    def test(self, subject: _Subject) -> bool:
        try:
            result = self.path.search(subject.document)
        except ValueError as fault:
            raise self._error(subject, str(fault)) from fault
        if isinstance(result, bool):
            return result
        raise self._error(subject, f"it gives {shown(result)}")

    def explain(self, subject: _Subject) -> Explanation:
        try:
            matched = self.test(subject)
        except FilterError as fault:
            return Explanation(matched=None, reason=str(fault))
        return Explanation(
            matched=matched, reason=f"jmespath {self.path.expression!r} gives {'true' if matched else 'false'}"
        )

    def _error(self, subject: _Subject, reason: str) -> FilterError:
        event = subject.event
        return FilterError(
            f"While filtering event {shown(event.id)} of {shown(event.source)}: the JMESPath expression "
            f"{self.path.expression!r} must give true or false; {reason}. Correct the filter (not_null(FIELD, DEFAULT) is "
            "for a field that may be absent), then redrive the event.",
            expression=self.path.expression,
            reason=reason,
            source=event.source,
            id=event.id,
        )


@dataclass(frozen=True, slots=True)
class _Cesql:
    expression: Expression
    strict: bool

    def test(self, subject: _Subject) -> bool:
        return self._given(subject).matched is True

    def explain(self, subject: _Subject) -> Explanation:
        try:
            return self._given(subject)
        except FilterError as fault:
            return Explanation(matched=None, reason=str(fault))

    def _given(self, subject: _Subject) -> Explanation:
        event = subject.event
        said = f"CESQL {self.expression.text!r}"
        try:
            result = self.expression.evaluate(event)
            if isinstance(result, bool):
                return Explanation(matched=result, reason=f"{said} gives {'true' if result else 'false'}")
            reason = f"it gives {shown(result)}"
        except CesqlError as fault:
            reason = str(fault.details["reason"])
            if fault.kind == "missingAttribute" and not self.strict:
                return Explanation(matched=False, reason=f"{said}: {reason}")
        raise FilterError(
            f"While filtering event {shown(event.id)} of {shown(event.source)}: the CESQL expression {self.expression.text!r} must give true or false; "
            f"{reason}. Correct the filter (EXISTS asks whether an attribute is there), then redrive the event.",
            expression=self.expression.text,
            reason=reason,
            source=event.source,
            id=event.id,
        )


class _Compiler:
    """Compiles filters within filters, and collects the faults of all of them."""

    def __init__(self, strict: bool, faults: list[dict[str, object]]) -> None:
        self._strict, self._faults = strict, faults

    def compile(self, spec: object, where: str, depth: int) -> _Node | None:
        """Compile one filter; None where it has faults."""
        if depth > MAX_NESTING:
            self._fault(where, f"filters may be nested {MAX_NESTING} deep, and this one is deeper")
            return None
        if not isinstance(spec, Mapping):
            found = f"not {shown(spec)}"
            self._fault(
                where,
                f"a filter is a table of one dialect and its properties, such as {{ exact = {{ type = 'x' }} }}, {found}",
            )
            return None
        if len(spec) != 1:
            message = (
                f"a filter has one dialect, and this one has {len(spec)}{_listed(spec)}; several go into all = [...]"
            )
            self._fault(where, message)
            return None
        dialect, value = next(iter(spec.items()))
        place = f"{where}.{dialect}" if where else str(dialect)
        match dialect:
            case "exact" | "prefix" | "suffix":
                return self._attributes(dialect, value, place)
            case "all" | "any":
                # "Note: there MUST be at least one filter expression in the array."
                if not isinstance(value, list | tuple) or not value:
                    self._fault(place, f"it takes an array of at least one filter, not {shown(value)}")
                    return None
                parts = [self.compile(part, f"{place}[{index}]", depth + 1) for index, part in enumerate(value)]
                good = tuple(part for part in parts if part is not None)
                return _All(good) if dialect == "all" else _Any(good)
            case "not":
                part = self.compile(value, place, depth + 1)
                return None if part is None else _Not(part)
            case "sql":
                return self._expression(lambda: _Cesql(cesql(value), self._strict), value, place)
            case "jmespath":
                return self._expression(lambda: _JmesPath(compile_path(value)), value, place)
            case _:
                # "If a filter dialect is specified in a subscription that is unsupported by the subscription manager, creation or
                # update of the subscription MUST be rejected with an error."
                known = "exact, prefix, suffix, all, any, not, sql, jmespath"
                self._fault(place, f"there is no dialect {shown(dialect)}; there are {known}")
                return None

    def _fault(self, place: str, message: str, **more: object) -> None:
        self._faults.append({"field": place, "message": message, **more})

    def _expression(self, compile_it: Callable[[], _Node], value: object, place: str) -> _Node | None:
        """Compile what is written in a language of its own."""
        try:
            return compile_it()
        except (FilterSyntaxError, CesqlError) as wrong:
            column, reason = wrong.details["column"], wrong.details["reason"]
            self._fault(place, f"{shown(value)}, column {column}: {reason}", column=column)
            return None

    def _attributes(self, dialect: str, value: object, place: str) -> _Attributes | None:
        if not isinstance(value, Mapping) or not value:
            self._fault(place, f"it takes a table of attributes and their values, at least one, not {shown(value)}")
            return None
        before = len(self._faults)
        for name, wanted in value.items():
            wrong = attribute_name_fault(name)
            if wrong is not None:
                hint = "; the data can be asked with jmespath" if str(name).startswith("data") else ""
                self._fault(f"{place}.{name}", f"it must be the name of an attribute: {wrong}{hint}")
            # "The attribute name and value specified in the filter expression MUST NOT be empty strings."
            if not isinstance(wanted, str) or not wanted:
                self._fault(f"{place}.{name}", f"the value must be a string that is not empty, and is {shown(wanted)}")
        return _Attributes(dialect, tuple(value.items())) if len(self._faults) == before else None


def _listed(spec: Mapping[Any, object]) -> str:
    return f" ({', '.join(shown(name) for name in spec)})" if spec else ""
