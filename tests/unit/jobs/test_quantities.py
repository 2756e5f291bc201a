"""What a simulation's function returns is known where its source says it, and taken for unknown everywhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import hindscan as hs
from hindscan.errors import JobDefinitionError
from hindscan.jobs.quantities import quantity_names


def written_out(block: hs.Block) -> dict[str, Any]:
    def inner() -> dict[str, Any]:
        return {"other": 1}

    if block.index > 10:
        return {"loss": inner(), "gain": 2.0}
    return {"gain": block.rng.random(block.size), "loss": block.rng.random(block.size)}


def a_name(block: hs.Block) -> Any:
    found = {"gain": block.rng.random(block.size)}
    found["loss"] = found["gain"]
    return found


def opened(block: hs.Block) -> dict[str, Any]:
    return {"gain": block.rng.random(block.size), **a_name(block)}


def computed(block: hs.Block) -> dict[str, Any]:
    return {f"gain{n}": block.rng.random(block.size) for n in range(2)}


def one_or_other(block: hs.Block) -> dict[str, Any]:
    if block.size:
        return {"gain": block.rng.random(block.size)}
    return {"loss": block.rng.random(block.size)}


def an_array(block: hs.Block) -> Any:
    return block.rng.random(block.size)


def annotated(block: hs.Block) -> npt.NDArray[np.float64]:
    return block.rng.random(block.size)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(block: hs.Block) -> Any:
        return function(block) | {"more": block.rng.random(block.size)}

    return call


@decorated
def more(block: hs.Block) -> dict[str, Any]:
    return {"gain": block.rng.random(block.size)}


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (written_out, ("loss", "gain")), (a_name, ()), (opened, ()), (computed, ()), (one_or_other, ()), (an_array, ()), (more, ()), (annotated, ("job",)),
        (lambda block: {"gain": block.rng.random(block.size)}, ()), (len, ()),
    ],
)  # fmt: skip
def test_names_are_known_where_each_return_is_a_dict_that_is_written_out_or_all_is_an_array(
    function: Any, names: tuple[str, ...]
) -> None:
    assert quantity_names(function, "job") == names


def test_a_statistic_of_a_quantity_that_is_not_returned_is_refused_when_it_is_declared() -> None:
    assert hs.simulation()(written_out).spec.quantities == ("loss", "gain")
    with pytest.raises(JobDefinitionError, match="'x' takes 'los', 'w', and the function returns 'loss', 'gain'"):
        hs.simulation(statistics={"x": hs.Mean("los", weight="w")})(written_out)
    with pytest.raises(JobDefinitionError, match="takes the only quantity there is, and the function returns"):
        hs.simulation(statistics={"x": hs.Mean()})(written_out)
    hs.simulation(statistics={"x": hs.Mean("los")})(a_name)
