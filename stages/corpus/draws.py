"""Draws that do not depend on each other, from hashes in place of a generator.

A generator's draws follow one another, so one more sentence would change all that come
after it. Here each draw is a hash of what it is for: with one more choice, a draw gives
either the same as before or the new one (rendezvous hashing).
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np

from stages.core.hashing import hash_bytes


def number(*of: object) -> int:
    """A random number of 64 bits, the same for the same arguments."""
    return int(hash_bytes("\0".join(map(str, of)).encode())[:16], 16)


def uniform(low: int, high: int, *of: object) -> int:
    """A random integer from `low` to `high`."""
    return low + number(*of) % (high - low + 1)


def choose(weights: Mapping[str, float], *of: object) -> str:
    """One of the keys, each as often as its weight says."""
    # Hashed once; what is drawn for is longer than the choices.
    start = hashlib.sha256("\0".join([*map(str, of), ""]).encode())

    def arrival(choice: str) -> float:
        one = start.copy()
        one.update(choice.encode())
        # The first arrival of processes with these rates.
        share = (int.from_bytes(one.digest()[:8]) + 0.5) / 2**64
        return -math.log(share) / weights[choice]

    return min(weights, key=arrival)


def ranks(numbers: np.ndarray, seed: int) -> np.ndarray:
    """A random order of items: their places, sorted by a hash of number and `seed`.

    Args:
        numbers: of each item, uint64.
        seed: of 64 bits.
    """
    with np.errstate(over="ignore"):  # SplitMix64's finaliser, Steele et al. 2014
        mixed = numbers ^ np.uint64(seed)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.argsort(mixed, kind="stable")
