"""Particle filters: init, step and finish, and `run`, their scan over the inputs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from jaxsci.core import drive, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray, Size, as_float, as_scalar, concrete
from jaxsci.smc import _step
from jaxsci.smc._model import Model
from jaxsci.smc._step import Cloud, State, Step
from jaxsci.smc._transport import Informed, Transport
from jaxsci.smc.resamplers import systematic


class Result(NamedTuple):
    """What a run returns.

    Attributes:
        value: the cloud at the last time, weighted; `resample_to_uniform` gives equally weighted particles.
        state: to go on from, see `run`.
        history: one entry of each step along a leading axis of T.
        status: int32 bits of the whole run, 0 is ok.
        log_z: estimate of the logarithm of the normalising constant (log-likelihood of a state-space model).
        kept: the clouds at the times of `keep_at`, along a leading axis; None without.
    """

    value: Cloud
    state: State
    history: Step
    status: Int[Array, ""]
    log_z: Float[Array, ""]
    kept: Cloud | None = None


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


def _options(
    name,
    resampler,
    ess_threshold,
    gradient,
    soft_share,
    statistics,
    store,
    num_resampled=None,
    in_place=False,
    length=None,
) -> _step.Options:
    store = (store,) if isinstance(store, str) else tuple(store)
    unknown = sorted(set(store) - set(_step.STORED))
    if unknown:
        raise ValueError(f"{name}: store must name some of {', '.join(_step.STORED)}, got {', '.join(unknown)}")
    if gradient not in _step.GRADIENTS:
        raise ValueError(f"{name}: gradient must be one of {', '.join(_step.GRADIENTS)}, got {gradient!r}")
    if isinstance(resampler, Transport):
        resampler = Transport(as_partial(resampler.function, name, "resampler.function"))
        if gradient != "none" or num_resampled is not None:
            raise ValueError(
                f"{name}: a Transport is differentiated as it is and returns as many particles as it takes: leave "
                f"gradient and num_resampled as they are, got {gradient!r} and {num_resampled!r}"
            )
    elif not isinstance(resampler, Informed):
        resampler = as_partial(resampler, name, "resampler")
    return _step.Options(
        resampler,
        as_scalar(ess_threshold, name, "ess_threshold") if length is None else _shares(name, ess_threshold, length),
        gradient,
        as_scalar(soft_share, name, "soft_share"),
        None if statistics is None else as_partial(statistics, name, "statistics"),
        tuple(sorted(store)),
        None if num_resampled is None else check_size(name, "num_resampled", num_resampled),
        bool(in_place),
    )


def _check_options(name: str, options: _step.Options, model: Model, num_particles: int) -> None:
    """What model, number of particles and options must agree on."""
    if isinstance(options.resampler, Transport) and model.look_ahead is not None:
        raise ValueError(
            f"{name}: a model with a look-ahead needs ancestors, whose weights it corrects; a Transport returns none: "
            "take one of smc.resamplers, or model._replace(look_ahead=None)"
        )
    if options.in_place and (options.num_resampled is not None or isinstance(options.resampler, Transport)):
        raise ValueError(f"{name}: in_place needs ancestors of all particles: leave num_resampled and Transport out")
    out = options.num_resampled
    if out is not None and num_particles % out:
        raise ValueError(
            f"{name}: num_resampled must divide the number of particles, {num_particles}, got {out}: child i of the "
            "move belongs to parent i mod num_resampled"
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

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> model = smc.Model(
        ...     lambda key, num, y: (jnp.zeros(num), jnp.zeros(num)), lambda key, x, w, y: (x + 1, 0 * x, None))
        >>> state = smc.init(jax.random.key(0), model, 0.0, num_particles=4)[0]
        >>> print([a.shape for a in jax.tree.leaves(state)][:1])
        [(4,)]
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
    num_resampled: Size | None = None,
    in_place: bool = False,
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

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> model = smc.Model(
        ...     lambda key, num, y: (jnp.zeros(num), jnp.zeros(num)), lambda key, x, w, y: (x + 1, 0 * x, None))
        >>> key = jax.random.key(0)
        >>> state, first = smc.init(key, model, 0.0, num_particles=4)
        >>> state, second = smc.step(key, model, state, 0.0)
        >>> print(jax.tree.leaves(state)[0])
        [1. 1. 1. 1.]
    """
    name = "smc.step"
    options = _options(name, resampler, ess_threshold, gradient, soft_share, statistics, store, num_resampled, in_place)
    model = _model(name, model)
    _check_options(name, options, model, state.eves.shape[0])
    return _following(as_typed_key(key, name), model, state, tree.as_arrays(input), options)


def finish(state: State, history: Step) -> Result:
    """The result of a run that was taken step by step; `history` holds the steps along a leading axis.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> model = smc.Model(
        ...     lambda key, num, y: (jnp.zeros(num), jnp.zeros(num)), lambda key, x, w, y: (x + 1, 0 * x, None))
        >>> key = jax.random.key(0)
        >>> state, first = smc.init(key, model, 0.0, num_particles=4)
        >>> state, second = smc.step(key, model, state, 0.0)
        >>> history = jax.tree.map(lambda *steps: jnp.stack(steps), first, second)
        >>> print(smc.finish(state, history).history.ess.shape)
        (2,)
    """
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
    num_resampled: Size | None = None,
    in_place: bool = False,
    statistics: Callable[[PyTree, Array], PyTree] | None = None,
    store: str | tuple[str, ...] = (),
    keep_at: ArrayLike | None = None,
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
        resampler: ``(key, log_weights, num_out) -> ancestors``, from `smc.resamplers`, or a `Transport`, which returns
            particles; static but for its leaves.
        ess_threshold: resample when the effective sample size is below this share of N; 0 never, 1 always; traced. T
            numbers are a share for each input of this call; the first of a run is not read.
        gradient: static; what differentiating `log_z` gives. "none": through states and weights, not through the
            choice of ancestors: wrong for log Z as soon as something is resampled. "stop_gradient": the weights of
            ancestors enter as $w / \mathrm{stop}(w)$; with frozen particles (see `lift`) it is Fisher's score, with a
            bias O(1/N) and a variance that grows with T^2 / N (Scibior and Wood 2021). "soft": ancestors are drawn
            from a mixture with the uniform law and reweighted: some gradient through the weights, and still a bias.
        soft_share: share of the weights in that mixture, in (0, 1); traced.
        num_resampled: M, how many particles a resampling leaves for the model to move, a divisor of N; None for all N.
            With fewer, `move` takes M particles and returns N, particle i a child of parent i mod M (so those of one
            parent stand M apart), and every step resamples whatever the effective sample size; static.
        in_place: particles that survive a resampling keep their places, and only the places of the others are written,
            see `pallas_kernels.permute`: as many offspring of each in another order. Worth it where a particle is large
            (a cache of 2 KiB or more); static.
        statistics: ``statistics(particles, weights) -> pytree``, recorded at every step; the N weights sum to 1.
        store: what else is recorded at every step, some of "particles", "log_weights", "ancestors" (T N numbers each)
            and "aux" (of the steps after the first); static.
        keep_at: K times at which the cloud is kept (memory K N instead of T N): increasing positions along the inputs
            of this call, or T Booleans; concrete. Other times of the same number compile nothing again.
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

    Differentiable, any number of times, in the model's leaves and the inputs, see `gradient`.

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
    num_particles, length = check_size(name, "num_particles", num_particles), _length(name, inputs)
    options = _options(
        name, resampler, ess_threshold, gradient, soft_share, statistics, store, num_resampled, in_place, length
    )
    _check_options(name, options, model, num_particles)
    times = None if keep_at is None else _times(name, keep_at, length)
    if state is not None and state.eves.shape != (num_particles,):
        raise ValueError(f"{name}: state has {state.eves.shape[0]} particles, num_particles is {num_particles}")
    if checkpoint is None and progress is False:
        state, history, kept = _whole(key, model, inputs, options, state, num_particles, times)
        return finish(state, history)._replace(kept=kept)
    begun, shift, kept = None, 0, None
    if state is None:
        state, begun = _first(key, model, tree.dynamic_index(inputs, 0), options, num_particles)
        inputs = jax.tree.map(lambda a: a[1:], inputs)
        shift = 1
    if times is not None:
        kept = _room(state.cloud, times) if begun is None else _keep(_room(state.cloud, times), times, 0, state.cloud)
    arrays, static = eqx.partition((key, model, inputs, options, times), eqx.is_array)
    taken = Partial(bind(_driven, static=_Static(static), shift=shift), arrays)
    options_of_drive = dict(checkpoint=checkpoint, progress=progress, save_every=save_every, caller=name)
    (state, kept), history = drive.scan(taken, (state, kept), length - shift, **options_of_drive)
    result = finish(state, history if begun is None else _joined(begun, history))
    return result._replace(kept=_filled(kept))


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


def _shares(name: str, ess_threshold: ArrayLike, length: int) -> Array:
    """The share of N below which each input is met by a resampled cloud."""
    shares = as_float(ess_threshold)
    if shares.shape not in ((), (length,)):
        raise ValueError(
            f"{name}: ess_threshold must be a number or one for each of {length} inputs, got shape {shares.shape}"
        )
    return jnp.broadcast_to(shares, (length,))


def _times(name: str, keep_at: ArrayLike, length: int) -> Int[Array, " K"]:
    """The times to keep, as increasing positions below T."""
    given = concrete(keep_at, name, "keep_at", "keep the same times in every lane")
    given = np.asarray(given)
    if given.dtype == bool and given.shape == (length,):
        given = np.flatnonzero(given)
    good = given.ndim == 1 and given.size and np.issubdtype(given.dtype, np.integer)
    if not (good and given[0] >= 0 and given[-1] < length and np.all(np.diff(given) > 0)):
        raise ValueError(
            f"{name}: keep_at must be increasing times from 0 to {length - 1} or {length} Booleans, at least one of "
            f"them true, got {keep_at!r}"
        )
    return jnp.asarray(given, jnp.int32)


# Clouds are kept in rows, one more than there are times: at all other times the last row is written over.


def _room(cloud: Cloud, times) -> Cloud:
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (times.size + 1, *a.shape)), cloud)


def _keep(kept, times, t, cloud):
    if kept is None:
        return None
    match = times == t
    row = jnp.where(jnp.any(match), jnp.argmax(match), times.size)
    return jax.tree.map(lambda rows, a: jax.lax.dynamic_update_index_in_dim(rows, a, row, 0), kept, cloud)


def _filled(kept):
    return None if kept is None else jax.tree.map(lambda rows: rows[:-1], kept)


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


def _driven(arrays, carry, i, static, shift):
    key, model, inputs, options, times = eqx.combine(arrays, static.value)
    state, kept = carry
    options = options._replace(ess_threshold=options.ess_threshold[i + shift])
    state, taken = _step.following(options, key, model, state, tree.dynamic_index(inputs, i))
    return (state, _keep(kept, times, i + shift, state.cloud)), taken


@eqx.filter_jit
def _whole(key, model, inputs, options, state, num_particles, times):
    begun, places, shares = None, None, options.ess_threshold
    if times is not None:
        places = jnp.arange(shares.size, dtype=jnp.int32)
    if state is None:
        state, begun = _step.first(options, key, model, tree.dynamic_index(inputs, 0), num_particles)
        inputs, places, shares = jax.tree.map(lambda a: a[1:], (inputs, places, shares))
    kept = None if times is None else _room(state.cloud, times)
    if begun is not None:
        kept = _keep(kept, times, 0, state.cloud)

    def body(carry, now):
        state, kept = carry
        input, place, share = now
        state, taken = _step.following(options._replace(ess_threshold=share), key, model, state, input)
        return (state, _keep(kept, times, place, state.cloud)), taken

    (state, kept), history = jax.lax.scan(body, (state, kept), (inputs, places, shares))
    return state, history if begun is None else _joined(begun, history), _filled(kept)


def _joined(begun: Step, history: Step) -> Step:
    """The first step before all others; `aux` begins with the second."""
    begun, aux = begun._replace(aux=None), history.aux
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), begun, history._replace(aux=None))
    return joined._replace(aux=aux)


__all__ = ["Result", "finish", "init", "run", "step"]
