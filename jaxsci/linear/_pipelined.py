r"""SOR on grids with several sweeps at once: the same iterates as `sor`, in longer vectors or in one kernel.

In natural order, sweep s may update anti-diagonal q as soon as sweep s - 1 has updated q + 1. So at step t of one scan,
sweep s works on $q = t - 2s$: K sweeps advance together as one (K, rows) array, in $2(K-1)$ steps more than a single
sweep takes. In red-black order in the plane, `pallas_kernels.sor` runs K sweeps in one call, on accelerators by a
kernel.

Both give the residual norm after each of the K sweeps, so the solve still stops at the first sweep that meets the
tolerance. The iterate of that sweep is then computed again from the iterate before the K sweeps.

Reference: Lamport 1974, The parallel execution of DO loops (the hyperplane method).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from jaxsci.core import entry, loops, tree
from jaxsci.core.protocols import Solver
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Scalar, as_scalar
from jaxsci.linear._checkerboard import Checkerboard
from jaxsci.linear._system import System, identity, over, trouble
from jaxsci.linear._wavefront import Wavefront, reach
from pallas_kernels import sor as red_black


class Chunk(NamedTuple):
    """K sweeps that were computed at once.

    Attributes:
        start: iterate before them.
        end: iterate after them.
        b: right-hand side.
        count: how many of the K sweeps the solve has counted so far.
    """

    start: Float[Array, "..."]
    end: Float[Array, "..."]
    b: Float[Array, "..."]
    count: Int[Array, ""]


class PipelinedState(NamedTuple):
    """What pipelined SOR carries from step to step.

    Attributes:
        x: the chunk of sweeps, from which ``system.iterate`` takes the iterate.
        r: residual norm after the sweeps counted so far, (1,): the driver takes it for the residual.
        norms: residual norm after each sweep of the chunk.
    """

    x: Chunk
    r: Float[Array, "1"]
    norms: Float[Array, " sweeps"]


def pipelined_sor(omega: Scalar, *, sweeps: int = 16) -> Solver:
    r"""`sor` on a stencil, `sweeps` sweeps at once; counts and results are those of `sor`.

    In natural order the sweeps follow each other through the grid at a distance of two anti-diagonals; in red-black
    order in the plane they are one call of `pallas_kernels.sor`, a kernel on TPU and GPU. The method is meant for
    accelerators, on which one anti-diagonal alone is too little work; on a CPU `sor` is faster: benchmark "linear: 80
    sweeps with residuals, 400 x 400: natural order" against benchmark "linear: 80 sweeps with residuals, 400 x 400:
    pipelined natural order". Under a plain `jax.vmap` every lane computes all `sweeps` sweeps at every step, so batch
    by `jax.lax.map`.

    Args:
        omega: relaxation parameter, traced; outside (0, 2) the result carries `status.OUT_OF_RANGE` and no sweep runs.
        sweeps: how many at once, static.

    Raises:
        ValueError: fewer than one sweep, or (in the solve) an operator that is neither a stencil in natural order nor
            one in the plane in red-black order.

    Example:
        >>> from jaxsci import linear
        >>> op, b = linear.operators.shifted_laplacian((10, 10)), jnp.ones((10, 10))
        >>> for method in (linear.methods.sor(1.5), linear.methods.pipelined_sor(1.5, sweeps=4)):
        ...     print(int(linear.solve(op, b, method=method, tol=1e-4).steps))
        33
        33

    References: Young 1954; Saad 2003, section 4.1.
    """
    sweeps = check_size("pipelined_sor", "sweeps", sweeps)
    prepare = Partial(bind(_prepare, sweeps=sweeps), as_scalar(omega, "pipelined_sor", "omega"))
    return Solver(prepare, Partial(bind(_init, sweeps=sweeps)), Partial(bind(_step, sweeps=sweeps)), Partial(_broken))


def _prepare(omega, op, *, sweeps: int) -> System:
    ordered, omega, code = op.ordered, omega.astype(op.diagonal.dtype), trouble(op.diagonal, omega)
    if isinstance(ordered, Wavefront):
        finish = Partial(bind(_finish, sweeps=sweeps), Partial(_sweep, ordered.mv, ordered.lower(omega)))
        apply = Partial(bind(sweep, sweeps=sweeps), ordered, omega)
        return System(ordered.pack, ordered.unpack, ordered.mv, apply, code, finish)
    if isinstance(ordered, Checkerboard) and op.diagonal.ndim == 2:
        (north, west), (south, east) = op.before, op.after
        matrix = (op.diagonal, north, south, west, east)
        matrix = jnp.stack([jnp.broadcast_to(c, op.diagonal.shape) for c in matrix])
        finish = Partial(bind(_finish, sweeps=sweeps), Partial(_red_black_sweep, matrix, omega))
        apply = Partial(bind(_red_black, sweeps=sweeps), matrix, omega)
        return System(Partial(identity), Partial(identity), op.mv, apply, code, finish)
    raise ValueError(
        "pipelined_sor: expected a stencil in natural order, or one in the plane in red-black order, got "
        f"{type(op).__name__} with sweeps by {type(ordered).__name__}; use methods.sor"
    )


def _sweep(mv, lower, b, x):
    return x + lower(b - mv(x))


def _red_black_sweep(matrix, omega, b, x):
    return red_black(x, b, matrix, omega).value


def _red_black(matrix, omega, b, x, *, sweeps: int):
    return red_black(x, b, matrix, omega, num_sweeps=sweeps, residuals=True)[:2]


def _finish(one, chunk: Chunk, *, sweeps: int):
    """The iterate after `count` sweeps: the end of the chunk if all are counted, else by single sweeps from its
    start."""
    last = chunk.count == sweeps

    def body(x):
        return one(chunk.b, x)

    x = tree.where(last, chunk.end, chunk.start)
    return loops.bounded_while(lambda x: True, body, x, max_steps=jnp.where(last, 0, chunk.count))[0]


def _init(system: System, b, x0, *, sweeps: int) -> PipelinedState:
    r = tree.norm(tree.sub(b, system.mv(x0)))
    return PipelinedState(Chunk(x0, x0, b, jnp.int32(0)), r[None], jnp.zeros(sweeps, r.dtype))


def _step(system: System, b, state: PipelinedState, *, sweeps: int) -> PipelinedState:
    def go_on(state):
        return state._replace(x=state.x._replace(count=state.x.count + 1))

    def next_chunk(state):
        end, norms = system.apply(b, state.x.end)
        return PipelinedState(Chunk(state.x.end, end, b, jnp.int32(1)), state.r, norms)

    spent = (state.x.count == 0) | (state.x.count == sweeps)
    state = jax.lax.cond(spent, next_chunk, go_on, state)
    return state._replace(r=state.norms[state.x.count - 1][None])


def _broken(system: System, state: PipelinedState):
    return system.status


def sweep(op: Wavefront, omega, b, x, *, sweeps: int):
    """`sweeps` SOR sweeps from x: (x after the last, residual norms after each). All in skewed storage."""
    count, last = b.shape[0], sweeps - 1
    rest = [(0, 0)] * (b.ndim - 1)

    def padded(a):
        # Lane l works on sweep last - l, so that the anti-diagonals of all lanes, t - 2 last + 2 l, rise with l.
        return jnp.pad(a, [(2 * last, 2 * last), *rest]) if a.ndim else a

    initial = jnp.pad(x, [(1, 2 * last + 3), *rest])
    arrays = jax.tree.map(padded, (b, op.diagonal, over(omega, op.diagonal), op.before, op.after))

    def step(carry, t):
        # The values of all lanes one, two and three steps ago, and one more row, which holds the initial iterate two
        # anti-diagonals ahead of the last lane. So rows [1:] are, for each lane, the values of the sweep before.
        one, two, three, squares = carry

        def slab(a):
            return jax.lax.dynamic_slice_in_dim(a, t, 2 * last + 1)[::2] if a.ndim else a

        force, diagonal, scale, before, after = jax.tree.map(slab, arrays)
        old = two[1:]
        force = force - reach(after, one[1:], -1, 1)
        new = (1 - omega) * old + scale * (force - reach(before, one[:-1], 1, 1))
        # The same cells with the previous sweep's values on both sides: the residual of the previous sweep.
        residual = jnp.where(diagonal != 0, force - diagonal * old - reach(before, three[1:], 1, 1), 0)
        lanes = jnp.concatenate([new, jax.lax.dynamic_slice_in_dim(initial, t + 3, 1)])
        return (lanes, one, two, squares + residual**2), lanes[0]

    zero = jnp.zeros((sweeps + 1, *b.shape[1:]), b.dtype)
    start = (zero.at[-1].set(initial[2]), zero.at[-1].set(initial[1]), zero, zero[1:])
    carry, out = jax.lax.scan(step, start, jnp.arange(count + 2 * last, dtype=jnp.int32))
    x = out[2 * last :]
    norms = jnp.sqrt(carry[3].reshape(sweeps, -1).sum(1))[::-1]
    return x, jnp.append(norms[1:], tree.norm(b - op.mv(x)))


__all__ = ["Chunk", "PipelinedState", "pipelined_sor", "sweep"]

entry.hold(globals(), "_broken", "_finish", "_init", "_prepare", "_step")
