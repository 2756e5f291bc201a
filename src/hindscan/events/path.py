"""JMESPath over a whole event: compiled once, so that what is wrong with an expression is known before the first event (promise 5).

The only user of the library `jmespath`. It lets through until evaluation what can never work (an unknown function, a wrong number of arguments, a
string in back quotes that is no JSON); here these are faults of the expression, with their column. Used by `filters` and by the parameter mapping of `trigger`.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import jmespath  # type: ignore[import-untyped]
from jmespath import exceptions
from jmespath.functions import Functions  # type: ignore[import-untyped]

from hindscan.errors import FilterSyntaxError
from hindscan.events.strict import json_fault, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Path", "compile_path"]

_FUNCTIONS: Final[Mapping[str, Any]] = Functions.FUNCTION_TABLE


@dataclass(frozen=True, kw_only=True, slots=True)
class Path:
    """A compiled expression, equal to another one of the same text."""

    expression: str
    parsed: Any = field(repr=False, compare=False)

    def search(self, document: Any) -> Any:
        """Evaluate the expression on an event in the JSON format, or on any JSON value.

        Returns
        -------
        Any
            A JSON value; None where the path leads nowhere.

        Raises
        ------
        ValueError
            If the evaluation fails or does not give a JSON value; the text is the reason.
        """
        try:
            value = self.parsed.search(document)
        except exceptions.JMESPathError as fault:
            raise ValueError(str(fault)) from fault
        except Exception as fault:
            # Whatever the library does with a foreign value is a fault of this one event.
            raise ValueError(f"{type(fault).__name__}: {fault}") from fault
        wrong = json_fault(value, "its result")
        if wrong is not None:
            raise ValueError(wrong)
        return value


def compile_path(expression: object) -> Path:
    """Compile a JMESPath expression.

    Raises
    ------
    FilterSyntaxError
        If it can give a result for no event; `details` has the `expression` and the `column`, counted from 1.
    """
    if not isinstance(expression, str):
        raise _syntax_error(expression, 1, "it is not a string")
    try:
        with warnings.catch_warnings():
            # `word` for '"word"' is deprecated since JEP-12 and gives another value as soon as the word is JSON, such as `true`.
            warnings.simplefilter("error", PendingDeprecationWarning)
            parsed = jmespath.compile(expression)
    except PendingDeprecationWarning as fault:
        column = expression.find("`") + 1
        raise _syntax_error(expression, column, "between back quotes stands JSON; a string is written 'so'") from fault
    except exceptions.EmptyExpressionError as fault:
        raise _syntax_error(expression, 1, "it is empty") from fault
    except exceptions.IncompleteExpressionError as fault:
        raise _syntax_error(expression, len(expression) + 1, "it ends too early") from fault
    except exceptions.LexerError as fault:
        raise _syntax_error(expression, fault.lexer_position + 1, str(fault.message)) from fault
    except exceptions.ParseError as fault:
        reason = f"{fault.msg}, at {fault.token_value!r}"
        raise _syntax_error(expression, fault.lex_position + 1, reason) from fault
    except RecursionError as fault:
        raise _syntax_error(expression, 1, "it is nested too deeply") from fault
    for name, arguments in _calls(parsed.parsed):
        _check_call(expression, name, arguments)
    return Path(expression=expression, parsed=parsed)


def _calls(node: object) -> Iterator[tuple[str, int]]:
    if isinstance(node, dict):
        if node.get("type") == "function_expression":
            yield node["value"], len(node["children"])
        for child in node.get("children") or ():
            yield from _calls(child)


def _check_call(expression: str, name: str, arguments: int) -> None:
    found = re.search(rf"\b{re.escape(name)}\s*\(", expression)
    column = found.start() + 1 if found else 1
    if name not in _FUNCTIONS:
        raise _syntax_error(expression, column, f"there is no function {name}()")
    signature = _FUNCTIONS[name]["signature"]
    variadic = bool(signature) and signature[-1].get("variadic")
    if arguments < len(signature) or (arguments > len(signature) and not variadic):
        wanted = f"{'at least ' if variadic else ''}{len(signature)}"
        raise _syntax_error(expression, column, f"{name}() takes {wanted} arguments, and gets {arguments}")


def _syntax_error(expression: object, column: int, reason: str) -> FilterSyntaxError:
    return FilterSyntaxError(
        f"While compiling the JMESPath expression {shown(expression)}: it must be valid; at column {column}: {reason}. "
        "Correct the expression (https://jmespath.org/specification.html).",
        expression=expression if isinstance(expression, str) else repr(expression),
        column=column,
        reason=reason,
    )
