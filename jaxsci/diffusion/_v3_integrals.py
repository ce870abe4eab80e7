r"""The integrals of DPM-Solver-v3 along a stretch of lam, relative to its left end, for NumPy and traced values.

l, s and b are piecewise polynomials through the levels of the statistics, so $L = \int l$ and $S = \int s$ are exact.
A stretch from 0 carries

$$ K_k = \int e^{L+S-L_0-S_0}\frac{(\lambda-\lambda_0)^k}{k!}d\lambda, \qquad B = \int e^{S_0-S}b\,d\lambda, \qquad
   G = \int e^{L+S-L_0-S_0}\Bigl(\int_0^{\lambda} e^{S_0-S}b\Bigr)d\lambda, $$

by Gauss or trapezoidal quadrature inside a cell, and `chain` joins consecutive stretches. Nothing is taken from a
common origin: no exponent overflows, and K has positive terms only, so it keeps its relative accuracy in float32 too.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core.host import namespace
from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion._regression import slopes
from jaxsci.diffusion.statistics import Statistics

TERMS = 5
"""Kernels that a stretch carries: orders up to 4 and their correctors."""


def _collocation(nodes, weights):
    """A rule on [0, 1] with the matrix that integrates the interpolant from 0 to each node."""
    matrix = [[expo.lagrange_weights(nodes, x * nodes, x * weights)[j] for j in range(len(nodes))] for x in nodes]
    return nodes, weights, np.asarray(matrix)


_GAUSS = np.polynomial.legendre.leggauss(5)
QUADRATURES = {
    "gauss": _collocation((_GAUSS[0] + 1) / 2, _GAUSS[1] / 2),
    "trapezoid": (np.array([0.0, 1.0]), np.array([0.5, 0.5]), np.array([[0.0, 0.0], [0.5, 0.5]])),
}


class Stretch(NamedTuple):
    """One stretch, or M consecutive ones with a leading axis; axes of 2 and 5 come next, those of the data last.

    Attributes:
        lam: left end.
        origin: L and S at the left end.
        kernels: K_0 .. K_4.
        drift: B.
        driven: G.
    """

    lam: Float[Array, "*M"]
    origin: Float[Array, "*M2d"]
    kernels: Float[Array, "*M5d"]
    drift: Float[Array, "*Md"]
    driven: Float[Array, "*Md"]


class Coefficients(NamedTuple):
    """Statistics with their integrals, made once by `coefficients`: a record of arrays, traced or not.

    Attributes:
        lam: levels of the statistics, rising.
        values: l, s and b at the levels.
        slopes: derivatives of `values` in lam: between the levels stand cubic Hermite pieces. None: straight pieces and
            trapezoidal sums.
        integrals: L and S from the first level.
        cells: the N cells between the levels; None only until they are integrated.
    """

    lam: Float[Array, " N+1"]
    values: Float[Array, "3 N+1 *d"]
    slopes: Float[Array, "3 N+1 *d"] | None
    integrals: Float[Array, "2 N+1 *d"]
    cells: Stretch | None


def coefficients(statistics: Statistics, *, quadrature: str = "gauss") -> Coefficients:
    """l, s, b as functions of lam, with all integrals over the cells between the levels.

    Args:
        statistics: from `statistics.estimate`, `load` or `constant`; NumPy (float64 on the host) or traced.
        quadrature: "gauss" interpolates by cubic pieces (fourth order in the spacing of the levels, continuous slope),
            "trapezoid" by straight ones with trapezoidal sums, as the published code does (static).

    Raises:
        ValueError: an unknown quadrature, or l, s, b and lam of shapes that do not fit.
    """
    if quadrature not in QUADRATURES:
        raise ValueError(f"v3: quadrature must be one of {sorted(QUADRATURES)}, got {quadrature!r}")
    shapes = {np.shape(a) for a in statistics[1:4]}
    if np.ndim(statistics.lam) != 1 or len(shapes) != 1 or (*shapes.pop(), 0)[0] != np.shape(statistics.lam)[0]:
        got = {name: np.shape(getattr(statistics, name)) for name in ("lam", "l", "s", "b")}
        raise ValueError(f"v3: l, s and b must have shape [N+1, *d] with lam [N+1], got {got}")
    if namespace(statistics[:4]) is np:
        return _coefficients(np, statistics, quadrature)
    return _compiled(jnp, jax.tree.map(jnp.asarray, Statistics(*statistics[:4])), quadrature)


def _coefficients(xp, statistics, quadrature):
    lam, values = xp.asarray(statistics.lam), xp.stack([xp.asarray(a) for a in statistics[1:4]])
    h = xp.diff(lam).reshape(1, -1, *(1,) * (values.ndim - 2))
    cells = h * (values[:2, 1:] + values[:2, :-1]) / 2
    rates = None
    if quadrature == "gauss":
        rates = xp.stack([slopes(lam, v) for v in values])
        cells = cells + h**2 * (rates[:2, :-1] - rates[:2, 1:]) / 12
    integrals = xp.concatenate([xp.zeros_like(cells[:, :1]), xp.cumsum(cells, 1)], 1)
    c = Coefficients(lam, values, rates, integrals, None)
    num = lam.shape[0] - 1
    block = 64 if xp is np else num  # bounds the memory on the host
    parts = [xp.arange(n, min(n + block, num)) for n in range(0, num, block)]
    return c._replace(cells=_join(xp, [_inside(xp, c, cell, lam[cell], lam[cell + 1]) for cell in parts]))


_compiled = jax.jit(_coefficients, static_argnums=(0, 2))


def _evaluate(xp, c, cell, lam):
    """(l, s, b) [3, M, q, *d] and (L, S) [2, M, q, *d] at points lam [M, q] of the pieces of the given cells [M]."""
    wide = lambda a: a.reshape(1, *a.shape, *(1,) * (c.values.ndim - 2))  # noqa: E731
    at = lambda a, n: a[:, n][:, :, None]  # noqa: E731
    left = c.lam[cell][:, None]
    h, u = wide(c.lam[cell + 1][:, None] - left), wide(lam - left)
    low = at(c.values, cell)
    secant = (at(c.values, cell + 1) - low) / h
    if c.slopes is None:
        value, integral = low + u * secant, u * low + 0.5 * u**2 * secant
    else:
        m0, m1 = at(c.slopes, cell), at(c.slopes, cell + 1)
        p2, p3 = (3 * secant - 2 * m0 - m1) / h, (m0 + m1 - 2 * secant) / h**2
        value = low + u * (m0 + u * (p2 + u * p3))
        integral = u * (low + u * (m0 / 2 + u * (p2 / 3 + u * p3 / 4)))
    return value, at(c.integrals, cell) + integral[:2]


def _cell(xp, c, lam, side):
    """Cell of a point; beyond the levels the outermost one."""
    return xp.clip(xp.searchsorted(c.lam, lam, side=side) - 1, 0, c.lam.shape[0] - 2)


def _inside(xp, c, cell, left, right):
    """Stretches [left, right] [M], each inside its cell [M]."""
    rule = QUADRATURES["trapezoid" if c.slopes is None else "gauss"]
    nodes, weights, matrix = (xp.asarray(a, c.values.dtype) for a in rule)
    width = right - left
    lam = left[:, None] + width[:, None] * xp.concatenate([xp.zeros_like(nodes[:1]), nodes])[None]
    value, (L, S) = _evaluate(xp, c, cell, lam)
    wide = lambda a: a.reshape(*a.shape, *(1,) * (c.values.ndim - 2))  # noqa: E731
    weight = wide(width[:, None] * weights[None])
    kernel = weight * xp.exp((L - L[:, :1] + S - S[:, :1])[:, 1:])
    r = wide(lam[:, 1:] - left[:, None])
    kernels = xp.stack([(kernel * r**k).sum(1) / math.factorial(k) for k in range(TERMS)], 1)
    slope = xp.exp((S[:, :1] - S)[:, 1:]) * value[2, :, 1:]
    matmul = np.matmul if xp is np else lambda a, b: jnp.matmul(a, b, precision="highest")
    flat = slope.reshape(*slope.shape[:2], -1)
    so_far = matmul(xp.broadcast_to(matrix, (flat.shape[0], *matrix.shape)), flat).reshape(slope.shape)
    driven = (kernel * wide(width[:, None]) * so_far).sum(1)
    return Stretch(left, xp.stack([L[:, 0], S[:, 0]], 1), kernels, (weight * slope).sum(1), driven)


def chain(xp, parts: Stretch, live=None) -> Stretch:
    """Consecutive stretches as one; those that are not `live` [M] are left out (the first one always counts)."""
    rank = parts.drift.ndim - 1
    wide = lambda a: a.reshape(-1, *(1,) * rank)  # noqa: E731
    L, S = (parts.origin[:, n] - parts.origin[:1, n] for n in (0, 1))
    if live is None:
        growth, decay = xp.exp(L + S), xp.exp(-S)
    else:  # the exponent of a stretch far away may be anything
        live = wide(live)
        growth, decay = (xp.where(live, xp.exp(xp.where(live, a, 0.0)), 0.0) for a in (L + S, -S))
    r = wide(parts.lam - parts.lam[0])
    kernels = []
    for k in range(TERMS):
        moved = sum(parts.kernels[:, j] * (r ** (k - j) / math.factorial(k - j)) for j in range(k + 1))
        kernels.append((growth * moved).sum(0))
    step = decay * parts.drift
    before = xp.cumsum(step, 0) - step
    driven = (growth * (parts.kernels[:, 0] * before + decay * parts.driven)).sum(0)
    return Stretch(parts.lam[0], parts.origin[0], xp.stack(kernels), step.sum(0), driven)


def _between(xp, c, low, high) -> Stretch:
    """From low to high: the end of a cell, whole cells (on the host those alone, traced all, masked), the rest."""
    first, last = _cell(xp, c, low, "right"), _cell(xp, c, high, "left")
    last = xp.maximum(first, last)
    end = xp.where(first == last, high, c.lam[first + 1])
    start = xp.where(first == last, high, c.lam[last])
    ends = _inside(xp, c, xp.stack([first, last]), xp.stack([low, start]), xp.stack([end, high]))
    head, tail = part(ends, slice(0, 1)), part(ends, slice(1, 2))
    if xp is np:
        return chain(xp, _join(xp, [head, part(c.cells, slice(first + 1, last)), tail]))
    index, yes = xp.arange(c.lam.shape[0] - 1), xp.ones(1, bool)
    live = xp.concatenate([yes, (index > first) & (index < last), yes])
    return chain(xp, _join(xp, [head, c.cells, tail]), live)


def part(parts: Stretch, which) -> Stretch:
    """Some of M stretches."""
    return jax.tree.map(lambda a: a[which], parts)


def _join(xp, parts):
    return jax.tree.map(lambda *arrays: xp.concatenate(arrays), *parts)


class OnGrid(NamedTuple):
    """Coefficients at the nodes of one grid and over its steps: what all rows share.

    Attributes:
        levels: l at the nodes.
        integrals: L and S at the nodes.
        steps: the N stretches from node to node.
        lam: the nodes, as they were given; `on_nodes` always sets them.
        coefficients: what was integrated, as on other nodes it must be again; `on_nodes` always sets it.
    """

    levels: Float[Array, "N+1 *d"]
    integrals: Float[Array, "2 N+1 *d"]
    steps: Stretch
    lam: Float[Array, " N+1"] | None = None
    coefficients: Coefficients | None = None


def on_nodes(c: Coefficients, lams: Float[ArrayLike, " nodes"]) -> OnGrid:
    """`OnGrid` of rising nodes; beyond the levels the outermost pieces go on, infinite host nodes stand for nothing."""
    if namespace(c, lams) is np:
        finite = np.clip(lams, min(c.lam[0], lams[1]), max(c.lam[-1], lams[-2]))
        steps = [_between(np, c, *ends) for ends in zip(finite, finite[1:])]
        steps = jax.tree.map(lambda *parts: np.stack(parts), *steps)
        on = _at_nodes(np, c, finite, steps)
    else:
        on = _on_traced_nodes(jax.tree.map(jnp.asarray, c), jnp.asarray(lams, c.lam.dtype))
    return on._replace(lam=lams, coefficients=c)


def stretch_of(c: Coefficients | OnGrid, lams: Float[ArrayLike, " nodes"], first: int, last: int) -> tuple[OnGrid, int]:
    """`OnGrid` that holds the nodes first .. last of a grid, and the index of node `first` in it.

    What was integrated before serves if it stands on the very same nodes, as far as that can be told: traced nodes
    must be the same array. Otherwise the part of the grid is integrated anew.
    """
    if isinstance(c, OnGrid):
        if lams is c.lam:
            return c, first
        mine, theirs = lams[first : last + 1], c.lam[first : last + 1]
        traced = isinstance(mine, jax.core.Tracer) or isinstance(theirs, jax.core.Tracer)
        if not traced and np.array_equal(mine, theirs):
            return c, first
        c = c.coefficients
    return on_nodes(c, lams[first : last + 1]), 0


@jax.jit
def _on_traced_nodes(c, lams):
    steps = jax.lax.map(lambda ends: _between(jnp, c, *ends), (lams[:-1], lams[1:]))
    return _at_nodes(jnp, c, lams, steps)


def _at_nodes(xp, c, lams, steps):
    value, integrals = _evaluate(xp, c, _cell(xp, c, lams, "right"), lams[:, None])
    return OnGrid(value[0, :, 0], integrals[:, :, 0], steps)


def span(xp, on: OnGrid, start: int, end: int) -> Stretch:
    """From node `start` to node `end`."""
    if end == start + 1:
        return part(on.steps, start)
    return chain(xp, part(on.steps, slice(start, end)))
