r"""Row rules: each solver as the coefficients of one step, for NumPy and for traced nodes alike.

A rule is called ``rule(grid, i) -> Step`` (see `tables`). It is plain data: a Partial whose static options are bound
by value, so that equal rules compile once. `solvers` has the same under their usual names, tabulated on a host grid;
use a rule itself with `tables.tabulate` inside compiled code (learned grids).

References: C. Lu et al., "DPM-Solver", 2022, and "DPM-Solver++", 2022; W. Zhao et al., "UniPC", 2023; Q. Zhang,
Y. Chen, "Fast Sampling of Diffusion Models with Exponential Integrator" (DEIS), 2023; L. Liu et al., "Pseudo
Numerical Methods for Diffusion Models on Manifolds", 2022;
J. Song, C. Meng, S. Ermon, "Denoising Diffusion Implicit Models", 2021.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial

from jaxsci.core import entry
from jaxsci.core.host import namespace
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar
from jaxsci.diffusion import _exponential as expo
from jaxsci.diffusion.tables import Row, Step

_GAUSS = np.polynomial.legendre.leggauss(64)


def _infinite(value, sign=1):
    """Whether a host value is sign * inf; a traced one never is (in-graph grids are finite)."""
    return not isinstance(value, jax.Array) and value == sign * np.inf


def _history(grid, i, num):
    """Slots 0 .. num - 1 that exist and stand at finite lam: a node of pure noise carries no slope."""
    return [k for k in range(min(num, i + 1)) if not _infinite(grid.lam[i - k], -1)]


def _exponential_row(grid, i, base, target, kind, stencils, *, factors=None, tau=0.0) -> Row:
    r"""From slot `base` to node `target` by the Taylor polynomial of D or eps.

    With kind "data", noise of relative strength tau (1 is the reverse SDE) may be added:
    $x_t = \frac{\sigma_t}{\sigma_s} e^{-\tau^2 h} x_s + \alpha_t \int_0^h c\,e^{-c(h-r)} D\,dr
    + \sigma_t \sqrt{1 - e^{-2\tau^2 h}}\,\xi$, c = 1 + tau^2.
    """
    xp = namespace(grid)
    s = i - base
    lams = {slot: grid.lam[i - slot] for slot in {base, *(p for stencil in stencils for p in stencil)}}
    h = grid.lam[target] - grid.lam[s]
    alpha_s, alpha_t, sigma_s, sigma_t = grid.alpha[s], grid.alpha[target], grid.sigma[s], grid.sigma[target]
    num = len(stencils) + 1
    if kind == "noise":
        weights = expo.taylor_weights(lams, base, stencils, expo.moments(h, 1.0, num), factors)
        return Row({base: alpha_t / alpha_s}, {}, {k: -sigma_t * w for k, w in weights.items()})
    c = 1.0 + tau**2
    kernel = [c * m for m in expo.moments(h, -c, num)]
    weights = {k: alpha_t * w for k, w in expo.taylor_weights(lams, base, stencils, kernel, factors).items()}
    if tau == 0:
        return Row({base: sigma_t / sigma_s}, weights, {})
    decay = xp.exp(-(tau**2) * h)
    return Row({base: sigma_t / sigma_s * decay}, weights, {}, std=sigma_t * xp.sqrt(-xp.expm1(-2 * tau**2 * h)))


class _Expansion(NamedTuple):
    """A row of a Taylor polynomial before its nodes are known, static.

    Attributes:
        base: Slot of the expansion point.
        kind: "data", "noise" or "v3".
        stencils: Derivative k is made of the slots ``stencils[k - 1]``.
        relaxation: Factor on the first derivative, by name.
        second: Factor on the second derivative.
    """

    base: int
    kind: str
    stencils: tuple
    relaxation: str = "exact"
    second: float = 1.0


def _expand(grid, i, target, what: _Expansion, *, tau=0.0, coefficient=0.0, v3=None) -> Row:
    """The row of an expansion to node `target`; points of pure noise fall away, and derivatives that lose too many.

    `coefficient` is that of the relaxation "linear", ``v3(grid, i, base, target, stencils, factors=)`` writes the rows
    of kind "v3".
    """
    stencils = []
    for k, stencil in enumerate(what.stencils, start=1):
        stencil = tuple(slot for slot in stencil if not _infinite(grid.lam[i - slot], -1))
        if len(stencil) < k:
            break
        stencils.append(stencil)
    factors = None
    if stencils:
        h, mu = grid.lam[target] - grid.lam[i - what.base], -1.0 - tau**2 if what.kind == "data" else 1.0
        factors = [expo.relaxation(what.relaxation, h, mu, coefficient), what.second, *(1.0 for _ in stencils)]
    if what.kind == "v3":
        return v3(grid, i, what.base, target, stencils, factors=factors)
    return _exponential_row(grid, i, what.base, target, what.kind, stencils, factors=factors, tau=tau)


def _end(grid, i, base=0, tau=0.0) -> Row | None:
    """The row to a node without noise, x = alpha D, or from pure noise, the data step: others divide by zero there."""
    if _infinite(grid.lam[i + 1]):
        return Row({}, {0: grid.alpha[i + 1]}, {})
    if _infinite(grid.lam[i - base], -1):
        return _exponential_row(grid, i, base, i + 1, "data", (), tau=tau)
    return None


def _step(grid, i, predictor: _Expansion, corrector: _Expansion | None = None, *, tau=0.0, v3=None, **options) -> Step:
    """What all rules of Taylor polynomials say about row i; a node that pure noise led to is not corrected."""
    fix = None
    if corrector is not None and not _infinite(grid.lam[i - corrector.base], -1):
        fix = _expand(grid, i, i, corrector, v3=v3)
    row = _end(grid, i, predictor.base, tau)
    return Step(_expand(grid, i, i + 1, predictor, tau=tau, v3=v3, **options) if row is None else row, fix)


def _order(order, i, num_rows, lower_order_final):
    """Order of row i: what the history allows, falling to 1 at the end when wished."""
    return min(order, i + 1, num_rows - i if lower_order_final else order)


# --- one-step rules -----------------------------------------------------------------------------------------


def _ddim(eta, grid, i):
    if _infinite(grid.lam[i + 1]):
        return Step(_end(grid, i))
    xp = namespace(grid, eta)
    sigma, alpha = grid.sigma[i + 1], grid.alpha[i + 1]
    if namespace(eta) is np and eta == 0:
        return Step(Row({}, {0: alpha}, {0: sigma}))
    h = grid.lam[i + 1] - grid.lam[i]
    std = eta * sigma * xp.sqrt(-xp.expm1(-2 * h))
    # sigma^2 - s^2 without cancellation, which eta = 1 in single precision would take below 0
    kept = sigma * xp.sqrt(xp.exp(-2 * h) - (1 - eta**2) * xp.expm1(-2 * h))
    return Step(Row({}, {0: alpha}, {0: kept}, std=std))


def ddim(eta: Scalar = 0.0) -> Partial:
    r"""$x_t = \alpha_t D + \sqrt{\sigma_t^2 - s^2}\,\varepsilon + s\,\xi$, $s = \eta\sigma_t\sqrt{1 - e^{-2h}}$.

    eta = 0 is DDIM, Euler in sigma/alpha, flow-matching Euler and DPM-Solver-1, all one step; eta = 1 is the ancestral
    sampler.

    Raises:
        ValueError: a concrete eta outside [0, 1].

    Example:
        >>> from jaxsci.diffusion import grids, rules, schedules, tables
        >>> print(tables.tabulate(rules.ddim(), grids.time(schedules.vp_linear(), 4)).predictor.data.round(2)[-1])
        [1.]
    """
    if not isinstance(eta, jax.core.Tracer) and not np.all((np.asarray(eta) >= 0) & (np.asarray(eta) <= 1)):
        raise ValueError(f"rules.ddim: eta must be in [0, 1], got {eta}")
    return Partial(_ddim, np.float64(eta) if isinstance(eta, (int, float)) else eta)


# --- multistep ----------------------------------------------------------------------------------------------


def _powered(grid, i, row, tau, power) -> Row:
    r"""The row for eps = P e, P the power, from the one of strength $c - 1$, $c = (1 + \tau^2) P$, for the data of e.

    Those are $D/P + (1 - 1/P)\,x/\alpha$ at every slot; the noise is that of tau, with the decay of c.
    """
    xp = namespace(grid)
    x = dict(row.x)
    for slot, weight in row.data.items():
        x[slot] = x.get(slot, 0.0) + (1 - 1 / power) / grid.alpha[i - slot] * weight
    h, decay = grid.lam[i + 1] - grid.lam[i], (1 + tau**2) * power - 1
    variance = -(tau**2) / decay * xp.expm1(-2 * decay * h) if decay > 0 else 2 * tau**2 * h
    std = grid.sigma[i + 1] * xp.sqrt(variance) if tau else None
    return Row(x, {slot: weight / power for slot, weight in row.data.items()}, {}, std=std)


def _multistep(grid, i, *, order, kind, relaxation, second, lower_order_final, corrector, tau, power):
    num_rows, fix = grid.lam.shape[0] - 1, None

    def num_points(i):
        return len(_history(grid, i, _order(order, i, num_rows, lower_order_final)))

    if corrector and i > 0:
        # The corrector knows one more value than the predictor that brought us here.
        n = num_points(i - 1)
        fix = _Expansion(1, kind, ((0, *range(2, n + 1)),) * n, relaxation if n == 1 else "exact")
    n = num_points(i)
    stencils = (tuple(range(1, n)),) * (n - 1)
    predictor = _Expansion(0, kind, stencils, relaxation if n == 2 else "exact", second=second)
    if power == 1 or _end(grid, i) is not None:
        return _step(grid, i, predictor, fix, tau=tau)
    step = _step(grid, i, predictor, tau=((1 + tau**2) * power - 1) ** 0.5)
    return Step(_powered(grid, i, step.predictor, tau, power))


def multistep(
    order: int,
    *,
    kind: str = "data",
    relaxation: str = "exact",
    half_second: bool = False,
    lower_order_final: bool = False,
    corrector: bool = False,
    tau: float = 0.0,
    power: float = 1.0,
) -> Partial:
    r"""Exponential Adams-Bashforth in lambda, with an Adams-Moulton corrector if wished. All options are static.

    What order the whole run has in the limit of many steps is decided by its first and last rows as well. The first
    rows have fewer points: row i is off by $h^{i+2}$, once, so that orders above 2 keep theirs only if the first steps
    are shorter (`grids.started`), and otherwise end at 2, or at 3 with the corrector. A last row of first order is off
    by $h^2$: with `lower_order_final` every order above 2 ends at 2. At few steps neither is seen.

    Args:
        order: 1 to 4: points that the polynomial goes through, fewer at the start.
        kind: "data" or "noise": which prediction is interpolated.
        relaxation: of two-point rows: "exact" (Heun-like), "bh2" (midpoint, DPM-Solver and UniPC's B_2), "bh1".
        half_second: halve the second derivative of rows of three points and more, as the published third-order
            multistep codes do. It costs an order; for parity only.
        lower_order_final: fall to first order at the last node: stability on very unequal steps, order 2 at most.
        corrector: UniC of one order more, at no further model call.
        tau: noise of the reverse SDE, >= 0 (1 is the SDE's own); "data" only.
        power: eps is about this many times that of a law: the sum of the powers in `correctors`, where D jumps as x
            does and is a poor thing to interpolate. The same equation for any value; "data" without corrector.

    Raises:
        ValueError: an order outside 1 to 4, an unknown name, tau negative or not finite, noise or a power with kind
            "noise" or with a corrector, or (1 + tau^2) power below 1.

    Example:
        >>> from jaxsci.diffusion import grids, rules, schedules, tables
        >>> table = tables.tabulate(rules.multistep(2), grids.logsnr(schedules.vp_linear(), 4))
        >>> print(table.predictor.data.round(2)[-1])
        [ 1.53 -0.62]
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"rules.multistep: order must be 1, 2, 3 or 4, got {order}")
    if kind not in ("data", "noise"):
        raise ValueError(f"rules.multistep: kind must be 'data' or 'noise', got {kind!r}")
    if relaxation not in ("exact", "bh1", "bh2"):
        raise ValueError(f"rules.multistep: relaxation must be 'exact', 'bh1' or 'bh2', got {relaxation!r}")
    if not 0 <= float(tau) < np.inf:
        raise ValueError(f"rules.multistep: tau must be >= 0 and finite, got {tau}")
    if tau and (kind == "noise" or corrector):
        raise ValueError("rules.multistep: tau > 0 needs kind='data' and no corrector")
    if not 1 <= (1 + float(tau) ** 2) * float(power) < np.inf or (power != 1 and (kind == "noise" or corrector)):
        raise ValueError(
            f"rules.multistep: power {power} needs kind='data', no corrector, and tau with (1 + tau^2) power >= 1"
        )
    return Partial(
        bind(
            _multistep,
            order=order,
            kind=kind,
            relaxation=relaxation,
            second=0.5 if half_second else 1.0,
            lower_order_final=lower_order_final,
            corrector=corrector,
            tau=float(tau),
            power=float(power),
        )  # fmt: skip
    )


# --- interpolation in another variable, and linear multistep of pseudo-numerical methods --------------------


def _adams(grid, i, *, points, variable):
    if row := _end(grid, i):
        return Step(row)
    xp = namespace(grid)
    slots = _history(grid, i, points)
    lam_s, lam_t, alpha_t = grid.lam[i], grid.lam[i + 1], grid.alpha[i + 1]
    nodes, weights = (xp.asarray(a, grid.lam.dtype) for a in _GAUSS)
    if variable == "rho":  # v = x/alpha obeys dv/drho = eps: a polynomial integral, exact
        rho_s, rho_t = xp.exp(-lam_s), xp.exp(-lam_t)
        u = rho_s + (rho_t - rho_s) * (nodes + 1) / 2
        w = expo.lagrange_weights([xp.exp(-grid.lam[i - k]) for k in slots], u, (rho_t - rho_s) / 2 * weights)
        scale = alpha_t
    else:
        h = lam_t - lam_s
        r = h * (nodes + 1) / 2
        u = grid.schedule.t_of_lam(lam_s + r)
        w = expo.lagrange_weights([grid.t[i - k] for k in slots], u, h / 2 * weights * xp.exp(h - r))
        scale = -grid.sigma[i + 1]
    return Step(Row({0: alpha_t / grid.alpha[i]}, {}, {slot: scale * w[j] for j, slot in enumerate(slots)}))


def adams_bashforth(points: int, *, variable: str = "t") -> Partial:
    r"""DEIS: eps interpolated through the last `points` values in time ("t") or in $\rho = \sigma/\alpha$ ("rho").

    In lambda ("lam") it is ``multistep(points, kind="noise")``. The weights are exact: a 64-point Gauss rule in lambda
    for "t", a polynomial integral for "rho" (there it is the classical linear multistep method).

    Raises:
        ValueError: points outside 1 to 4 or an unknown variable.

    Example:
        >>> from jaxsci.diffusion import grids, rules, schedules, tables
        >>> table = tables.tabulate(rules.adams_bashforth(2), grids.time(schedules.vp_linear(), 4))
        >>> print(table.predictor.noise.round(2)[-1])
        [-1.39  0.44]

    References: Zhang and Chen 2023, equations 14 to 16; T. Karras et al. 2022 (linear multistep in sigma).
    """
    if points not in (1, 2, 3, 4):
        raise ValueError(f"rules.adams_bashforth: points must be 1, 2, 3 or 4, got {points}")
    if variable == "lam":
        return multistep(points, kind="noise")
    if variable not in ("t", "rho"):
        raise ValueError(f"rules.adams_bashforth: variable must be 't', 'rho' or 'lam', got {variable!r}")
    return Partial(bind(_adams, points=points, variable=variable))


_UNIFORM_ADAMS = ((1.0,), (1.5, -0.5), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _ipndm(grid, i, *, order):
    if row := _end(grid, i):  # after pure noise no later row looks back to it
        return Step(row)
    xp = namespace(grid)
    h = grid.lam[i + 1] - grid.lam[i]
    coefficients = _UNIFORM_ADAMS[len(_history(grid, i, order)) - 1]
    scale = -grid.sigma[i + 1] * xp.expm1(h)
    return Step(Row({0: grid.alpha[i + 1] / grid.alpha[i]}, {}, {k: scale * c for k, c in enumerate(coefficients)}))


def ipndm(order: int = 4) -> Partial:
    """Uniform-step Adams-Bashforth weights on any grid, times the first-order coefficient of eps.

    Second order at best on grids that are not uniform; kept because it is widely used.

    Example:
        >>> from jaxsci.diffusion import grids, rules, schedules, tables
        >>> print(tables.tabulate(rules.ipndm(2), grids.time(schedules.vp_linear(), 4)).predictor.noise.round(2)[-1])
        [-1.42  0.47]

    References: Liu et al. 2022, section 3.3; Zhang and Chen 2023, section 4 (iPNDM).
    """
    if order not in (1, 2, 3, 4):
        raise ValueError(f"rules.ipndm: order must be 1, 2, 3 or 4, got {order}")
    return Partial(bind(_ipndm, order=order))


# --- rules on grids that hold their stages ------------------------------------------------------------------


def _stage(grid, i, *, stages, tau):
    return _step(grid, i, stages[i], tau=tau)


def _staged(stages, *, tau: float = 0.0) -> Partial:
    """One `_Expansion` per row, ``(base slot, kind, stencils, relaxation)``; singlestep methods are made of it.

    The grid holds the stages as nodes of its own, in the order in which they are evaluated.
    """
    return Partial(bind(_stage, stages=tuple(_Expansion(*stage) for stage in stages), tau=tau))


def _rho_stage(grid, i, *, stages):
    base, coefficients, size = stages[i]
    if row := _end(grid, i, base):
        return Step(row)
    xp = namespace(grid)
    s, alpha = i - base, grid.alpha[i + 1]
    step = xp.exp(-grid.lam[s + size]) - xp.exp(-grid.lam[s])
    return Step(Row({base: alpha / grid.alpha[s]}, {}, {k: alpha * step * c for k, c in coefficients}))


def _runge_kutta(stages: tuple) -> Partial:
    r"""Explicit Runge-Kutta in $\rho = \sigma/\alpha$, where $v = x/\alpha$ obeys $dv/d\rho = \varepsilon$.

    One entry per row: ``(base slot, ((slot, coefficient), ...), stages of the whole step)``. The grid holds the stages
    as nodes of its own; see `solvers.runge_kutta`, which builds both.
    """
    return Partial(bind(_rho_stage, stages=tuple(stages)))


__all__ = ["adams_bashforth", "ddim", "ipndm", "multistep"]

entry.guard(globals(), "_adams", "_ddim", "_ipndm", "_multistep", "_rho_stage", "_stage")
