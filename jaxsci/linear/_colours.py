"""Orderings of a sparse matrix: which unknown is updated first, second, ... Built on the host from the pattern."""

import numpy as np

from jaxsci.linear._pattern import Pattern


def neighbours(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Graph of A + A^T in compressed rows: (starts (n + 1,), neighbours)."""
    rows, cols = np.concatenate([pattern.rows, pattern.cols]), np.concatenate([pattern.cols, pattern.rows])
    places = np.unique(rows.astype(np.int64) * pattern.size + cols)
    starts = np.searchsorted(places, np.arange(pattern.size + 1, dtype=np.int64) * pattern.size)
    return starts, (places % max(pattern.size, 1)).astype(np.int32)


def greedy_colours(pattern: Pattern) -> np.ndarray:
    """Colour of every unknown: one unknown after the other takes the least colour that none of its neighbours has.

    Reference: Saad 2003, section 3.3.3 (greedy multicoloring).
    """
    starts, near = neighbours(pattern)
    colour = np.full(pattern.size, -1, np.int32)
    for i in range(pattern.size):
        taken = set(colour[near[starts[i] : starts[i + 1]]].tolist())
        c = 0
        while c in taken:
            c += 1
        colour[i] = c
    return colour


def sequence(pattern: Pattern, order: str | tuple[int, ...]) -> np.ndarray:
    """The unknowns in the order of their update: as numbered, colour by colour, or as given."""
    if order == "natural":
        return np.arange(pattern.size)
    if order == "multicolor":
        return np.argsort(greedy_colours(pattern), kind="stable")
    return np.asarray(order)


__all__ = ["greedy_colours", "neighbours", "sequence"]
