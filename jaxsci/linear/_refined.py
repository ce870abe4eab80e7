r"""Mixed-precision refinement: residuals in the precision of the data, the work of the method in a smaller one.

Every cycle rounds the residual of $x$ to the small precision and lets the method work there on $A d = r / \|r\|$ until
that residual has fallen by a factor. Then the correction is added in full precision, $x \mathrel{+}= \|r\| d$,
$r = b - A x$. So the solve reaches the tolerances of full precision, although the steps of the method move half the
bytes.

Reference: Higham 2002, Accuracy and Stability of Numerical Algorithms, chapter 12.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import entry, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.static import bind
from jaxsci.core.types import Scalar, as_count, as_scalar, float_dtype
from jaxsci.linear._system import System


class RefinedState(NamedTuple):
    """What refinement carries from step to step.

    Attributes:
        x: iterate, in full precision.
        r: residual: b - A x at a restart, between restarts `scale` times that of the correction.
        base: x at the last restart.
        scale: ||b - A x|| at the last restart.
        rhs: the residual of the last restart divided by `scale`, in the small precision.
        inner: state of the method on A d = rhs, in the small precision; x is base + scale d.
        age: steps since the last restart.
    """

    x: Float[Array, "..."]
    r: Float[Array, "..."]
    base: Float[Array, "..."]
    scale: Float[Array, ""]
    rhs: Float[Array, "..."]
    inner: PyTree
    age: Int[Array, ""]


def refined(method: Solver, *, dtype: str = "float32", factor: Scalar = 1e-3, max_inner: Scalar = 1000) -> Solver:
    """`method` in a smaller precision, refined by residuals in the precision of the operator.

    A step is one step of `method`. Stationary methods take as many as in full precision; a Krylov method starts its
    recursion again at every refinement and takes somewhat more.

    Args:
        method: from `linear.methods`, but not `pipelined_sor`; its arrays are rounded to `dtype`.
        dtype: precision it works in, static; smaller than the operator's.
        factor: a refinement follows when the residual of the correction has fallen by this factor, traced; well above
            what `dtype` reaches on this system.
        max_inner: steps after which a refinement follows in any case, traced.

    Raises:
        ValueError: while tracing, if the operator is not more precise than `dtype` (float64 data need
            ``jax.config.update("jax_enable_x64", True)``), if its dtype cannot be changed (a function of lineax), or if
            the method is `pipelined_sor`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((8, 8), 1.0), jnp.ones((8, 8))
        >>> method = linear.methods.refined(linear.methods.gauss_seidel(), dtype="bfloat16", factor=0.05)
        >>> int(linear.solve(op, b, method=method, tol=1e-4).status)
        0

    References: Higham 2002, chapter 12; Carson and Higham 2018, SIAM Journal on Scientific Computing 40(2).
    """
    dtype = jnp.dtype(dtype).name
    method = tree.cast(method, dtype)
    limits = (as_scalar(factor, "refined", "factor"), as_count(max_inner, "refined", "max_inner"))
    return Solver(
        Partial(bind(_prepare, dtype=dtype), method.prepare),
        Partial(bind(_restart, dtype=dtype), method.init),
        Partial(_step, method, limits),
        Partial(_broken, method.broken),
    )


def _prepare(prepare, op, *, dtype: str) -> System:
    full = float_dtype(eqx.filter(op, eqx.is_array))
    if jnp.finfo(full).bits <= jnp.finfo(dtype).bits:
        raise ValueError(
            f"refined: expected an operator more precise than dtype={dtype!r}, got {full}; use float64 data after "
            'jax.config.update("jax_enable_x64", True)'
        )

    outer, inner = prepare(op), prepare(tree.cast(op, dtype))
    return System(outer.pack, outer.unpack, outer.mv, inner, outer.status | inner.status)


def _restart(init, system: System, b, x, *, dtype) -> RefinedState:
    r = tree.sub(b, system.mv(x))
    scale = tree.norm(r)
    safe = jnp.where(scale > 0, scale, 1)
    rhs = (r / safe).astype(dtype)
    inner = init(system.apply, rhs, jnp.zeros_like(rhs))
    if not isinstance(inner.x, jax.Array):
        raise ValueError("refined: pipelined_sor keeps several iterates at once, of which none can be refined; use sor")
    return RefinedState(x, r, x, scale, rhs, inner, jnp.int32(0))


def _step(method: Solver, limits, system: System, b, state: RefinedState) -> RefinedState:
    factor, max_inner = limits
    inner = method.step(system.apply, state.rhs, state.inner)
    age = state.age + 1
    x = state.base + state.scale * system.apply.iterate(inner.x).astype(state.base.dtype)
    done = (tree.norm(inner.r) <= factor) | (age >= max_inner)

    def restart(x):
        return _restart(method.init, system, b, x, dtype=state.rhs.dtype)

    def go_on(x):
        r = state.scale * inner.r.astype(state.r.dtype)
        return state._replace(x=x, r=r, inner=inner, age=age)

    return jax.lax.cond(done, restart, go_on, x)


def _broken(broken, system: System, state: RefinedState):
    return system.status | broken(system.apply, state.inner)


__all__ = ["RefinedState", "refined"]

entry.hold(globals(), "_broken", "_prepare", "_step")
