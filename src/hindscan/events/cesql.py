"""CESQL, the CloudEvents SQL Expression Language: an expression over the attributes of an event, compiled once.

Keeps promise 5 for the filter dialect `sql`. An expression that can be evaluated on no event is refused when it is compiled, with the column of the fault; on an
event it gives a boolean, an integer or a text, or a `CesqlError` with the specification's kind of error. Evaluation fails at the first error, as the specification
allows, so that no zero value ever passes for a result. It is total and pure: no loops, no state, an expression and its nesting are bounded, and LIKE takes a time
linear in the text.

The rules are those of https://github.com/cloudevents/spec, cesql/spec.md, version 1. Where its grammar leaves a choice: names of attributes may be
written in capitals; AND binds more tightly than OR, and OR than XOR, in the order of its table; whatever does not fit 32 bits is a math error; a whole
number is true but for 0, also under NOT, as in its table of casts.

::

    text --lexer--> tokens --parser--> closures: Expression --evaluate(event)--> bool | int | str
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from hindscan.errors import CesqlError
from hindscan.events.cesql_values import (
    GREATEST,
    LEAST,
    OPERATORS,
    Attributes,
    Fault,
    Of,
    Value,
    attribute,
    called,
    constant,
    exists,
    function_of,
    likeness,
    logic,
    membership,
    minus,
    negation,
    pattern_of,
)
from hindscan.events.event import Event, event_from_json
from hindscan.events.strict import shown

__all__ = ["Expression", "Value", "cesql"]


#: Characters of an expression, and levels of what is within what: no sensible one comes near, and a deeper one would exhaust the stack.
MAX_CHARACTERS: Final = 10_000
MAX_DEPTH: Final = 100


_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
      | (?P<word>[A-Za-z0-9_]+)
      | (?P<sign><>|!=|<=|>=|[=<>+\-*/%(),])
      | (?P<end>\Z)
    )""",
    re.VERBOSE | re.DOTALL,
)
_WORDS: Final = frozenset(("AND", "OR", "XOR", "NOT", "LIKE", "IN", "EXISTS", "TRUE", "FALSE"))

#: How tightly what stands between two operands binds.
_BINDING: Final = {
    "XOR": 1,
    "OR": 2,
    "AND": 3,
    **dict.fromkeys(("=", "!=", "<>", "<", "<=", ">", ">="), 4),
    **dict.fromkeys(("+", "-"), 5),
    **dict.fromkeys(("*", "/", "%"), 6),
    **dict.fromkeys(("LIKE", "IN", "NOT"), 7),
}
_UNARY: Final = 8


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    """A compiled expression, equal to another one of the same text. Made by `cesql`."""

    text: str
    _value: Of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"cesql({self.text!r})"

    def evaluate(self, event: Event | Mapping[str, Any]) -> Value:
        """Evaluate it on an event.

        Parameters
        ----------
        event : Event or mapping
            The event, or its JSON format. Times are texts: of an `Event` in UTC, of a mapping as they stand there.

        Returns
        -------
        bool, int or str
            What the expression gives.

        Raises
        ------
        CesqlError
            With the specification's kind: "math", "cast", "missingAttribute" or "functionEvaluation".
        InvalidEvent
            A mapping is not an event.
        """
        try:
            return self._value(_attributes(event))
        except Fault as fault:
            raise CesqlError(
                f"While evaluating the CESQL expression {shown(self.text)} on an event: it must give a value; {fault.reason} ({fault.kind}). "
                "Correct the expression (EXISTS asks whether an attribute is there), or the producer.",
                kind=fault.kind,
                reason=fault.reason,
                expression=self.text,
            ) from None


def cesql(expression: str) -> Expression:
    """Compile a CESQL expression.

    Parameters
    ----------
    expression : str
        Such as ``type = 'auction.closed' AND INT(price) > 100``.

    Raises
    ------
    CesqlError
        Of kind "parse" or "missingFunction"; `details` has the `column`, counted from 1.

    Examples
    --------
    >>> event = {"specversion": "1.0", "id": "1", "source": "/site", "type": "auction.closed", "price": 150}
    >>> cesql("type LIKE 'auction.%' AND price > 100").evaluate(event)
    True
    """
    try:
        if not isinstance(expression, str):
            raise Fault("parse", f"it is no text but {shown(expression)}", 1)
        if len(expression) > MAX_CHARACTERS:
            raise Fault("parse", f"it has more than {MAX_CHARACTERS:,} characters", MAX_CHARACTERS + 1)
        return Expression(expression, _Parser(list(_tokens(expression))).whole())
    except Fault as fault:
        raise CesqlError(
            f"While compiling the CESQL expression {shown(expression)}: it must be one that can be evaluated; column {fault.column}: {fault.reason}. "
            "Correct it there.",
            kind=fault.kind,
            reason=fault.reason,
            column=fault.column,
        ) from None


def _attributes(event: Event | Mapping[str, Any]) -> Attributes:
    """Give the attributes that an event has, each in its type."""
    if isinstance(event, Event):
        core = ("id", "source", "type", "specversion", "time", "subject", "datacontenttype", "dataschema")
        found = {name: event.attribute(name) for name in core}
        return {**{name: value for name, value in found.items() if value is not None}, **event.extensions}
    event_from_json(event, "evaluating CESQL on an event")
    return {name: value for name, value in event.items() if name not in ("data", "data_base64") and value is not None}


# --- Lexer --------------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    #: "text", "word", "sign" or "end".
    kind: str
    #: Of a keyword or sign, itself in capitals; of a text, its content.
    content: str
    column: int


def _tokens(expression: str) -> Iterator[_Token]:
    at = 0
    while True:
        found = _TOKEN.match(expression, at)
        if found is None:
            at += len(expression[at:]) - len(expression[at:].lstrip())
            said = (
                "a text that does not end" if expression[at] in "'\"" else f"{shown(expression[at])} means nothing here"
            )
            raise Fault("parse", said, at + 1)
        kind = str(found.lastgroup)
        content = found[kind]
        if kind == "text":
            content = content[1:-1].replace("\\" + content[0], content[0])
        yield _Token(kind, content, found.start(kind) + 1)
        if kind == "end":
            return
        at = found.end()


# --- Parser -------------------------------------------------------------------------------------------------------------


class _Node(NamedTuple):
    value: Of
    depth: int = 1


class _Parser:
    """Precedence climbing over tokens; what it makes are closures."""

    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens, self._at = tokens, 0
        self._open = 0

    def whole(self) -> Of:
        """Parse all of it."""
        node = self._expression(0)
        if self._front.kind != "end":
            raise self._wrong("an operator or the end")
        return node.value

    @property
    def _front(self) -> _Token:
        return self._tokens[self._at]

    def _is(self, *contents: str) -> bool:
        """Tell whether a keyword or sign stands in front."""
        return self._front.kind in ("word", "sign") and self._front.content.upper() in contents

    def _take(self) -> _Token:
        token = self._front
        self._at += 1
        return token

    def _demand(self, content: str) -> None:
        if not self._is(content):
            raise self._wrong(content)
        self._take()

    def _wrong(self, wanted: str) -> Fault:
        found = "the end" if self._front.kind == "end" else shown(self._front.content)
        return Fault("parse", f"{wanted} is expected, and {found} stands there", self._front.column)

    def _made(self, value: Of, *within: _Node) -> _Node:
        depth = 1 + max((node.depth for node in within), default=0)
        if depth > MAX_DEPTH:
            raise Fault("parse", f"it is nested more than {MAX_DEPTH} deep", self._front.column)
        return _Node(value, depth)

    def _expression(self, binding: int) -> _Node:
        self._open += 1
        if self._open > MAX_DEPTH:
            raise Fault("parse", f"it is nested more than {MAX_DEPTH} deep", self._front.column)
        left = self._operand()
        while (operator := self._operator()) is not None and _BINDING[operator] > binding:
            self._take()
            left = self._joined(operator, left)
        self._open -= 1
        return left

    def _operator(self) -> str | None:
        token = self._front
        name = token.content.upper()
        return name if token.kind in ("word", "sign") and name in _BINDING else None

    def _joined(self, operator: str, left: _Node) -> _Node:
        """Parse what follows an operator between two operands."""
        if operator in ("LIKE", "IN", "NOT"):
            return self._after(operator, left)
        if operator in ("AND", "OR"):
            parts = [left, self._expression(_BINDING[operator])]
            while self._is(operator):  # any number of them is one level
                self._take()
                parts.append(self._expression(_BINDING[operator]))
            return self._made(functools.partial(logic, operator == "OR", [part.value for part in parts]), *parts)
        right = self._expression(_BINDING[operator])
        return self._made(functools.partial(OPERATORS[operator], left.value, right.value), left, right)

    def _after(self, operator: str, left: _Node) -> _Node:
        """Parse LIKE or IN and what follows it."""
        negated = operator == "NOT"
        if negated:
            if not self._is("LIKE", "IN"):
                raise self._wrong("LIKE or IN")
            operator = self._take().content.upper()
        if operator == "LIKE":
            if self._front.kind != "text":
                raise self._wrong("a pattern in quotes")
            return self._made(functools.partial(likeness, left.value, pattern_of(self._take().content), negated), left)
        self._demand("(")
        members = self._list()
        if not members:
            raise self._wrong("a value")
        self._demand(")")
        return self._made(
            functools.partial(membership, left.value, [node.value for node in members], negated), left, *members
        )

    def _list(self) -> list[_Node]:
        """Parse expressions between commas, up to the bracket that closes them."""
        if self._is(")"):
            return []
        members = [self._expression(0)]
        while self._is(","):
            self._take()
            members.append(self._expression(0))
        return members

    def _operand(self) -> _Node:
        token = self._front
        if token.kind == "text":
            return self._made(functools.partial(constant, self._take().content))
        if token.kind == "word":
            return self._word()
        if self._is("("):
            self._take()
            node = self._expression(0)
            self._demand(")")
            return node
        if self._is("-", "+"):
            sign = self._take().content
            if self._front.kind == "word" and self._front.content.isdigit():
                return self._made(functools.partial(constant, self._integer(sign)))
            if sign == "-":
                operand = self._expression(_UNARY)
                return self._made(functools.partial(minus, operand.value), operand)
        raise self._wrong("a value")

    def _integer(self, sign: str = "") -> int:
        token = self._take()
        # Its length first: what a whole number costs to read grows with it.
        number = int(sign + token.content) if len(token.content) <= 20 else GREATEST + 1
        if not LEAST <= number <= GREATEST:
            raise Fault("parse", "an integer has 32 bits", token.column)
        return number

    def _word(self) -> _Node:
        token = self._front
        word = token.content.upper()
        if token.content.isdigit():
            return self._made(functools.partial(constant, self._integer()))
        if word in ("TRUE", "FALSE"):
            self._take()
            return self._made(functools.partial(constant, word == "TRUE"))
        if word == "NOT":
            self._take()
            operand = self._expression(_UNARY)
            return self._made(functools.partial(negation, operand.value), operand)
        if word == "EXISTS":
            self._take()
            return self._made(functools.partial(exists, self._attribute()))
        if self._tokens[self._at + 1].content == "(" and self._tokens[self._at + 1].kind == "sign":
            return self._call()
        return self._made(functools.partial(attribute, self._attribute()))

    def _attribute(self) -> str:
        token = self._front
        if token.kind != "word" or "_" in token.content or token.content.upper() in _WORDS:
            raise self._wrong("the name of an attribute")
        return self._take().content.lower()

    def _call(self) -> _Node:
        token = self._take()
        self._demand("(")
        arguments = self._list()
        self._demand(")")
        function = function_of(token.content.upper(), len(arguments))
        if function is None:
            reason = f"there is no function {token.content} of {len(arguments)} arguments"
            raise Fault("missingFunction", reason, token.column)
        given = [node.value for node in arguments]
        return self._made(functools.partial(called, function, given), *arguments)
