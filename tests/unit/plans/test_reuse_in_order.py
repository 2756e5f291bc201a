"""Why a slice of an ordered job is computed although its own data are what they were."""

from __future__ import annotations

import msgspec
import pytest

from hindscan.jobs.job import Step
from hindscan.plans.plan import Plan
from hindscan.plans.reuse import why_not_reused
from unit.plans.test_chains import FOLD, PARAMETERS, plan, stored_by, topic

BASE = plan(topic(40, 25))
THERE = stored_by(BASE.stages[0])
CHAIN = BASE.stages[0].chains[0]


@pytest.mark.parametrize(
    ("now", "reasons"),
    [
        (plan(topic(40, 25), existing=THERE), {}),
        (plan(topic(60, 25), existing=THERE), {"new data": 2}),
        (plan(topic(40, 32), existing=THERE), {"new data": 2}),
        (plan(topic(40, 25, starts=(10, 0)), existing=THERE), {"what comes before it in its partition changed": 3}),
        (
            plan(topic(40, 25), existing=THERE - {BASE.stages[0].keys[2], CHAIN.after(1)}),
            {"its partial or the state after it is gone": 2},
        ),
        (
            plan(msgspec.structs.replace(topic(40, 25), before=7), existing=THERE),
            {"as_of, since or until cuts it elsewhere": 7},
        ),
        (
            plan(
                topic(40, 25),
                msgspec.structs.replace(FOLD, steps=FOLD.steps | {"start": Step(digest="b2")}),
                existing=THERE,
            ),
            {"the code of its step (start) changed": 7},
        ),
        (plan(topic(40, 25), parameters=PARAMETERS | {"first": 1}, existing=THERE), {"parameter first changed": 7}),
        (plan(topic(40, 25), parameters=PARAMETERS | {"last": 1}, existing=THERE), {}),
    ],
)
def test_each_change_is_named_for_the_slices_it_concerns(now: Plan, reasons: dict[str, int]):
    assert why_not_reused(now, BASE) == reasons
