r"""Loops that trace the user's body once: a while loop with a cap, and a scan in rematerialised segments; and order.

Reverse mode needs the carry of every step. Kept for all $T$ steps it costs memory $O(T)$; kept at the ends
of $\sqrt T$ segments, with the inside of a segment computed again on the way back, it costs $O(\sqrt T)$
memory and one more forward pass.

Reference: A. Griewank, A. Walther, *Evaluating Derivatives*, 2nd ed. 2008, section 12 (checkpointing).
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.extend
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Int, PyTree

from jaxsci.core import _carry, entry
from jaxsci.core.static import check_size
from jaxsci.core.types import as_count

_KINDS = ("lax", "checkpointed")


def bounded_while(
    cond: Callable[[PyTree], Any],
    body: Callable[[PyTree], PyTree],
    carry: PyTree,
    *,
    max_steps: ArrayLike,
    kind: str = "lax",
) -> tuple[PyTree, Int[Array, ""]]:
    """Apply `body` while `cond` holds, at most `max_steps` times.

    Under vmap a lane that has finished is frozen: its carry no longer changes and its count is exact.

    Args:
        cond: ``cond(carry) -> Bool[]``.
        body: ``body(carry) -> carry`` of the same structure, shapes and dtypes; traced once.
        carry: any pytree of arrays and numbers; numbers take JAX's default dtypes.
        max_steps: the cap; traced or static for "lax", static for "checkpointed".
        kind: "lax" is `jax.lax.while_loop`: no reverse mode. "checkpointed" has it, with memory
            O(sqrt(max_steps)). Steps not needed are skipped; batched, they are computed and dropped.

    Returns:
        ``(carry, steps)``: the last carry and how often `body` was applied, int32.

    Raises:
        ValueError: an unknown kind, or a negative static cap.
        TypeError: the carry changes its structure, a shape or a dtype (the message names the leaf), `cond`
            does not give a Boolean scalar, or max_steps is traced for "checkpointed".

    Example:
        >>> import jax
        >>> from jaxsci.core import loops
        >>> def root(a, kind):  # Newton's method for x^2 = a
        ...     return loops.bounded_while(
        ...         lambda x: abs(x * x - a) > 1e-5, lambda x: (x + a / x) / 2, a, max_steps=20, kind=kind)
        >>> x, steps = root(2.0, "lax")
        >>> print(f"{x:.4f} {steps}")
        1.4142 3
        >>> print(f"{jax.grad(lambda a: root(a, 'checkpointed')[0])(2.0):.4f}")
        0.3536
    """
    if kind not in _KINDS:
        raise ValueError(f"bounded_while: kind must be one of {_KINDS}, got {kind!r}")
    if not isinstance(max_steps, jax.Array):
        as_count(max_steps, "bounded_while", "max_steps")
        if max_steps < 0:
            raise ValueError(f"bounded_while: max_steps must be >= 0, got {max_steps}")
    carry = _carry.strong(carry)
    if kind == "lax":
        return _lax_while(cond, body, carry, as_count(max_steps, "bounded_while", "max_steps"))
    if isinstance(max_steps, jax.core.Tracer):
        raise TypeError(
            "bounded_while: max_steps must be static for kind='checkpointed', got a traced value; pass a Python int"
        )
    return _checkpointed_while(cond, body, carry, int(max_steps))


@eqx.filter_jit
def _lax_while(cond, body, carry, max_steps):
    step, running = _carry.traced_body("bounded_while", body, carry)[0], _traced_cond(cond, carry)

    def go_on(loop):
        steps, carry = loop
        return (steps < max_steps) & running(carry)

    def advance(loop):
        steps, carry = loop
        return steps + 1, step(carry)

    steps, carry = jax.lax.while_loop(go_on, advance, (jnp.int32(0), carry))
    return carry, steps


@eqx.filter_jit
def _checkpointed_while(cond, body, carry, max_steps):
    step, running = _carry.traced_body("bounded_while", body, carry)[0], _traced_cond(cond, carry)
    if max_steps == 0:
        return carry, jnp.int32(0)
    size = math.isqrt(max_steps - 1) + 1

    def advance(loop):
        steps, _, carry = loop
        carry = step(carry)
        steps = steps + 1
        return steps, (steps < max_steps) & running(carry), carry

    def stay(loop):
        return loop

    # Batched, lax.cond becomes a select, and JAX stops the gradient at the operands of the side not taken: a
    # finished lane whose body has an infinite derivative gives 0 to the gradient, not 0 * inf.
    def one(loop, _):
        return jax.lax.cond(loop[1], advance, stay, loop), None

    def inside(loop):
        return jax.lax.scan(one, loop, None, length=size)[0]

    @partial(jax.checkpoint, prevent_cse=False)  # the scan around it keeps XLA from undoing the remat
    def segment(loop, _):
        return jax.lax.cond(loop[1], inside, stay, loop), None

    loop = (jnp.int32(0), running(carry), carry)
    (steps, _, carry), _ = jax.lax.scan(segment, loop, None, length=-(-max_steps // size))
    return carry, steps


def checkpointed_scan(
    body: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]],
    carry: PyTree,
    xs: PyTree = None,
    *,
    length: int | None = None,
    segment: int | None = None,
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` whose reverse mode keeps the carry only at the ends of segments.

    Values and gradients are those of `jax.lax.scan`; a last segment that is shorter is allowed.

    Args:
        body: ``body(carry, x) -> (carry, y)``, traced once; the carry keeps structure, shapes and dtypes.
        carry: any pytree of arrays and numbers.
        xs: pytree of arrays scanned over their leading axis, or None.
        length: number of steps (static); needed when `xs` is None.
        segment: steps in a segment (static); about sqrt(length) by default.

    Returns:
        ``(carry, ys)``.

    Raises:
        ValueError: no length, leading axes that differ, or a segment below 1.
        TypeError: the carry changes its structure, a shape or a dtype (the message names the leaf).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.core import loops
        >>> total, partial = loops.checkpointed_scan(lambda c, x: (c + x, c + x), 0.0, jnp.arange(5.0))
        >>> print(total, partial)
        10.0 [ 0.  1.  3.  6. 10.]
    """
    xs = jax.tree.map(jnp.asarray, xs)
    length = _length(xs, length)
    if segment is None:
        segment = math.isqrt(max(length - 1, 0)) + 1
    segment = check_size("checkpointed_scan", "segment", segment)
    return _segmented_scan(body, _carry.strong(carry), xs, length, segment)


@eqx.filter_jit
def _segmented_scan(body, carry, xs, length, segment):
    example = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), xs)
    step = _carry.traced_body("checkpointed_scan", body, carry, example)[0]

    def run(carry, xs, count, size):
        """`count` segments of `size` steps each; xs holds count * size entries."""
        xs = jax.tree.map(lambda a: a.reshape(count, size, *a.shape[1:]), xs)
        inside = jax.checkpoint(lambda c, x: jax.lax.scan(step, c, x, length=size), prevent_cse=False)
        carry, ys = jax.lax.scan(inside, carry, xs, length=count)
        return carry, jax.tree.map(lambda a: a.reshape(count * size, *a.shape[2:]), ys)

    full, rest = divmod(length, segment)
    split = full * segment
    carry, ys = run(carry, jax.tree.map(lambda a: a[:split], xs), full, segment)
    if rest:
        carry, ys_last = run(carry, jax.tree.map(lambda a: a[split:], xs), 1, rest)
        ys = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), ys, ys_last)
    return carry, ys


def _length(xs, length):
    """Steps of a scan, from `length` and the leading axes of `xs`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(xs):
        name = f"xs{jax.tree_util.keystr(path)}"
        if leaf.ndim == 0:
            raise ValueError(f"checkpointed_scan: {name} is a scalar, expected a leading axis to scan over")
        if length is None:
            length = leaf.shape[0]
        if leaf.shape[0] != length:
            raise ValueError(f"checkpointed_scan: {name} has leading axis {leaf.shape[0]}, expected {length}")
    if length is None:
        raise ValueError("checkpointed_scan: neither xs nor length says how many steps to take; pass length")
    return length


def _traced_cond(cond, carry):
    """Trace `cond` once and check that it gives a Boolean scalar."""
    jaxpr, out = jax.make_jaxpr(cond, return_shape=True)(carry)
    if getattr(out, "shape", None) != () or out.dtype != jnp.bool_:
        raise TypeError(f"bounded_while: cond must return a Boolean scalar, got {_carry.spec(out)}")
    run = jax.extend.core.jaxpr_as_fun(jaxpr)
    return lambda carry: run(*jax.tree.leaves(carry))[0]


def after(x: PyTree, first: PyTree) -> PyTree:
    """`x` as it is, but not before `first` is there: a dependence that the compiler cannot remove.

    jaxlib 0.10 waits for ever on a CPU with few cores when two batched factorisations (`jnp.linalg.cholesky`, or a
    solve, under `vmap`) that do not depend on each other run at once; jaxlib 0.11 does not. Where a function holds two,
    the second one's matrix is taken after the first one's result.

    Args:
        x: any pytree of arrays; its floating leaves wait.
        first: what is waited for: its first leaf.

    Example:
        >>> from jaxsci.core import loops
        >>> float(loops.after(jnp.float32(2.0), jnp.ones((3, 3))))
        2.0
    """
    value = jax.lax.stop_gradient(jnp.ravel(jax.tree.leaves(first)[0])[0])
    nothing = 0 * jnp.where(jnp.isfinite(value), value, 0)
    return jax.tree.map(lambda a: a + nothing.astype(a.dtype) if eqx.is_inexact_array(a) else a, x)


__all__ = ["after", "bounded_while", "checkpointed_scan"]

entry.guard(globals())
