r"""Conditional SMC: a particle filter in which one path is kept, and from which a new path is drawn.

Particle 0 of every cloud is the reference path $x'_{0:T-1}$: it is resampled with itself as its ancestor, given which
the other ancestors have the law of the resampler (`resamplers.conditional_systematic`), and it is not moved. The new
path ends in a particle drawn by its weight; before it stands, by the kind of `draw`,

"trace"     the ancestors of that particle;
"backward"  at each time a particle drawn by $W_t^j\, M_{t+1}(x_t^j, x_{t+1})\, G_{t+1}(x_t^j, x_{t+1})$, given the
            state $x_{t+1}$ chosen before (Whiteley 2010);
"ancestor"  the ancestors again, but on the way forward the reference got a new one at each resampling, by that law with
            $x_{t+1} = x'_{t+1}$ (Lindsten, Jordan and Schon 2014).

Each is a Markov kernel from path to path that leaves $\mathbb Q_T$ (see `_model`) invariant, for any number of
particles from 2. Where nothing was resampled particles stand for themselves, so there "backward" follows them.

References: C. Andrieu, A. Doucet, R. Holenstein, J. R. Statist. Soc. B 72 (2010), 269-342, section 4.3; N. Whiteley,
ibid., 306-307; F. Lindsten, M. I. Jordan, T. B. Schon, J. Mach. Learn. Res. 15 (2014), 2145-2184.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import entry, status, tree
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar, Size, as_real, as_scalar
from jaxsci.smc import _filters, _laws, _run
from jaxsci.smc._filters import StateSpace
from jaxsci.smc._model import FeynmanKac, Model, each
from jaxsci.smc._transport import Informed
from jaxsci.smc.resamplers import conditional_systematic, systematic

_DRAWS = ("trace", "backward", "ancestor")


class PathDraw(NamedTuple):
    """A path drawn from a cloud of paths.

    Attributes:
        value: its states, along a leading axis of T.
        indices: which particle of each time they are; 0 is the reference's own.
        log_z: estimate of log Z by the clouds; biased where a reference was kept.
        status: int32 bits, 0 is ok: those of `run`, and OUT_OF_RANGE where the reference met a weight of zero.
    """

    value: PyTree
    indices: Int[Array, " T"]
    log_z: Float[Array, ""]
    status: Int[Array, ""]


class _Parts(NamedTuple):
    """A Feynman-Kac model as functions of clouds in which draws and weights are apart."""

    init: Callable[..., Any]
    propagate: Callable[..., Any]
    log_init: Callable[..., Any]
    log_potential: Callable[..., Any]
    log_propagate: Callable[..., Any] | None


def lineage(ancestors: Int[ArrayLike, "T N"], last: Int[ArrayLike, "..."]) -> Int[Array, "T ..."]:
    r"""Which particles of each time some particles of the last time descend from: $i_{t} = a_{t+1}^{i_{t+1}}$.

    Args:
        ancestors: of every step, ``run(..., store="ancestors").history.ancestors``; those of time 0 are not read.
        last: particles of the last time; traced.

    Returns:
        Their ancestors at each of T times, the last row `last` itself: the states of the path of one of them are
        ``particles[jnp.arange(T), lineage(ancestors, last)]``, with the particles of the same history.

    Raises:
        ValueError: `ancestors` has no two axes.
        TypeError: it or `last` holds no integers.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import smc
        >>> ancestors = jnp.array([[0, 1, 2], [0, 0, 1], [2, 1, 0]])
        >>> print(smc.lineage(ancestors, jnp.array([0, 2])).T)
        [[1 2 0]
         [0 0 2]]
    """
    ancestors, last = jnp.asarray(ancestors), jnp.asarray(last)
    if ancestors.ndim != 2:
        raise ValueError(f"smc.lineage: ancestors must have axes T and N, got shape {ancestors.shape}")
    for name, value in (("ancestors", ancestors), ("last", last)):
        if not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(f"smc.lineage: {name} must be integers, got {value.dtype}")
    return _lineage(ancestors.astype(jnp.int32), last.astype(jnp.int32))


@jax.jit
def _lineage(ancestors, last):
    def back(index, row):
        index = row[index]
        return index, index

    _, before = jax.lax.scan(back, last, ancestors[1:], reverse=True)
    return jnp.concatenate([before, last[None]])


def conditional(
    key: KeyArray,
    model: FeynmanKac | StateSpace,
    inputs: PyTree,
    reference: PyTree | None = None,
    *,
    num_particles: Size,
    draw: str = "backward",
    ess_threshold: Scalar = 1.0,
) -> PathDraw:
    """Draw a path given another one: a step of a Markov chain whose law is that of the model's paths.

    Args:
        key: one typed key.
        model: a `FeynmanKac`, or a `StateSpace` (moved by its own transition). "backward" and "ancestor" need its
            `log_propagate`. Its leaves are traced.
        inputs: a pytree of arrays with T along the leading axis, as for `run`.
        reference: the path that is kept, the states of T times; None draws a first path from a filter without one.
        num_particles: N, at least 2, the reference among them; static.
        draw: "trace", "backward" or "ancestor", see the head of this module: the first is the cheapest and, with few
            particles, hardly ever changes the beginning of a long path; static.
        ess_threshold: resample below this share of N; 1, always, is the default; traced.

    Returns:
        A `PathDraw`.

    Raises:
        TypeError: `model` is neither of the two, or returns other shapes than those of the reference.
        ValueError: an unknown `draw`, fewer than 2 particles, no `log_propagate` where it is needed, or inputs and
            reference of different lengths.

    Not differentiable: the path is drawn.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> walk = smc.FeynmanKac(
        ...     init=lambda key, y: jax.random.normal(key),
        ...     propagate=lambda key, x, y: x + jax.random.normal(key),
        ...     log_potential=lambda before, x, y: -0.5 * (y - x) ** 2,
        ...     log_propagate=lambda before, x, y: -0.5 * (x - before) ** 2,
        ... )
        >>> first = smc.conditional(jax.random.key(0), walk, jnp.zeros(5), num_particles=4)
        >>> again = smc.conditional(jax.random.key(1), walk, jnp.zeros(5), first.value, num_particles=4)
        >>> again.value.shape, int(again.status)
        ((5,), 0)
    """
    name = "smc.conditional"
    num_particles = check_size(name, "num_particles", num_particles, least=2)
    inputs, reference = tree.as_arrays(inputs), tree.as_arrays(reference)
    parts = parts_of(name, model, draw)
    _run._length(name, inputs if reference is None else (inputs, reference))
    threshold = as_scalar(ess_threshold, name, "ess_threshold")
    return draw_path(as_typed_key(key, name), parts, inputs, reference, threshold, num_particles, draw)


@eqx.filter_jit
def draw_path(key, parts, inputs, reference, threshold, num_particles, draw):
    """`conditional` with the arguments checked."""
    first, second = jax.random.split(key)
    resampler = systematic
    if reference is not None:
        resampler = Partial(_kept)
        if draw == "ancestor":
            resampler = Informed(Partial(_kept_with_new_ancestor, parts))
    result = _run.run(
        first,
        Model(Partial(_init, parts), Partial(_move, parts)),
        (inputs, reference),
        num_particles=num_particles,
        resampler=resampler,
        ess_threshold=threshold,
        store=("particles", "log_weights", "ancestors"),
    )
    key_last, key_back = jax.random.split(second)
    history = result.history
    last = jax.random.categorical(unrolled(key_last), history.log_weights[-1]).astype(jnp.int32)
    if draw == "backward":
        indices = _backward(key_back, parts, inputs, history, last)
    else:
        indices = _lineage(history.ancestors, last)
    times = jnp.arange(indices.shape[0], dtype=jnp.int32)
    path = jax.tree.map(lambda a: a[times, indices], history.particles)
    code = result.status
    if reference is not None:
        code = code | status.flag(jnp.any(history.log_weights[:, 0] == -jnp.inf), status.OUT_OF_RANGE)
    return PathDraw(path, indices, result.log_z, code)


# --- the cloud with a reference ----------------------------------------------------------------------------


def _with_reference(particles, reference):
    """Particle 0 replaced by the state of the reference; None leaves the cloud alone."""
    if reference is None:
        return particles
    return jax.tree.map(lambda a, b: a.at[0].set(as_real(b, a.dtype)), particles, reference)


def _init(parts, key, num, input):
    input, reference = input
    particles = _with_reference(parts.init(key, num, input), reference)
    return particles, parts.log_init(particles, input)


def _move(parts, key, particles, log_weights, input):
    input, reference = input
    moved = _with_reference(parts.propagate(key, particles, input), reference)
    return moved, parts.log_potential(particles, moved, input), None


def _kept(key, log_weights, num_out):
    return conditional_systematic(key, log_weights, num_out, pivot=0, slot=0)


def _kept_with_new_ancestor(parts, key, log_weights, num_out, particles, input):
    input, reference = input
    first, second = jax.random.split(key)
    # The others are drawn given the new ancestor, so that all together keep the law of the resampler.
    pivot = jax.random.categorical(unrolled(first), log_weights + _log_joint(parts, particles, reference, input))
    return conditional_systematic(second, log_weights, num_out, pivot=pivot, slot=0)


def _log_joint(parts, particles, state, input):
    """log M + log G of one next state after each particle."""
    num = jnp.shape(jax.tree.leaves(particles)[0])[0]
    after = jax.tree.map(lambda a: jnp.broadcast_to(a, (num, *jnp.shape(a))), state)
    return parts.log_propagate(particles, after, input) + parts.log_potential(particles, after, input)


def _backward(key, parts, inputs, history, last):
    def back(carry, now):
        index, state = carry
        t, particles, log_weights, input, resampled = now
        drawn = jax.random.categorical(
            jax.random.fold_in(unrolled(key), t), log_weights + _log_joint(parts, particles, state, input)
        )
        index = jnp.where(resampled, drawn.astype(jnp.int32), index)
        return (index, tree.dynamic_index(particles, index)), index

    clouds = jax.tree.map(lambda a: a[:-1], (history.particles, history.log_weights))
    ahead, resampled = jax.tree.map(lambda a: a[1:], (inputs, history.resampled))
    times = jnp.arange(resampled.shape[0], dtype=jnp.int32)
    end = tree.dynamic_index(jax.tree.map(lambda a: a[-1], history.particles), last)
    _, before = jax.lax.scan(back, (last, end), (times, *clouds, ahead, resampled), reverse=True)
    return jnp.concatenate([before, last[None]])


# --- draws and weights apart -------------------------------------------------------------------------------


def parts_of(name: str, model, draw: str) -> _Parts:
    """Draws and densities of a model, and whether they suffice for this kind of draw."""
    if draw not in _DRAWS:
        raise ValueError(f"{name}: draw must be one of {', '.join(_DRAWS)}, got {draw!r}")
    if isinstance(model, StateSpace):
        functions = (_space_init, _space_propagate, _space_log_init, _space_log_potential, _space_log_propagate)
        return _Parts(*(Partial(f, model) for f in functions))
    if not isinstance(model, FeynmanKac):
        got = type(model).__name__
        raise TypeError(f"{name}: model must be an smc.FeynmanKac or an smc.StateSpace, got {got}")
    if model.log_propagate is None and draw != "trace":
        raise ValueError(
            f"{name}: draw={draw!r} compares particles by the density of a next state: give the model's "
            "log_propagate, or take draw='trace'"
        )
    wanted = ("init", "propagate", "log_potential", "log_propagate")
    given = {n: as_partial(getattr(model, n), name, f"model.{n}") for n in wanted if getattr(model, n) is not None}
    pairs = None if model.log_propagate is None else Partial(_of_pairs, given["log_propagate"])
    return _Parts(
        Partial(_single_init, given["init"]),
        Partial(_single_propagate, given["propagate"]),
        Partial(_single_log_init, given["log_potential"]),
        Partial(_of_pairs, given["log_potential"]),
        pairs,
    )


def _single_init(init, key, num, input):
    return each(lambda k: init(k, input), None, jax.random.split(key, num))


def _single_propagate(propagate, key, particles, input):
    keys = jax.random.split(key, jnp.shape(jax.tree.leaves(particles)[0])[0])
    return each(lambda k, x: propagate(k, x, input), None, keys, particles)


def _single_log_init(log_potential, particles, input):
    return each(lambda x: log_potential(None, x, input), None, particles)


def _of_pairs(function, before, particles, input):
    return each(lambda a, b: function(a, b, input), None, before, particles)


def _space_init(space, key, num, input):
    return _laws.sample(space.init(input), key, (num,))


def _space_propagate(space, key, particles, input):
    return _filters._draw(space, space.transition, key, particles, input)


def _space_log_init(space, particles, input):
    return _filters._observation(space, particles, input)


def _space_log_potential(space, before, particles, input):
    return _filters._observation(space, particles, input)


def _space_log_propagate(space, before, particles, input):
    return _filters._density(space, space.transition, before, particles, input)


__all__ = ["PathDraw", "conditional", "lineage"]

entry.hold(globals(), "_init", "_move", "_single_init", "_single_log_init", "_single_propagate")
