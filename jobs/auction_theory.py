"""First and second price auctions earn the same: a check of simulations against theory. Sweep it: -p bidders=2..10 --sweep.

Bidders whose values are uniform on [0, 1] bid their value where the second highest bid is paid, and (n - 1) / n of it where the highest is. Either way the seller
gets (n - 1) / (n + 1) on average (Vickrey 1961), though not as surely: the first price varies less.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt

import hindscan as hs

Bidders = Annotated[int, msgspec.Meta(ge=2, le=1000, description="How many bidders come.")]


@hs.simulation(block_size=16_384)
def auction_theory(block: hs.Block, bidders: Bidders = 5) -> dict[str, npt.NDArray[np.float64]]:
    """What first and second price auctions earn, of the same values."""
    values = np.partition(block.uniforms(bidders), (bidders - 2, bidders - 1), axis=1)
    first = (bidders - 1) / bidders * values[:, bidders - 1]
    second = values[:, bidders - 2]
    return {"first_price": first, "second_price": second, "difference": first - second}
