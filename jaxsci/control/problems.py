r"""Control problems in continuous time: dynamics, running reward, terminal reward, discount, horizon.

Stochastic: $dX = b(t, X, u)\,dt + \sigma(t, X, u)\,dW$; deterministic: $\sigma = 0$. The value of a policy is
$$J(t, x) = E\Big[\int_t^T e^{-\beta(s-t)} r(s, X_s, u_s)\,ds + e^{-\beta(T-t)} h(X_T) \,\Big|\, X_t = x\Big].$$

A problem is a record of `jax.tree_util.Partial`s and arrays: it crosses jit, and problems that differ in `args`,
`discount` or `horizon` stack under vmap and share one compilation. The functions are compared by identity, so write
them at module level (or bind them with `jaxsci.core.static.bind`); a fresh lambda is a fresh compilation.

Reference: W. H. Fleming, H. M. Soner, *Controlled Markov Processes and Viscosity Solutions*, 2nd ed. 2006, chapter IV.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxsci.core import entry, tree
from jaxsci.core.static import as_partial
from jaxsci.core.types import Scalar, as_scalar


class SDE(NamedTuple):
    """A controlled stochastic differential equation with rewards; made by `sde`.

    Attributes:
        drift: ``drift(t, x, u, args)``, of the shape of x.
        diffusion: ``diffusion(t, x, u, args)``: of the shape of x when every coordinate has its own noise, () when all
            have one size, or of the shape of x plus one axis of independent noises.
        reward: ``reward(t, x, u, args)``: scalar, per unit of time.
        terminal: ``terminal(x)``: scalar h at the horizon; None is 0.
        args: parameters of drift, diffusion and reward.
        discount: rate beta >= 0 per unit of time.
        horizon: end time T, or infinity.
    """

    drift: Callable
    diffusion: Callable
    reward: Callable
    terminal: Callable | None
    args: PyTree
    discount: Float[Array, ""]
    horizon: Float[Array, ""]


class ODE(NamedTuple):
    """A controlled ordinary differential equation with rewards; made by `ode`.

    Attributes:
        drift: ``drift(t, x, u, args)``, of the shape of x.
        reward: ``reward(t, x, u, args)``: scalar, per unit of time.
        terminal: ``terminal(x)``: scalar h at the horizon; None is 0.
        args: parameters of drift and reward.
        discount: rate beta >= 0 per unit of time.
        horizon: end time T, or infinity.
    """

    drift: Callable
    reward: Callable
    terminal: Callable | None
    args: PyTree
    discount: Float[Array, ""]
    horizon: Float[Array, ""]


def sde(
    drift: Callable,
    diffusion: Callable,
    reward: Callable | None = None,
    terminal: Callable | None = None,
    *,
    args: PyTree = None,
    discount: Scalar = 0.0,
    horizon: Scalar = jnp.inf,
) -> SDE:
    """A stochastic control problem.

    Args:
        drift, diffusion, reward: functions ``(t, x, u, args)``, see `SDE`; u is None when nothing is controlled; no
            reward is 0. Static unless they are Partials.
        terminal: function ``(x)`` of the state at the horizon.
        args: any pytree; numbers become arrays. Traced.
        discount: rate beta, traced. A negative one is reported by the status of what uses it.
        horizon: end time, traced; infinity by default.

    Raises:
        TypeError: one of the functions cannot be called.

    Example:
        >>> import jax
        >>> from jaxsci import control
        >>> def drift(t, x, u, args): return -args * x
        >>> def diffusion(t, x, u, args): return 1.0
        >>> def reward(t, x, u, args): return -x**2
        >>> problem = control.sde(drift, diffusion, reward, args=0.5, discount=0.1, horizon=2.0)
        >>> path = control.euler_maruyama(jax.random.key(0), problem, None, 1.0, num_steps=10)
        >>> path.xs.shape, path.rs.shape, round(float(path.ts[-1]), 3)
        ((11,), (10,), 2.0)
    """
    return SDE(
        as_partial(drift, "sde", "drift"),
        as_partial(diffusion, "sde", "diffusion"),
        as_partial(_nothing if reward is None else reward, "sde", "reward"),
        None if terminal is None else as_partial(terminal, "sde", "terminal"),
        tree.as_arrays(args),
        as_scalar(discount, "sde", "discount"),
        as_scalar(horizon, "sde", "horizon"),
    )


def ode(
    drift: Callable,
    reward: Callable | None = None,
    terminal: Callable | None = None,
    *,
    args: PyTree = None,
    discount: Scalar = 0.0,
    horizon: Scalar = jnp.inf,
) -> ODE:
    """A deterministic control problem; arguments as in `sde`.

    Raises:
        TypeError: one of the functions cannot be called.

    Example:
        >>> from jaxsci import control
        >>> problem = control.ode(lambda t, x, u, args: -args * x, args=2.0, horizon=1.0)
        >>> print(float(problem.drift(0.0, 3.0, None, problem.args)))
        -6.0
    """
    return ODE(
        as_partial(drift, "ode", "drift"),
        as_partial(_nothing if reward is None else reward, "ode", "reward"),
        None if terminal is None else as_partial(terminal, "ode", "terminal"),
        tree.as_arrays(args),
        as_scalar(discount, "ode", "discount"),
        as_scalar(horizon, "ode", "horizon"),
    )


def _nothing(t, x, u, args):
    return jnp.zeros((), jnp.result_type(x))


__all__ = ["ODE", "SDE", "ode", "sde"]

entry.guard(globals())
