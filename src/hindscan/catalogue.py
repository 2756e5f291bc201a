"""The sample site's catalogue: the schemas of its tables, what it sells, and the words of its rows.

It promises that a table of the sample has the columns of the design in their order, with its text dictionary-
encoded, so that a million rows cost no string. `hindscan.sample` draws the numbers, here they become rows;
`hindscan.generate` writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = [
    "AUCTIONS",
    "BIDS",
    "CATEGORIES",
    "CHANNELS",
    "PERSONS",
    "Category",
    "auctions_table",
    "bids_table",
    "persons_table",
]

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int8]

_TIME = pa.timestamp("us", tz="UTC")


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(columns)


#: Members of the site, by id.
PERSONS = _schema(
    id=pa.int64(),
    name=pa.string(),
    email=pa.string(),
    city=pa.string(),
    state=pa.string(),
    date_time=_TIME,
)
#: What was offered, by id, which is the order of opening. Prices in cents; a reserve of 0 is none.
AUCTIONS = _schema(
    id=pa.int64(),
    item=pa.string(),
    description=pa.string(),
    category=pa.string(),
    seller=pa.int64(),
    initial_bid=pa.int64(),
    reserve=pa.int64(),
    date_time=_TIME,
    expires=_TIME,
)
#: What was bid, in the order of time. Prices in cents. The category repeats the auction's.
BIDS = _schema(
    auction=pa.int64(),
    bidder=pa.int64(),
    price=pa.int64(),
    channel=pa.string(),
    category=pa.string(),
    date_time=_TIME,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Category:
    """What is sold under one name, and how."""

    #: Share of all auctions; the shares add up to 1.
    share: float
    #: Median value in cents, and the standard deviation of its natural logarithm.
    value: int
    spread: float
    nouns: tuple[str, str, str, str, str, str]


CATEGORIES = {
    name: Category(share=share, value=value, spread=spread, nouns=nouns)
    for name, share, value, spread, nouns in (
        ("art", 0.06, 25_000, 1.3, ("etching", "oil painting", "poster", "bronze", "watercolour", "print")),
        ("books", 0.10, 1_800, 0.8, ("first edition", "atlas", "novel", "comic", "cookbook", "dictionary")),
        ("cars", 0.15, 780_000, 0.7, ("saloon", "estate car", "convertible", "pick-up", "coupe", "van")),
        ("clothing", 0.10, 3_200, 0.7, ("coat", "leather jacket", "dress", "pair of boots", "hat", "scarf")),
        ("coins", 0.05, 6_500, 1.1, ("silver coin", "gold coin", "medal", "banknote", "coin set", "token")),
        ("electronics", 0.17, 18_000, 0.9, ("laptop", "camera", "telephone", "radio", "console", "amplifier")),
        ("furniture", 0.08, 14_000, 0.9, ("armchair", "bookcase", "desk", "lamp", "chest", "table")),
        ("jewellery", 0.06, 22_000, 1.1, ("ring", "necklace", "brooch", "bracelet", "pair of earrings", "pendant")),
        ("music", 0.07, 9_500, 1.0, ("guitar", "violin", "record", "piano", "drum kit", "trumpet")),
        ("sports", 0.07, 7_500, 0.8, ("bicycle", "racket", "kayak", "pair of skis", "tent", "saddle")),
        ("toys", 0.06, 2_600, 0.8, ("train set", "doll", "board game", "kite", "model plane", "bear")),
        (
            "watches",
            0.03,
            48_000,
            1.0,
            ("wristwatch", "pocket watch", "chronograph", "diver", "alarm clock", "wall clock"),
        ),
    )
}

#: Where bids come from: each one's share.
CHANNELS = {"web": 0.44, "app": 0.38, "phone": 0.03, "partner": 0.15}

_LOOKS = ("black", "blue", "grey", "green", "old", "rare", "red", "restored", "signed", "white")
_TERMS = (
    "As new, with papers.",
    "Used, in good order.",
    "Signs of wear, see the pictures.",
    "From an estate.",
    "Needs some work.",
    "One owner, well kept.",
    "Collection in person.",
    "Sold as seen, no returns.",
)
_FIRST = (
    "Ada", "Ben", "Carla", "Dan", "Edith", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kirsten", "Leo",
    "Maya", "Nils", "Olga", "Paul", "Rosa", "Sam", "Tara", "Udo", "Vera", "Will", "Yara", "Zoe",
)  # fmt: skip
_LAST = (
    "Abel", "Brandt", "Costa", "Diaz", "Evans", "Fischer", "Gupta", "Hansen", "Ito", "Jensen", "Keller",
    "Lopez", "Moreau", "Novak", "Okafor", "Park", "Quinn", "Rossi", "Silva", "Tanaka", "Weber", "Young",
)  # fmt: skip
_CITIES = {
    "Portland": "OR", "Seattle": "WA", "Phoenix": "AZ", "Boise": "ID", "Cheyenne": "WY", "Palo Alto": "CA",
    "Los Angeles": "CA", "Redmond": "WA", "San Francisco": "CA", "Bend": "OR", "Kent": "WA", "Denver": "CO",
}  # fmt: skip


def auctions_table(
    rng: np.random.Generator,
    *,
    ids: Ints,
    category: Small,
    seller: Ints,
    initial_bid: Ints,
    reserve: Ints,
    opens: Ints,
    expires: Ints,
) -> pa.Table:
    """Draw items and descriptions for auctions; `category` holds positions in `CATEGORIES`, times are microseconds."""
    n = len(ids)
    items = [f"{look} {noun}" for kind in CATEGORIES.values() for noun in kind.nouns for look in _LOOKS]
    each = len(items) // len(CATEGORIES)
    terms = [f"{term} From {city}, {state}." for term in _TERMS for city, state in _CITIES.items()]
    return pa.table(
        [
            _numbers(ids),
            _encoded(category.astype(np.int32) * each + rng.integers(0, each, n, dtype=np.int32), items),
            _encoded(rng.integers(0, len(terms), n, dtype=np.int32), terms),
            _encoded(category, list(CATEGORIES)),
            _numbers(seller),
            _numbers(initial_bid),
            _numbers(reserve),
            _times(opens),
            _times(expires),
        ],
        names=AUCTIONS.names,
    )


def bids_table(*, auction: Ints, bidder: Ints, price: Ints, channel: Small, category: Small, time: Ints) -> pa.Table:
    """Put bids into a table; `channel` and `category` hold positions in `CHANNELS` and `CATEGORIES`."""
    return pa.table(
        [
            _numbers(auction),
            _numbers(bidder),
            _numbers(price),
            _encoded(channel, list(CHANNELS)),
            _encoded(category, list(CATEGORIES)),
            _times(time),
        ],
        names=BIDS.names,
    )


def persons_table(rng: np.random.Generator, joined: Ints) -> pa.Table:
    """Draw the members, one row for each time in `joined`, ids from 1."""
    n = len(joined)
    names = [f"{first} {last}" for first, last in product(_FIRST, _LAST)]
    ids, name = _numbers(np.arange(1, n + 1)), rng.integers(0, len(names), n, dtype=np.int32)
    local = _encoded(name, [text.lower().replace(" ", ".") + "." for text in names]).cast(pa.string())
    domain, nothing = _text(["@example.com", ""])
    city = rng.integers(0, len(_CITIES), n, dtype=np.int32)
    return pa.table(
        [
            ids,
            _encoded(name, names),
            # The stubs know no mixture of columns and scalars.
            pc.binary_join_element_wise(local, ids.cast(pa.string()), domain, nothing),  # type: ignore[call-overload]
            _encoded(city, list(_CITIES)),
            _encoded(city, list(_CITIES.values())),
            _times(joined),
        ],
        names=PERSONS.names,
    ).cast(PERSONS)


# Arrays are built from their buffers: `pa.array` imports pandas wherever it is installed, which takes longer than
# drawing a million bids.


def _encoded(codes: npt.NDArray[np.int8] | npt.NDArray[np.int32], words: list[str]) -> pa.DictionaryArray[Any, Any]:
    return pa.DictionaryArray.from_arrays(_numbers(codes), _text(words))


def _text(words: list[str]) -> pa.StringArray:
    letters = [word.encode() for word in words]
    offsets = np.cumsum([0, *map(len, letters)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets.data), pa.py_buffer(b"".join(letters)))


def _numbers(values: npt.NDArray[np.integer[Any]]) -> pa.Array[Any]:
    # Contiguous memory is required, and kept alive by the array.
    whole = np.ascontiguousarray(values)
    return pa.Array.from_buffers(pa.from_numpy_dtype(whole.dtype), len(whole), [None, pa.py_buffer(whole.data)])


def _times(microseconds: Ints) -> pa.Array[Any]:
    return _numbers(microseconds).view(_TIME)
