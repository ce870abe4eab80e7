"""Particle filters: init, step and finish, and `run`, their scan over the inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import drive, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray, Size, as_scalar
from jaxsci.smc import _step
from jaxsci.smc._model import Model
from jaxsci.smc._step import Cloud, State, Step
from jaxsci.smc.resamplers import systematic


class Result(NamedTuple):
    """What a run returns.

    Attributes:
        value: the cloud at the last time, weighted; `resample_to_uniform` gives equally weighted particles.
        state: to go on from, see `run`.
        history: one entry of each step along a leading axis of T.
        status: int32 bits of the whole run, 0 is ok.
        log_z: estimate of the logarithm of the normalising constant (log-likelihood of a state-space model).
    """

    value: Cloud
    state: State
    history: Step
    status: Int[Array, ""]
    log_z: Float[Array, ""]


def _model(name: str, model: Model) -> Model:
    """The model with functions that cross jit."""
    if not isinstance(model, Model):
        raise TypeError(f"{name}: model must be an smc.Model, got {type(model).__name__}; smc.lift makes one")
    ahead = model.look_ahead
    return Model(
        as_partial(model.init, name, "model.init"),
        as_partial(model.move, name, "model.move"),
        None if ahead is None else as_partial(ahead, name, "model.look_ahead"),
    )


def _options(name, resampler, ess_threshold, gradient, soft_share, statistics, store) -> _step.Options:
    store = (store,) if isinstance(store, str) else tuple(store)
    unknown = sorted(set(store) - set(_step.STORED))
    if unknown:
        raise ValueError(f"{name}: store must name some of {', '.join(_step.STORED)}, got {', '.join(unknown)}")
    if gradient not in _step.GRADIENTS:
        raise ValueError(f"{name}: gradient must be one of {', '.join(_step.GRADIENTS)}, got {gradient!r}")
    return _step.Options(
        as_partial(resampler, name, "resampler"),
        as_scalar(ess_threshold, name, "ess_threshold"),
        gradient,
        as_scalar(soft_share, name, "soft_share"),
        None if statistics is None else as_partial(statistics, name, "statistics"),
        tuple(sorted(store)),
    )


def init(
    key: KeyArray,
    model: Model,
    input: PyTree,
    *,
    num_particles: Size,
    statistics: Callable | None = None,
    store: str | tuple[str, ...] = (),
) -> tuple[State, Step]:
    """The cloud at time 0, weighted by the first input. Arguments as for `run`, but one input of T.

    Returns:
        ``(state, step)``: where to go on from, and what is recorded of time 0.

    Raises:
        TypeError, ValueError: as `run`.
    """
    name = "smc.init"
    options = _options(name, systematic, 0.5, "none", 0.5, statistics, store)
    num_particles = check_size(name, "num_particles", num_particles)
    return _first(as_typed_key(key, name), _model(name, model), tree.as_arrays(input), options, num_particles)


def step(
    key: KeyArray,
    model: Model,
    state: State,
    input: PyTree,
    *,
    resampler: Callable = systematic,
    ess_threshold: ArrayLike = 0.5,
    gradient: str = "none",
    soft_share: ArrayLike = 0.5,
    statistics: Callable | None = None,
    store: str | tuple[str, ...] = (),
) -> tuple[State, Step]:
    """One step more: resample if need be, move, weigh by one more input. Arguments as for `run`, but one input of T.

    Args:
        key: the key of the whole run, the same at every step: the number of the step is folded in here.
        state: from `init`, `step` or the result of a `run`.

    Returns:
        ``(state, step)``.

    Raises:
        TypeError, ValueError: as `run`.
    """
    name = "smc.step"
    options = _options(name, resampler, ess_threshold, gradient, soft_share, statistics, store)
    return _following(as_typed_key(key, name), _model(name, model), state, tree.as_arrays(input), options)


def finish(state: State, history: Step) -> Result:
    """The result of a run that was taken step by step; `history` holds the steps along a leading axis."""
    return Result(state.cloud, state, history, state.status, state.log_z + state.remainder)


@eqx.filter_jit
def _first(key, model, input, options, num_particles):
    return _step.first(options, key, model, input, num_particles)


@eqx.filter_jit
def _following(key, model, state, input, options):
    return _step.following(options, key, model, state, input)


def run(
    key: KeyArray,
    model: Model,
    inputs: PyTree,
    *,
    num_particles: Size,
    resampler: Callable = systematic,
    ess_threshold: ArrayLike = 0.5,
    gradient: str = "none",
    soft_share: ArrayLike = 0.5,
    statistics: Callable[[PyTree, Array], PyTree] | None = None,
    store: str | tuple[str, ...] = (),
    state: State | None = None,
    checkpoint: str | Path | None = None,
    progress: bool | Callable = False,
    save_every: float = 60.0,
) -> Result:
    r"""Run a particle filter (any Feynman-Kac model) over T inputs.

    $\log \hat Z = \sum_t \log \frac1N \sum_i w_t^i$ with $E[\hat Z] = Z$; step by step as `_step.py` tells. Under
    `jax.vmap` both the resampled and the untouched cloud are computed at every step, as `jax.lax.cond` becomes a
    selection; one large filter computes the ancestors only when the effective sample size asks for it.

    Args:
        key: one typed key; step t uses ``fold_in(key, t)``.
        model: from `smc.lift`, `smc.bootstrap`, ..., or one's own. Its leaves are traced: another parameter compiles
            nothing again.
        inputs: a pytree of arrays with T along the leading axis: observations, controls, time steps; traced.
        num_particles: N, static.
        resampler: ``(key, log_weights, num_out) -> ancestors``, from `smc.resamplers`; static.
        ess_threshold: resample when the effective sample size is below this share of N; 0 never, 1 always; traced.
        gradient: static; what differentiating `log_z` gives. "none": through states and weights, not through the
            choice of ancestors: wrong for log Z as soon as something is resampled. "stop_gradient": the weights of
            ancestors enter as $w / \mathrm{stop}(w)$; with frozen particles (see `lift`) it is Fisher's score, with a
            bias O(1/N) and a variance that grows with T^2 / N (Scibior and Wood 2021). "soft": ancestors are drawn
            from a mixture with the uniform law and reweighted: some gradient through the weights, and still a bias.
        soft_share: share of the weights in that mixture, in (0, 1); traced.
        statistics: ``statistics(particles, weights) -> pytree``, recorded at every step; the N weights sum to 1.
        store: what else is recorded at every step, some of "particles", "log_weights", "ancestors" (T N numbers each)
            and "aux" (of the steps after the first); static.
        state: go on from the state of another run with the same key: all T inputs are then steps more.
        checkpoint: folder; the run becomes a host loop that a second call continues to the same bits.
        progress: True shows a bar, a callable gets ``(done, total, text)``; a host loop too.
        save_every: seconds between two checkpoints.

    Returns:
        A `Result`. Status: NONFINITE_INPUT (a NaN among the weights; it counts as zero), NONFINITE_RESULT (an infinite
        weight: log Z is NaN), DEGENERATE (no positive weight: log Z is -inf), and the notice UNEVEN_LOOK_AHEAD. After
        the last two faults the cloud goes on with equal weights: its arrays are as finite as the model made them.

    Raises:
        TypeError: `model` is no `Model`, or its functions return other shapes or dtypes than they must.
        ValueError: no inputs, inputs of different lengths, or a wrong static argument.

    Differentiable in the model's leaves and the inputs, see `gradient`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     x = jax.random.normal(key, (num,))
        ...     return x, -0.5 * (y - x) ** 2
        >>> def move(key, x, log_weights, y):
        ...     x = 0.9 * x + jax.random.normal(key, x.shape)
        ...     return x, -0.5 * (y - x) ** 2, None
        >>> result = smc.run(jax.random.key(0), smc.Model(init, move), jnp.zeros(20), num_particles=1000)
        >>> result.history.ess.shape, bool(result.log_z < 0)
        ((20,), True)

    References: N. Chopin, O. Papaspiliopoulos, An Introduction to Sequential Monte Carlo, Springer 2020, chapter 10;
    A. Scibior, F. Wood, arXiv 2106.10314 (2021).
    """
    name = "smc.run"
    key, model, inputs = as_typed_key(key, name), _model(name, model), tree.as_arrays(inputs)
    options = _options(name, resampler, ess_threshold, gradient, soft_share, statistics, store)
    num_particles, length = check_size(name, "num_particles", num_particles), _length(name, inputs)
    if state is not None and state.eves.shape != (num_particles,):
        raise ValueError(f"{name}: state has {state.eves.shape[0]} particles, num_particles is {num_particles}")
    if checkpoint is None and progress is False:
        return finish(*_whole(key, model, inputs, options, state, num_particles))
    begun = None
    if state is None:
        state, begun = _first(key, model, tree.dynamic_index(inputs, 0), options, num_particles)
        inputs = jax.tree.map(lambda a: a[1:], inputs)
        length -= 1
    arrays, static = eqx.partition((key, model, inputs, options), eqx.is_array)
    taken = Partial(bind(_driven, static=_Static(static)), arrays)
    state, history = drive.scan(
        taken, state, length, checkpoint=checkpoint, progress=progress, save_every=save_every, caller=name
    )
    return finish(state, history if begun is None else _joined(begun, history))


def _length(name: str, inputs: PyTree) -> int:
    """T, the one length of all inputs."""
    shapes = [jnp.shape(a) for a in jax.tree.leaves(inputs)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or lengths & {None, 0}:
        raise ValueError(
            f"{name}: inputs must be arrays with one length T >= 1 along their leading axis, got shapes {shapes}; "
            "a model without inputs takes jnp.arange(T)"
        )
    return lengths.pop()


class _Static:
    """What a driven step holds besides arrays, compared by value, so that a second call is the same program."""

    def __init__(self, value: Any):
        self.value = value
        leaves, structure = jax.tree.flatten(value)
        self._identity = tuple(leaves), structure

    def __eq__(self, other):
        return isinstance(other, _Static) and self._identity == other._identity

    def __hash__(self):
        return hash(self._identity[0])


def _driven(arrays, state, i, static):
    key, model, inputs, options = eqx.combine(arrays, static.value)
    return _step.following(options, key, model, state, tree.dynamic_index(inputs, i))


@eqx.filter_jit
def _whole(key, model, inputs, options, state, num_particles):
    begun = None
    if state is None:
        state, begun = _step.first(options, key, model, tree.dynamic_index(inputs, 0), num_particles)
        inputs = jax.tree.map(lambda a: a[1:], inputs)

    def body(state, input):
        return _step.following(options, key, model, state, input)

    state, history = jax.lax.scan(body, state, inputs)
    return state, history if begun is None else _joined(begun, history)


def _joined(begun: Step, history: Step) -> Step:
    """The first step before all others; `aux` begins with the second."""
    begun, aux = begun._replace(aux=None), history.aux
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begun, history._replace(aux=None))
    return joined._replace(aux=aux)


__all__ = ["Result", "finish", "init", "run", "step"]
