"""Chains: which event caused which, and how many runs lie between an event and the first one of its chain.

An event that a run emits carries on three extension attributes: `causationid` (id of the event that opened the run), `correlationid` (the same for the whole chain: the
first event's own, else its id) and `chaindepth` (runs in the chain up to and including this one). They are plain attributes, so that a chain is followed through
topics, webhooks and other people's services that hand them on. What counts the depth ends a cycle (promise 5: in quarantine, with the reason).

::

    Event(chaindepth = n) -> trigger -> Run -> Event(chaindepth = n + 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["CAUSATION", "CORRELATION", "DEPTH", "chain_fault", "chain_of", "depth_of"]

# "a context attribute name MUST consist of lower-case letters ('a' to 'z') or digits ('0' to '9')" (CloudEvents 1.0, spec.md).
CAUSATION: Final = "causationid"
CORRELATION: Final = "correlationid"
DEPTH: Final = "chaindepth"


def depth_of(attributes: Mapping[str, object]) -> int:
    """Tell how many runs led to an event, from its extension attributes.

    Raises
    ------
    ValueError
        What stands there is no count.

    Examples
    --------
    >>> depth_of({}), depth_of({"chaindepth": "3"})
    (0, 3)
    """
    # In binary mode every attribute is a text.
    text = str(attributes.get(DEPTH, "0"))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise ValueError(f"{DEPTH} must be a whole number from 0 on, found {text!r}")
    return int(text)


def chain_fault(attributes: Mapping[str, object], most: int) -> str | None:
    """Say why an event may not open a run: its chain has as many as it may have, or its length cannot be told.

    Parameters
    ----------
    attributes : mapping
        The event's extension attributes.
    most : int
        How many runs one chain may have.
    """
    try:
        depth = depth_of(attributes)
    except ValueError as fault:
        return f"While following the chain of events: {fault}. Hand the attribute on as it was, or leave it out."
    if depth < most:
        return None
    return (
        f"While following the chain of events: one chain may have {most} runs ([serve].chain_depth), and {depth} led to this event "
        f"(correlation {attributes.get(CORRELATION)!r}, cause {attributes.get(CAUSATION)!r}). If triggers start each other in a circle, narrow a filter; "
        "if the chain is meant to be so long, raise chain_depth. Then redrive the event."
    )


def chain_of(run: str, attributes: Mapping[str, object] | None) -> dict[str, str | int]:
    """Give the extension attributes of what a run emits.

    Parameters
    ----------
    run : str
        Its id: a run that no event opened begins a chain.
    attributes : mapping, optional
        All attributes of the event that opened it.
    """
    if attributes is None:
        return {CORRELATION: run, DEPTH: 1}
    try:
        depth = depth_of(attributes)
    except (
        ValueError
    ):  # the trigger's decision has refused it; of a run that was opened otherwise the chain begins here
        depth = 0
    cause = str(attributes["id"])
    return {CAUSATION: cause, CORRELATION: str(attributes.get(CORRELATION) or cause), DEPTH: depth + 1}
