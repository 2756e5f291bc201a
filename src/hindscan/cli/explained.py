"""A plan slice by slice, as `hindscan plan --slices` shows it: what each reads, and whether it is reused or why not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hindscan.cli.output import print_table
from hindscan.history.snapshot import DrawSlice, KafkaSlice, ParquetSlice

if TYPE_CHECKING:
    from hindscan.history.snapshot import Slice
    from hindscan.plans.plan import Plan

__all__ = ["print_slices", "slice_documents"]


def slice_documents(plan: Plan, why: tuple[dict[int, str], ...]) -> list[dict[str, Any]]:
    """Describe each slice of a plan.

    Parameters
    ----------
    why : tuple of dict
        `plans.reuse.reasons` of the plan.

    Returns
    -------
    list of dict
        In the order of stages and positions: `step`, `slice`, `reads`, `rows`, `key`, `reused`, and `why` it is not.
    """
    return [
        {
            "step": stage.step, "slice": s.position, "reads": _reads(s), "rows": s.rows, "key": key,
            "reused": s.position in stage.reused, "why": reasons.get(s.position),
        }
        for stage, reasons in zip(plan.stages, why, strict=True)
        for s, key in zip(stage.slices, stage.keys, strict=True)
    ]  # fmt: skip


def print_slices(plan: Plan, why: tuple[dict[int, str], ...]) -> None:
    """Print one line for each slice."""
    print_table(
        ("step", "slice", "reads", "rows", "reused"),
        [
            (one["step"], one["slice"], one["reads"], one["rows"], "reused" if one["reused"] else f"no: {one['why']}")
            for one in slice_documents(plan, why)
        ],
    )


def _reads(s: Slice) -> str:
    """Say what a slice reads; ranges are half-open."""
    match s:
        case ParquetSlice():
            return f"{s.path} row groups {s.first} to {s.last}"
        case KafkaSlice():
            return f"partition {s.partition} offsets {s.start} to {s.end}"
        case DrawSlice():
            return f"draws {s.start} to {s.end}"
