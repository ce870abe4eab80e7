r"""Integral policy iteration: evaluate from a trajectory, improve, repeat; and what its integration error does.

Policy iteration is Newton's method on the Hamilton-Jacobi-Bellman residual (Kleinman's on the Riccati equation), so
$e_{i+1} \le c\,e_i^2 + \bar\varepsilon$ when every evaluation is wrong by $\bar\varepsilon$: the limit's error is
proportional to the quadrature error, not to its square.

References: Kleinman 1968, On an iterative technique for Riccati equation computations, IEEE TAC 13; Vrabie and Lewis
2009, Neural Networks 22, section 4; Kantorovich and Akilov 1982, Functional Analysis, chapter XVIII.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.control.integral._evaluate import RANK_LOST, UNSTABLE, evaluation, prepare
from jaxsci.control.integral._problem import ControlAffine
from jaxsci.core import loops, status
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_real, float_dtype


class Result(NamedTuple):
    """What policy iteration returns; to go on, hand `value` and `state` in as `weights` and `x`.

    Attributes:
        value: weights w of the last evaluation without trouble.
        state: state x at the end of the trajectory.
        history: w before the first step and after each one, num = max_steps + 1; NaN past the end.
        status: 0 = the change fell below tol; otherwise MAX_STEPS or the bits of the last evaluation.
        steps: evaluations done, int32.
        residual: norm of the last change of w.
        rank: singular values kept in every step; -1 past the end.
    """

    value: Float[Array, " p"]
    state: Float[Array, " d"]
    history: Float[Array, "num p"]
    status: Int[Array, ""]
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    rank: Int[Array, " max_steps"]


class _Loop(NamedTuple):
    weights: Array
    x: Array
    k: Array
    change: Array
    status: Array
    history: Array
    rank: Array


def policy_iteration(
    problem: ControlAffine,
    features: Callable[[Array], Array],
    weights: Float[ArrayLike, " p"],
    x: Float[ArrayLike, " d"],
    *,
    rule: tuple[ArrayLike, ArrayLike] | None,
    interval: Scalar = 0.1,
    num_rows: int = 20,
    max_steps: int = 20,
    tol: Scalar = 1e-3,
    reset_state: bool = False,
    rank: int | None = None,
    scale_rows: bool = False,
    cutoff: Scalar = 1e-13,
    rtol: Scalar = 1e-10,
    atol: Scalar = 1e-12,
    max_growth: Scalar = 1e6,
    max_ode_steps: int = 4096,
    allow_float32: bool = False,
) -> Result:
    """Evaluate and improve until the weights change by less than `tol`, in one compiled loop.

    The trajectory goes on from step to step with the policy switched on the fly, unless `reset_state`.

    Args:
        problem, features, x, rule, interval, num_rows, rank, scale_rows, cutoff, rtol, atol, max_growth,
            max_ode_steps, allow_float32: as for `evaluate`. One rule per call; rules padded to one n by
            `quadrature.pad` make a study over n a vmap.
        weights: first value function, (p,), traced; its greedy policy must stabilise the system.
        max_steps: cap on evaluations, static.
        tol: on the norm of the change of the weights, traced. The last change is about the square root of the last
            error: Newton's method is one step ahead of this test.
        reset_state: start every evaluation at `x`, static. A trajectory that goes on decays, and with it the smallest
            singular value of the rows.

    Returns:
        A `Result`. An evaluation that reports trouble ends the loop; its weights go into `history` alone.

    Raises:
        ValueError, ImportError: as `evaluate`; `max_steps` below 1.

    Not differentiable in reverse; forward mode works.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> from jaxsci.control import integral
        >>> problem = integral.linear_quadratic([[-1.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> rule = quadrature.rules.simpson(5, 0.0, 0.1)
        >>> found = integral.policy_iteration(problem, integral.quadratic, jnp.zeros(1), jnp.ones(1), rule=rule,
        ...     num_rows=3, rtol=1e-5, atol=1e-6, allow_float32=True)
        >>> print(f"{found.value[0]:.3f} {found.status}")  # sqrt(2) - 1
        0.414 0

    References: Vrabie and Lewis 2009, section 4; Kleinman 1968.
    """
    max_steps = check_size("policy_iteration", "max_steps", max_steps)
    weights, x, rule, settings, rank = prepare(
        "policy_iteration", problem, features, weights, x, rule, (interval, cutoff, rtol, atol, max_growth), num_rows,
        rank, allow_float32,
    )  # fmt: skip
    static = (num_rows, rank, scale_rows, max_ode_steps)
    return _iterate(
        problem, features, weights, x, rule, settings, as_real(tol, x.dtype), static, max_steps, reset_state
    )


@eqx.filter_jit
def _iterate(problem, features, weights, x, rule, settings, tol, static, max_steps: int, reset_state: bool) -> Result:
    def body(loop: _Loop) -> _Loop:
        start = x if reset_state else loop.x
        found = evaluation(problem, features, loop.weights, start, rule, settings, static)
        good = found.status == status.OK
        change = jnp.linalg.norm(found.weights - loop.weights)
        return _Loop(
            jnp.where(good, found.weights, loop.weights),
            found.x,
            loop.k + 1,
            jnp.where(good, change, loop.change),
            loop.status | found.status,
            loop.history.at[loop.k + 1].set(found.weights),
            loop.rank.at[loop.k].set(found.rank),
        )

    def unfinished(loop: _Loop):
        return (loop.status == status.OK) & ~(loop.change < tol)

    history = jnp.full((max_steps + 1, weights.shape[0]), jnp.nan, weights.dtype).at[0].set(weights)
    unknown = jnp.full(max_steps, -1, jnp.int32)
    change = jnp.asarray(jnp.inf, weights.dtype)
    start = _Loop(weights, x, jnp.int32(0), change, jnp.int32(status.OK), history, unknown)
    end, steps = loops.bounded_while(unfinished, body, start, max_steps=max_steps)
    capped = (end.status == status.OK) & ~(end.change < tol)
    code = end.status | status.flag(capped, status.MAX_STEPS)
    return Result(end.weights, end.x, end.history, code, steps, end.change, end.rank)


def newton_bound(c: ArrayLike, eps: ArrayLike) -> Float[Array, "..."]:
    r"""Limit of $e_{i+1} = c\,e_i^2 + \bar\varepsilon$: $(1 - \sqrt{1 - 4c\bar\varepsilon})/(2c)$, at most
    $2\bar\varepsilon$.

    Args:
        c: Newton-Kantorovich constant >= 0, traced, any shape.
        eps: error of one evaluation >= 0, traced; shapes broadcast.

    Returns:
        The bound; infinite where $4c\bar\varepsilon > 1$, since nothing is guaranteed there; NaN where c or eps is
        negative or NaN.

    Differentiable where $4c\bar\varepsilon < 1$.

    Example:
        >>> from jaxsci.control import integral
        >>> print(f"{integral.newton_bound(2.0, 0.12):.4f} {integral.newton_bound(2.0, 0.13):.4f}")
        0.2000 inf
    """
    dtype = float_dtype(c, eps)
    c, eps = as_real(c, dtype), as_real(eps, dtype)
    room = 1 - 4 * c * eps
    # 2 eps / (1 + root) is the same without the cancellation, and holds at c = 0.
    root = jnp.sqrt(jnp.where(room > 0, room, 1)) * (room > 0)
    bound = jnp.where(room >= 0, 2 * eps / (1 + root), jnp.inf)
    return jnp.where((c >= 0) & (eps >= 0), bound, jnp.nan)


__all__ = ["RANK_LOST", "UNSTABLE", "Result", "newton_bound", "policy_iteration"]
