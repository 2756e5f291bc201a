"""How good forecasts were: calibration and proper scores, in plain numpy.

A forecast is a number, draws, or quantiles; an outcome is a number, or whether something happened. Nothing here knows of runs or events.

::

    result of a run -> Forecast; Forecast, outcome -> crps, pit, pinball; many of them -> scores, calibration
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hindscan.errors import UsageError

__all__ = ["Forecast", "calibration", "scores"]

Floats = npt.NDArray[np.float64]

#: Levels at which a quantile function is integrated: the middles of so many equal steps.
_STEPS: Final = 2_000
#: Bins of the PIT histogram.
PIT_BINS: Final = 10
#: Levels that are no further apart are the same.
_SAME_LEVEL: Final = 1e-9
#: Of 95 % under the normal curve.
_NORMAL_95: Final = 1.959963984540054


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What was said of a number before it was known.

    Parameters
    ----------
    mean : float
        Its expectation; of an event its probability.
    draws : array, optional
        Draws of it.
    quantiles : mapping of float to float, optional
        Its quantiles by their levels, from 0 to 1.
    """

    mean: float
    draws: Floats | None = None
    quantiles: Mapping[float, float] = field(default_factory=dict)

    @property
    def spread(self) -> bool:
        """Whether it says how sure it is."""
        return self.draws is not None or len(self.quantiles) > 1

    def quantile(self, level: float) -> float:
        """Give a quantile: of draws, or between those that are known; nan where it is beyond them."""
        if self.draws is not None:
            return float(np.quantile(self.draws, level))
        levels, values = self._known()
        if not levels.size:
            return math.nan
        # A level that is worked out, as (1 - 0.9) / 2 is, may miss the one that is meant by a rounding.
        nearest = int(np.abs(levels - level).argmin())
        meant = levels[nearest] if abs(levels[nearest] - level) < _SAME_LEVEL else level
        return float(np.interp(meant, levels, values, left=math.nan, right=math.nan))

    def inside(self, outcome: float, level: float) -> bool | None:
        """Tell whether an outcome lies in the central interval of a level; None where no quantile is known that bounds it."""
        low, high = self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)
        return None if math.isnan(low) or math.isnan(high) else low <= outcome <= high

    def pit(self, outcome: float) -> float:
        """Give the probability that was given to less than the outcome (and half of that to the outcome itself): uniform over many events if forecasts are right."""
        if self.draws is not None:
            below, equal = np.count_nonzero(self.draws < outcome), np.count_nonzero(self.draws == outcome)
            return float((below + equal / 2) / self.draws.size)
        levels, values = self._known()
        if not levels.size:
            return math.nan
        # Of quantiles that are equal any level would do: the middle of them.
        first, last = (np.interp(outcome, *_rising(values, levels, side)) for side in ("first", "last"))
        found = (first + last) / 2
        if outcome < values[0]:
            found = levels[0] / 2
        elif outcome > values[-1]:
            found = (1 + levels[-1]) / 2
        return float(found)

    def pinball(self, level: float, outcome: float) -> float:
        """Give the quantile loss at a level: proper, in the unit of the outcome, less is better."""
        miss = outcome - self.quantile(level)
        return max(level * miss, (level - 1) * miss)

    def crps(self, outcome: float) -> float:
        """Give the continuous ranked probability score: exact for draws, of quantiles by the mean pinball loss between the outermost; of a mere number its distance.

        References
        ----------
        Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation, equations 20 and 21.
        """
        if self.draws is not None:
            ordered = np.sort(self.draws)
            n = ordered.size
            # E|X - X'| / 2 of the draws as a distribution, by their order: no n x n differences.
            pairs = float(np.dot(2 * np.arange(n) - n + 1, ordered)) / n**2
            return float(np.abs(ordered - outcome).mean()) - pairs
        levels, values = self._known()
        if levels.size < 2:
            return abs(outcome - self.mean)
        steps = (np.arange(_STEPS) + 0.5) / _STEPS
        miss = outcome - np.interp(steps, levels, values)
        return float(2 * np.maximum(steps * miss, (steps - 1) * miss).mean())

    def _known(self) -> tuple[Floats, Floats]:
        pairs = sorted(self.quantiles.items())
        return np.array([level for level, _ in pairs]), np.array([value for _, value in pairs], np.float64)


def _rising(values: Floats, levels: Floats, side: str) -> tuple[Floats, Floats]:
    """Keep of equal values the first or the last level."""
    rises = np.diff(values) > 0
    keep = np.append(rises, True) if side == "last" else np.insert(rises, 0, True)
    return values[keep], levels[keep]


def scores(
    forecasts: Sequence[Forecast], outcomes: Sequence[float], *, levels: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)
) -> dict[str, Any]:
    """Score forecasts with their outcomes, means over all of them.

    Parameters
    ----------
    forecasts : sequence of Forecast
        One for each event.
    outcomes : sequence of float
        What came; of events 0 and 1.
    levels : sequence of float
        Of the pinball losses.

    Returns
    -------
    dict
        ``events, bias, mae`` (of the median, else of the mean), ``rmse`` (of the mean), ``crps``, ``pinball`` by level; where all outcomes are 0 or 1 and all
        forecasts are probabilities also ``brier`` and ``log_score`` (natural logarithm; infinite if what was called impossible came).
    """
    if len(forecasts) != len(outcomes):
        raise UsageError(f"Scoring: each forecast needs an outcome; there are {len(forecasts)} and {len(outcomes)}.")
    if not forecasts:
        return {"events": 0}
    came = np.asarray(outcomes, np.float64)
    means = np.array([one.mean for one in forecasts])
    middle = np.array([one.quantile(0.5) if one.spread else one.mean for one in forecasts])
    found: dict[str, Any] = {
        "events": len(forecasts),
        "bias": float((means - came).mean()),
        "mae": float(np.abs(middle - came).mean()),
        "rmse": float(np.sqrt(((means - came) ** 2).mean())),
        "crps": _mean([one.crps(y) for one, y in zip(forecasts, came, strict=True)]),
    }
    if all(one.spread for one in forecasts):
        found["pinball"] = {
            level: _mean([one.pinball(level, y) for one, y in zip(forecasts, came, strict=True)]) for level in levels
        }
    if bool(np.isin(came, (0.0, 1.0)).all()) and bool(((means >= 0) & (means <= 1)).all()):
        said = np.where(came == 1, means, 1 - means)
        found["brier"] = float(((means - came) ** 2).mean())
        found["log_score"] = float(np.mean([-math.log(p) if p > 0 else math.inf for p in said]))
    return found


def calibration(forecasts: Sequence[Forecast], outcomes: Sequence[float], *, level: float = 0.9) -> dict[str, Any]:
    """Tell whether forecasts are as sure as they should be.

    Parameters
    ----------
    forecasts : sequence of Forecast
        One for each event.
    outcomes : sequence of float
        What came.
    level : float
        Of the central interval: 0.9 is from the 5 % to the 95 % quantile.

    Returns
    -------
    dict
        ``level``, ``inside`` (share of the outcomes in their intervals), ``low`` and ``high`` (Wilson's 95 % interval of that share), and ``pit``: how many probability
        integral transforms fell into each tenth. Forecasts that are mere numbers are left out; ``events`` are the others. Shares are of those whose quantiles bound
        the interval; if there are none, there is no ``inside``.
    """
    pairs = [(one, y) for one, y in zip(forecasts, outcomes, strict=True) if one.spread]
    if not pairs:
        return {"events": 0, "level": level}
    pit, _ = np.histogram([one.pit(y) for one, y in pairs], bins=PIT_BINS, range=(0.0, 1.0))
    found: dict[str, Any] = {"events": len(pairs), "level": level, "pit": pit.tolist()}
    bounded = [inside for one, y in pairs if (inside := one.inside(y, level)) is not None]
    if bounded:
        low, high = _wilson(sum(bounded), len(bounded))
        found |= {"inside": sum(bounded) / len(bounded), "low": low, "high": high}
    return found


def _wilson(hits: int, n: int) -> tuple[float, float]:
    share, z = hits / n, _NORMAL_95
    centre, half = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
