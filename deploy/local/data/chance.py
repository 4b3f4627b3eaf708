"""Random numbers that depend on nothing but their name and their row.

numpy's own distributions may change with its version and `libm` with the machine; SplitMix64 (Steele, Lea and Flood,
"Fast splittable pseudorandom number generators", 2014) is integer arithmetic only. Because a number belongs to a row
and not to a position in a stream, any row can be computed alone, in chunks of any size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.uint64]
Indices = NDArray[np.int64]

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


@dataclass(frozen=True, slots=True)
class Chance:
    """One world of random numbers; worlds with different names have nothing in common."""

    world: str

    def key(self, name: str) -> int:
        return int.from_bytes(blake2b(f"{self.world}/{name}".encode(), digest_size=8).digest(), "big")

    def bits(self, name: str, rows: Indices) -> Numbers:
        """64 random bits per row."""
        state = rows.astype(np.uint64) * np.uint64(_GOLDEN) + np.uint64(self.key(name))
        for shift, factor in _MIX:
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
        return state ^ (state >> np.uint64(31))

    def pick(self, name: str, rows: Indices, count: int) -> Indices:
        """One of `count` (below 2^31) per row, evenly."""
        return (((self.bits(name, rows) >> np.uint64(32)) * np.uint64(count)) >> np.uint64(32)).astype(np.int64)

    def weighted(self, name: str, rows: Indices, weights: Sequence[int]) -> Indices:
        """An index into `weights` per row, in proportion to them."""
        limits = np.cumsum(np.array(weights, dtype=np.int64))
        return np.searchsorted(limits, self.pick(name, rows, int(limits[-1])), side="right")

    def unit(self, name: str, rows: Indices) -> NDArray[np.float64]:
        """In [0, 1) in steps of 2^-24, so that `row + unit` is exact up to 2^29 rows."""
        return (self.bits(name, rows) >> np.uint64(40)) / np.float64(1 << 24)
