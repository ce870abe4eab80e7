r"""Exponential quadrature: the exact linear part of the probability-flow ODE, and moments of its kernel.

In $\lambda$, with G = eps (mu = 1) or G = D (mu = -1) and $h = \lambda_t - \lambda_s$,

$$ x_t = \tfrac{\alpha_t}{\alpha_s} x_s - \sigma_t \int_0^h e^{h-r} \varepsilon\,dr, \qquad
   x_t = \tfrac{\sigma_t}{\sigma_s} x_s + \alpha_t \int_0^h e^{-(h-r)} D\,dr. $$

G is replaced by a Taylor polynomial at s, $\sum_k d_k r^k/k!$, whose derivatives come from earlier values, so
everything needed is $m_k = \int_0^h e^{\mu(h-r)} r^k/k!\,dr = h^{k+1}\varphi_{k+1}(\mu h)$.

References: M. Hochbruck, A. Ostermann, "Exponential integrators", 2010, section 2; C. Lu et al. 2022, appendix B.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core.host import namespace

RELAXATIONS = ("exact", "bh1", "bh2", "plus_exp", "minus_exp", "linear")
_TERMS = 20  # of the series; the first one left out is below 1e-18 for |z| < 1


def phis(num: int, z) -> list:
    r"""$\varphi_0 = e^z, ..., \varphi_{num}$ by $\varphi_{k+1}(z) = (\varphi_k(z) - 1/k!)/z$, $\varphi_k(0) = 1/k!$.

    Near 0 the recursion cancels: there it runs downwards from the series of the last one.
    """
    if namespace(z) is jnp:
        return _phis(num, jnp.asarray(z))
    z = np.asarray(z)
    if z.ndim == 0:  # most calls of a builder: one side only
        return _downward(num, z) if abs(z) < 1 else _upward(np, num, z)
    return _both(np, num, z)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _phis(num, z):
    return _both(jnp, num, z)


@_phis.defjvp
def _phis_jvp(num, primals, tangents):
    r"""$\varphi_k' = \varphi_k - k\varphi_{k+1}$: a few operations where the series would be differentiated."""
    values = _phis(num + 1, primals[0])
    slopes = [a - k * b for k, (a, b) in enumerate(zip(values, values[1:]))]
    return values[:-1], [slope * tangents[0] for slope in slopes]


def _both(xp, num, z):
    small = xp.abs(z) < 1
    near, far = xp.where(small, z, 0.5), xp.where(small, 2.0, z)
    return [xp.where(small, a, b) for a, b in zip(_downward(num, near), _upward(xp, num, far))]


def _downward(num, z):
    last = 0.0
    for j in reversed(range(_TERMS)):
        last = last * z + 1.0 / math.factorial(j + num)
    values = [last]
    for k in reversed(range(num)):
        values.append(values[-1] * z + 1.0 / math.factorial(k))
    return values[::-1]


def _upward(xp, num, z):
    values = [xp.exp(z)]
    for k in range(num):
        values.append((values[-1] - 1.0 / math.factorial(k)) / z)
    return values


def phi(k: int, z):
    r"""$\varphi_k(z)$ alone; see `phis`."""
    return phis(k, z)[k]


def moments(h, mu: float, num: int):
    """m_0 .. m_{num-1} as a list; m_0 is right for h = inf and mu < 0 as well."""
    xp = namespace(h)
    values = [xp.expm1(mu * xp.asarray(h)) / mu]
    if num == 1:
        return values
    phi_k = phis(num, mu * h)
    return values + [h ** (k + 1) * phi_k[k + 1] for k in range(1, num)]


def derivative(k: int, deltas):
    r"""Coefficients $a_p$ of $d_k = \sum_p a_p (F_p - F_s)$, exact for polynomials of degree ``len(deltas)``.

    They solve $\sum_p a_p \delta_p^i/i! = [i = k]$, i = 1 .. m, for the m distances $\delta_p = \lambda_p - \lambda_s$.
    By Lagrange's formula, $a_p = k!\,[r^k]\,\frac{r}{\delta_p}\prod_{q \ne p}\frac{r - \delta_q}{\delta_p - \delta_q}$.
    """
    weights = []
    for p, own in enumerate(deltas):
        powers, below = [1.0], own  # coefficients of the product over q, ascending, and its denominator
        for q, other in enumerate(deltas):
            if q != p:
                shifted, scaled = [0.0, *powers], [-other * c for c in powers]
                powers = [a + b for a, b in zip(shifted, [*scaled, 0.0])]
                below = below * (own - other)
        weights.append(math.factorial(k) * powers[k - 1] / below)
    return weights


def taylor_weights(lams, base: int, stencils, kernel, factors=None) -> dict:
    """Weights W_p of the values at each slot: sum_k kernel[k] d_k with d_k from its own stencil.

    Args:
        lams: ``lams[slot]``: where each slot was evaluated.
        base: slot of the expansion point.
        stencils: for k = 1, 2, ...: the slots that derivative k is made of.
        kernel: m_0, m_1, ...: at least one more than there are stencils.
        factors: multiplies d_1, d_2, ... (relaxation); None is 1.

    Returns:
        ``{slot: weight}``.
    """
    weights = {base: kernel[0]}
    for k, stencil in enumerate(stencils, start=1):
        scale = kernel[k] if factors is None else kernel[k] * factors[k - 1]
        for slot, a in zip(stencil, derivative(k, [lams[p] - lams[base] for p in stencil])):
            weights[slot] = weights.get(slot, 0.0) + scale * a
            weights[base] = weights[base] - scale * a
    return weights


def relaxation(name: str, h, mu: float, coefficient=0.0):
    r"""Factor on $d_1$: "exact" 1; "bh2" makes $m_1$ into $\frac12 h m_0$, "bh1" into $\frac12 h^2$; more below."""
    z = mu * h
    if name == "exact":
        return 1.0
    if name == "bh2":
        return 0.5 * phi(1, z) / phi(2, z)
    if name == "bh1":
        return 0.5 / phi(2, z)
    if name == "linear":
        return 1.0 + coefficient * h
    if name in ("plus_exp", "minus_exp"):
        return 1.0 + (0.5 if name == "plus_exp" else -0.5) * namespace(h).expm1(z)
    raise ValueError(f"relaxation must be one of {RELAXATIONS}, got {name!r}")


def lagrange_weights(us, integral_nodes, integral_weights):
    r"""$W_j = \sum_q w_q \ell_j(u_q)$ for interpolation in another variable u, node values `us`, one per slot."""
    weights = {}
    for j, u_j in enumerate(us):
        basis = 1.0
        for m, u_m in enumerate(us):
            if m != j:
                basis = basis * (integral_nodes - u_m) / (u_j - u_m)
        weights[j] = (integral_weights * basis).sum()
    return weights
