"""What the HTTP edge needs of the dispatcher, as a Protocol: the web never imports what is on top of it.

`desk.StoreDesk` implements it; every method is synchronous and safe to call from several threads. Answers are JSON-able mappings in the
words of `docs/design.md`, so that the edge only translates: paths, status codes, media types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from hindscan.events.event import Event
from hindscan.runs.figures import Figures

__all__ = ["Desk"]


class Desk(Protocol):
    """What there is to ask, seen from outside."""

    def receive(self, events: Sequence[Event]) -> dict[str, list[str]]:
        """Record events and what they start, durably, before returning: ``runs``, ``existing``, ``quarantined``."""
        ...

    def receive_body(self, trigger: str, body: bytes) -> dict[str, list[str]]:
        """Record what a body that is no CloudEvent starts, as the trigger declares it; answers as `receive` does."""
        ...

    def redrive(self, event: str | None, source: str | None, trigger: str | None) -> list[dict[str, Any]]:
        """Decide once more about an event in quarantine, or about all (of one trigger)."""
        ...

    def begin_replay(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to put past events through a trigger again; the answer names it as ``replay``."""
        ...

    def replay(self, trigger: str, name: str) -> dict[str, Any]:
        """Describe a replay, and what it has done."""
        ...

    def begin_audit(self, trigger: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Begin to hold a trigger's sources against the store; the answer names it as ``audit``."""
        ...

    def audit(self, trigger: str, name: str) -> dict[str, Any]:
        """Describe an audit, and what it found."""
        ...

    def jobs(self) -> list[dict[str, Any]]:
        """Describe the declared jobs."""
        ...

    def job(self, name: str) -> dict[str, Any]:
        """Describe one job with the JSON Schema of its parameters."""
        ...

    def submit(
        self, name: str, body: Mapping[str, Any], idempotency_key: str | None, requested_by: str
    ) -> tuple[dict[str, Any], bool]:
        """Open a run; tells whether it is new (False: the key was used for it before)."""
        ...

    def runs(self, job: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        """List runs, newest first."""
        ...

    def run(self, run: str) -> dict[str, Any]:
        """Describe one run."""
        ...

    def cancel(self, run: str) -> dict[str, Any]:
        """Ask for a run to be stopped."""
        ...

    def retry(self, run: str) -> dict[str, Any]:
        """Open a new attempt of a failed or cancelled run."""
        ...

    def rerun(self, run: str, body: Mapping[str, Any], requested_by: str) -> dict[str, Any]:
        """Open a new run, linked to this one, on its snapshot, with the same or edited parameters."""
        ...

    def facts(self, run: str, after: int) -> list[dict[str, Any]]:
        """List what happened to a run, each with its number, from the one after `after` on."""
        ...

    def result(self, run: str) -> Path:
        """Find the published table of a run."""
        ...

    def partial(self, run: str) -> tuple[Path, dict[str, Any]]:
        """Combine what a run has done so far: a file that the caller deletes, and how much of the run that is."""
        ...

    def manifest(self, run: str) -> dict[str, Any]:
        """Give the manifest of a run's result."""
        ...

    def histories(self) -> list[dict[str, Any]]:
        """Describe the declared histories."""
        ...

    def triggers(self) -> list[dict[str, Any]]:
        """Describe the declared triggers."""
        ...

    def events(self, quarantined: bool, limit: int) -> list[dict[str, Any]]:
        """List received events with their decisions, newest first."""
        ...

    def figures(self) -> Figures:
        """Count events, runs and slices, and tell how far triggers are behind."""
        ...

    def faults(self) -> dict[str, str]:
        """Tell what keeps the dispatcher from being ready, by part; empty: ready."""
        ...

    def notes(self) -> dict[str, str]:
        """Tell what people should know though it is ready, by part."""
        ...
