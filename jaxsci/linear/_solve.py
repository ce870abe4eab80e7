r"""`solve`: one driver for every iterative method, with one set of stopping tests, statuses and gradients.

The loop stops at the first k with $\|b - A x_k\|_2 \le \mathrm{tol}\cdot\mathrm{ref}$, at the step cap, on stagnation
(`patience` steps in which the smallest residual fell by less than 0.1 %), on divergence, or when the method breaks
down. It works on the system divided by a power of two, so that squares stay within the dtype; this changes neither
counts nor iterates.

Gradients are implicit: $A \dot x = \dot b - \dot A x$ forward, and with $A^\top \lambda = \bar x$,
$\bar b = \lambda$ and $\bar A = -\lambda x^\top$ in reverse. Each is a solve of its own that starts at zero and whose
tolerance is relative to its own right-hand side; the loop is never differentiated.

Under vmap a while loop runs all lanes until the slowest has finished. So on CPU the lanes of a batch are solved one
after the other: each costs only its own steps, and its data stay in the cache. Only small lanes of equal length are
better off together: benchmark "linear: 40 SOR solves, 10 x 10, omega 1 to 1.95: lane by lane" has uneven lanes, and
benchmark "linear: 40 SOR solves, 10 x 10, omega 1.56: lane by lane" has equal ones.
"""

import inspect
from typing import NamedTuple

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import loops, status, tree
from jaxsci.core.precision import largest, powers_of_two
from jaxsci.core.protocols import Solver
from jaxsci.core.static import check_size
from jaxsci.core.types import Scalar, as_count, as_real
from jaxsci.linear._system import default_tol, real_dtype

OUT_OF_REACH = status.register(
    "linear",
    28,
    "out of reach",
    "the residual stopped falling far above what rounding explains",
    "cg, pcg and chebyshev need a symmetric positive definite matrix, the sweeps one that they converge for, and a "
    "singular system a right-hand side in its range; a slow method needs more patience=",
)

# A residual this many times its reference will not come back, and float32 still holds its square.
_DIVERGED = 1e10
# A new minimum must be lower by this factor, or rounding noise would count as progress.
_PROGRESS = 0.999
# The recursive residual of a Krylov method may drift from b - A x; beyond this factor that is reported.
_DRIFT = 1.1
# Norms of two runs of one loop may differ by rounding.
_NEAR = 1.001


class Result(NamedTuple):
    """What a solve returns.

    Attributes:
        value: x, of the shape of b; always finite.
        steps: steps taken, int32.
        residual: ||b - A x||_2, computed from x at the end, never understated; infinite for non-finite data.
        status: 0 = the tolerance was met; the bits are listed at `solve`.
        history: residual norms after 0, 1, 2, ... steps; NaN past the end.
    """

    value: PyTree
    steps: Int[Array, ""]
    residual: Float[Array, ""]
    status: Int[Array, ""]
    history: Float[Array, " max_history"]


class _Limits(NamedTuple):
    """When the loop ends: all traced.

    Attributes:
        tol: relative tolerance.
        max_steps: step cap, int32.
        patience: steps within which the smallest residual must fall by 0.1 %, int32.
    """

    tol: Array
    max_steps: Array
    patience: Array


class _Loop(NamedTuple):
    """What the inner loop carries. It holds few scalars that change, since each costs one more kernel in every step.

    Attributes:
        state: state of the method.
        norm: norm of its residual.
        best: smallest norm so far.
        history: norms so far.
        k: steps so far. The inner loop counts its steps itself, so its body updates k only if a history is kept, which
            needs the index.
    """

    state: NamedTuple
    norm: Array
    best: Array
    history: Array
    k: Array


def solve(
    op,
    b: PyTree,
    x0: PyTree | None = None,
    *,
    method: Solver,
    tol: Scalar | None = None,
    max_steps: Scalar = 10_000,
    norm_ref: str = "b",
    patience: Scalar = 500,
    max_history: int = 0,
    adjoint_tol: Scalar | None = None,
    batching: str = "auto",
) -> Result:
    r"""Solve A x = b iteratively and report how it went.

    Args:
        op: a `linear.operators` operator, symmetric positive definite for the Krylov methods.
        b: right-hand side in the operator's shape, traced.
        x0: initial guess, zeros by default; when it already meets the tolerance, 0 steps are taken. b = 0 with
            ``norm_ref="b"`` gives x = 0 in 0 steps, whatever x0 is.
        method: from `linear.methods`; its hyper-parameters are traced.
        tol: relative tolerance >= 0, traced; by default 1e-8 in float64 and 1e-5 in float32, which reaches about 1e-6.
            Below what the dtype reaches the result says stagnated.
        max_steps: step cap, traced.
        norm_ref: what `tol` is relative to, static: ``"b"`` for ||b|| or ``"r0"`` for ||b - A x0||.
        patience: in every so many steps the smallest residual must fall by 0.1 %, or the solve counts as stagnated;
            traced, at least 1. A method that is slower than that, though steady, needs more.
        max_history: how many residual norms to keep, static; 0 keeps none.
        adjoint_tol: tolerance of the solves behind derivatives, forward and reverse; `tol` by default. Their failure
            cannot be reported through a derivative, so check the forward status at the tolerance you need; one that is
            negative or NaN is out of range there.
        batching: what vmap makes of the solve, static: ``"map"`` solves one lane after the other, ``"vmap"`` all at
            once, where every lane waits for the slowest; ``"auto"`` is map on CPU and vmap on accelerators. Results
            agree to rounding, counts wherever `tol` lies well above it.

    Returns:
        A `Result`. Status bits: non-finite input, omega or `tol` out of range, singular (zero diagonal, or negative
        curvature) take 0 further steps; cap reached, stagnated, out of reach, diverged end the loop. Out of
            reach is a residual that stopped falling far above rounding: the system is another one than the method is
            for. After a failure `value` is the iterate of the least residual; it is always finite.

    Raises:
        ValueError: b or x0 does not have the operator's shape; unknown `norm_ref` or `batching`; negative
            `max_history`.
        TypeError: `op` is no operator, `method` no method, or a complex entry.

    Differentiable in `op` and `b` (forward and reverse, any order); the derivative with respect to `x0` and the
    method's hyper-parameters is zero, since the solution does not depend on them.

    Example:
        >>> from jaxsci import linear
        >>> op = linear.operators.shifted_laplacian((10, 10))
        >>> b = jnp.sin(jnp.arange(1.0, 101.0)).reshape(10, 10)
        >>> result = linear.solve(op, b, method=linear.methods.sor(1.56), tol=1e-4)
        >>> int(result.steps), int(result.status)
        (21, 0)

    References: Saad 2003, Iterative Methods for Sparse Linear Systems, sections 4.2 and 6.7.
    """
    if norm_ref not in ("b", "r0"):
        raise ValueError(f"solve: expected norm_ref 'b' or 'r0', got {norm_ref!r}")
    max_history = check_size("solve", "max_history", max_history, least=0)
    if batching not in ("auto", "map", "vmap"):
        raise ValueError(f"solve: expected batching 'auto', 'map' or 'vmap', got {batching!r}")
    if batching == "auto":
        batching = "map" if jax.default_backend() == "cpu" else "vmap"
    # Looked up without reading it: a property may do work.
    if inspect.getattr_static(op, "mv", None) is None:
        raise TypeError(
            f"solve: op must be an operator, got {type(op).__name__}; wrap a matrix by linear.operators.dense, one of "
            "SciPy's sparse ones by linear.interop.from_scipy"
        )
    if not hasattr(method, "prepare"):
        raise TypeError(
            f"solve: method must be made by one of linear.methods, such as cg() or sor(1.5), got {method!r}"
        )
    dtype = real_dtype("solve", b, x0, eqx.filter(op, eqx.is_array))
    b = jax.tree.map(lambda a: as_real(a, dtype), b)
    x0 = tree.zeros_like(b) if x0 is None else jax.tree.map(lambda a: as_real(a, dtype), x0)
    limits = _Limits(
        as_real(default_tol(dtype) if tol is None else tol, dtype),
        as_count(max_steps, "solve", "max_steps"),
        jnp.maximum(as_count(patience, "solve", "patience"), 1),
    )
    adjoint_tol = limits.tol if adjoint_tol is None else as_real(adjoint_tol, dtype)
    return _solve(op, b, x0, method, limits, adjoint_tol, norm_ref, max_history, batching == "map")


@eqx.filter_jit
def _solve(op, b, x0, method, limits, adjoint_tol, norm_ref: str, max_history: int, one_by_one: bool) -> Result:
    expected = eqx.filter_eval_shape(lambda op: op.diagonal, op).shape
    for name, value in (("b", b), ("x0", x0)):
        got = jnp.shape(value) if isinstance(value, jax.Array) else f"a {type(value).__name__}"
        if got != expected:
            raise ValueError(
                f"solve: {name} must be an array of the operator's shape {expected}, got {got}; one system at a time, "
                "use jax.vmap for a batch"
            )
    op = tree.cast(op, b.dtype)
    frozen, method, x0, limits, adjoint_tol = _constant((op, method, x0, limits, adjoint_tol))

    # The first guess x0 must reach the solve, but no derivative may depend on it. So the linear system is extended by
    # the equations g = x0 and t = 1, in one vector (x, g, t). The tangent of its right-hand side has zeros in place of
    # x0 and 1: a forward derivative thus starts at zero, and t = 0 tells it to use `adjoint_tol`. The adjoint solve
    # always starts at zero.
    def extended(rhs, guess, marker):
        return jnp.concatenate([rhs.reshape(-1), guess.reshape(-1), marker.reshape(1)])

    def parts(v):
        return v[: b.size].reshape(b.shape), v[b.size : -1].reshape(b.shape), v[-1]

    def product(v):
        x, guess, marker = parts(v)
        return extended(op.mv(x), guess, marker)

    def iterate(op, v, guess, tol):
        def run(arguments):
            return _iterate(*arguments, norm_ref, max_history)

        rhs, _, marker = parts(v)
        arguments = (op, rhs, guess, method, limits._replace(tol=tol))
        result = _one_by_one(run, arguments) if one_by_one else run(arguments)
        return extended(result.value, parts(v)[1], marker), result._replace(value=None)

    def forward(_, v):
        _, guess, marker = parts(v)
        return iterate(frozen, v, guess, jnp.where(marker == 0, adjoint_tol, limits.tol))

    def backward(_, v):
        return iterate(frozen.transpose, v, jnp.zeros_like(b), adjoint_tol)

    found, aux = jax.lax.custom_linear_solve(
        product,
        extended(b, x0, jnp.ones((), b.dtype)),
        forward,
        transpose_solve=backward,
        symmetric=False,
        has_aux=True,
    )
    # The solves behind derivatives have no status of their own; at a tolerance that is none they would take no step.
    code = aux.status | status.flag(~(adjoint_tol >= 0), status.OUT_OF_RANGE)
    return aux._replace(value=parts(found)[0], status=code)


def _constant(x):
    """`x` as a constant under differentiation; an operator may hold functions beside arrays."""
    return jax.tree.map(lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, x)


def _one_by_one(run, arguments):
    """run(arguments), which under vmap becomes a loop over the lanes. Arrays that `run` closes over become arguments
    too."""
    arrays, rest = eqx.partition(arguments, eqx.is_array)
    closed, shape = jax.make_jaxpr(lambda arrays: run(eqx.combine(arrays, rest)), return_shape=True)(arrays)
    inputs = [*closed.consts, *jax.tree.leaves(arrays)]

    @jax.custom_batching.custom_vmap
    def lane(inputs):
        program = jax.extend.core.ClosedJaxpr(closed.jaxpr, inputs[: len(closed.consts)])
        return jax.extend.core.jaxpr_as_fun(program)(*inputs[len(closed.consts) :])

    @lane.def_vmap
    def lanes(size, batched, inputs):
        moving = [a for a, moves in zip(inputs, batched[0]) if moves]

        def one(moving):
            moving = iter(moving)
            return lane([next(moving) if moves else a for a, moves in zip(inputs, batched[0])])

        outputs = jax.lax.map(one, moving)
        return outputs, [True] * len(outputs)

    return jax.tree.unflatten(jax.tree.structure(shape), lane(inputs))


def _iterate(op, b, x0, method: Solver, limits: _Limits, norm_ref: str, max_history: int) -> Result:
    tol, max_steps, patience = limits
    bad = ~tree.all_finite(eqx.filter((op, b, x0), eqx.is_array))
    size = largest(b)
    # With a NaN or an infinity in the data the loop runs on zeros, for no steps, and the status says why. A tolerance
    # relative to b = 0 is met by x = 0 alone, so x0 is then replaced by 0.
    blank = bad | (size == 0) if norm_ref == "b" else bad
    b, x0 = tree.where(bad, tree.zeros_like(b), b), tree.where(blank, tree.zeros_like(x0), x0)
    down, up = powers_of_two(jnp.maximum(size, largest(b - op.mv(x0))))
    b, x0 = down * b, down * x0
    system = method.prepare(op)
    rhs, guess = system.pack(b), system.pack(x0)
    state = method.init(system, rhs, guess)
    norm = tree.norm(state.r)
    reference = _norm(rhs) if norm_ref == "b" else norm
    target = tol.astype(norm.dtype) * reference
    ceiling = _DIVERGED * jnp.maximum(reference, norm)
    history = jnp.full(max_history, jnp.nan, norm.dtype)
    if max_history:
        history = history.at[0].set(jnp.where(bad, jnp.inf, norm))
    # Written so that a NaN counts as outside.
    code = method.broken(system, state) | status.flag(~(tol >= 0), status.OUT_OF_RANGE)
    code = jnp.where(bad, status.NONFINITE_INPUT, code)

    def go_on(loop: _Loop):
        # Written so that a NaN ends the loop.
        return (loop.norm > target) & (loop.norm <= ceiling) & (method.broken(system, loop.state) == status.OK)

    def body(loop: _Loop) -> _Loop:
        state = method.step(system, rhs, loop.state)
        norm = tree.norm(state.r)
        k, history = loop.k, loop.history
        if max_history:
            k = k + 1
            history = history.at[k].set(norm, mode="drop")
        return _Loop(state, norm, jnp.minimum(loop.best, norm), history, k)

    def stretch(carry):
        """Up to `patience` steps; stagnated if they did not lower the smallest residual by the factor `_PROGRESS`."""
        loop, _ = carry
        most = jnp.minimum(patience, max_steps - loop.k)
        after, taken = loops.bounded_while(go_on, body, loop, max_steps=most)
        after = after._replace(k=loop.k + taken)
        return after, (taken >= patience) & (after.best > _PROGRESS * loop.best)

    def unfinished(carry):
        loop, stagnated = carry
        return (code == status.OK) & go_on(loop) & ~stagnated & (loop.k < max_steps)

    start = _Loop(state, norm, norm, history, jnp.int32(0))
    end, stagnated = jax.lax.while_loop(unfinished, stretch, (start, jnp.asarray(False)))
    steps = end.k

    # After a failure the iterate of the least residual is wanted. To keep it would cost a copy in every step, so the
    # few solves that fail run again, up to the step that had it; the others do no step here.
    def above_best(loop: _Loop):
        return (end.norm > target) & (loop.norm > _NEAR * end.best) & (end.norm > _NEAR * end.best)

    again, _ = loops.bounded_while(above_best, body, start, max_steps=jnp.where(code == status.OK, steps, 0))
    kept = tree.where((end.norm > target) & (again.norm <= _NEAR * end.best), again.state.x, end.state.x)
    value = system.unpack(system.iterate(kept))
    code = code | method.broken(system, end.state)
    code = code | status.flag(~(end.norm <= ceiling), status.DIVERGED)
    far = end.best > jnp.sqrt(jnp.finfo(end.norm.dtype).eps) * _norm(rhs)
    stuck = stagnated & (end.norm > target)
    code = code | status.flag(stuck, jnp.where(far, OUT_OF_REACH, status.STAGNATED))
    lost = ~tree.all_finite(up * value)
    value = tree.where(lost, x0, value)
    code = code | status.flag(lost, status.NONFINITE_RESULT | status.DIVERGED)
    residual = _norm(b - op.mv(value))
    residual = jnp.where(bad | jnp.isnan(residual), jnp.inf, residual)
    # The method may believe that it has converged: the true residual of the returned x must say so too.
    drifted = (end.norm <= target) & (residual > _DRIFT * target) & (residual > 0)
    code = code | status.flag(drifted & (steps > 0), status.STAGNATED)
    code = code | status.flag((end.norm > target) & (code == status.OK), status.MAX_STEPS)
    code = code | status.flag(~jnp.isfinite(up * residual), status.NONFINITE_RESULT)
    code = jnp.where(bad, status.NONFINITE_INPUT, code)

    def given(norm):
        """A norm in the units of b, rounded up where they cannot hold it."""
        return jnp.where(norm > 0, jnp.maximum(up * norm, jnp.finfo(norm.dtype).tiny), norm)

    return Result(up * value, steps, given(residual), code, given(end.history))


def _norm(x):
    """The norm, also where squares do not fit the dtype."""
    down, up = powers_of_two(largest(x))
    return up * tree.norm(down * x)
