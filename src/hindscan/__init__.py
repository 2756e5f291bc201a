"""hindscan: an event pins history, a function fans out over it, one reproducible result is published.

What users write with, as ``import hindscan as hs``. Every name is imported from its module when it is first asked for, so that importing
hindscan reads nothing, opens nothing and is fast.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hindscan import errors
    from hindscan.api import events, history, load_snapshot, run, runs
    from hindscan.backtesting import backtest
    from hindscan.data import Data
    from hindscan.drawing import draw
    from hindscan.events.cesql import cesql
    from hindscan.events.event import Event
    from hindscan.events.filters import Filter
    from hindscan.jobs.chart import chart
    from hindscan.jobs.declare import Job, job, simulation
    from hindscan.jobs.estimators import (
        Covariance,
        Difference,
        Histogram,
        Mean,
        Moments,
        Probability,
        Quantile,
        Ratio,
        Shortfall,
    )
    from hindscan.jobs.resampling import (
        Empirical,
        bootstrap,
        bootstrap_groups,
        bootstrap_indices,
        fit,
        hawkes_arrivals,
        poisson_arrivals,
    )
    from hindscan.jobs.resource import resource
    from hindscan.jobs.sampling import Antithetic, Halton, Sobol, Stratified
    from hindscan.jobs.simulation import Block
    from hindscan.leaks import leaktest
    from hindscan.tasks.whole import Whole

__all__ = [
    "Antithetic",
    "Block",
    "Covariance",
    "Data",
    "Difference",
    "Empirical",
    "Event",
    "Filter",
    "Halton",
    "Histogram",
    "Job",
    "Mean",
    "Moments",
    "Probability",
    "Quantile",
    "Ratio",
    "Shortfall",
    "Sobol",
    "Stratified",
    "Whole",
    "backtest",
    "bootstrap",
    "bootstrap_groups",
    "bootstrap_indices",
    "cesql",
    "chart",
    "draw",
    "errors",
    "events",
    "fit",
    "hawkes_arrivals",
    "history",
    "job",
    "leaktest",
    "load_snapshot",
    "poisson_arrivals",
    "resource",
    "run",
    "runs",
    "simulation",
]

__version__ = "0.1.0"

#: Where each public name lives.
_HOMES = {
    "Antithetic": "hindscan.jobs.sampling",
    "Block": "hindscan.jobs.simulation",
    "Covariance": "hindscan.jobs.estimators",
    "Data": "hindscan.data",
    "Difference": "hindscan.jobs.estimators",
    "Empirical": "hindscan.jobs.resampling",
    "Event": "hindscan.events.event",
    "Filter": "hindscan.events.filters",
    "Halton": "hindscan.jobs.sampling",
    "Histogram": "hindscan.jobs.estimators",
    "Job": "hindscan.jobs.declare",
    "Mean": "hindscan.jobs.estimators",
    "Moments": "hindscan.jobs.estimators",
    "Probability": "hindscan.jobs.estimators",
    "Quantile": "hindscan.jobs.estimators",
    "Ratio": "hindscan.jobs.estimators",
    "Shortfall": "hindscan.jobs.estimators",
    "Sobol": "hindscan.jobs.sampling",
    "Stratified": "hindscan.jobs.sampling",
    "Whole": "hindscan.tasks.whole",
    "backtest": "hindscan.backtesting",
    "bootstrap": "hindscan.jobs.resampling",
    "bootstrap_groups": "hindscan.jobs.resampling",
    "bootstrap_indices": "hindscan.jobs.resampling",
    "cesql": "hindscan.events.cesql",
    "chart": "hindscan.jobs.chart",
    "fit": "hindscan.jobs.resampling",
    "hawkes_arrivals": "hindscan.jobs.resampling",
    "draw": "hindscan.drawing",
    "job": "hindscan.jobs.declare",
    "leaktest": "hindscan.leaks",
    "load_snapshot": "hindscan.api",
    "poisson_arrivals": "hindscan.jobs.resampling",
    "resource": "hindscan.jobs.resource",
    "run": "hindscan.api",
    "simulation": "hindscan.jobs.declare",
}


#: Names that are a function for users and a folder inside: the folder's module answers to a call too.
_CALLABLE_FOLDERS = ("events", "history", "runs")


class _Folder(types.ModuleType):
    def __call__(self, *arguments: object, **options: object) -> object:
        return getattr(importlib.import_module("hindscan.api"), self.__name__.rpartition(".")[2])(*arguments, **options)


class _Root(types.ModuleType):
    def __reduce__(self) -> tuple[object, ...]:
        # A job in a notebook cell that says `hs.bootstrap` captures this module, and picklers know modules by their very class.
        return importlib.import_module, (self.__name__,)

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds a folder here when it is first imported; without this it would hide the function of that name.
        if name in _CALLABLE_FOLDERS and isinstance(value, types.ModuleType):
            value.__class__ = _Folder
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Root


def __getattr__(name: str) -> object:
    if name in _CALLABLE_FOLDERS or name == "errors":
        return importlib.import_module(f"hindscan.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'hindscan' has no attribute {name!r}")
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    # What a notebook completes after `hs.`: the names above, and none of the modules that happen to be loaded.
    return sorted([*__all__, "__version__"])
