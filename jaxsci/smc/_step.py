r"""One step of a particle filter, in the order on which its estimate of Z depends.

Step t >= 1: (1) $a_i = \ell_i + \log\eta_i$ with a look-ahead, else $a = \ell$; ESS of $a$. (2) If ESS < threshold x N
ancestors are drawn from $a$ and the weights become 1 (with a look-ahead $\propto 1/\eta$). (3) The cloud moves.
(4) $\ell_i \mathrel{+}= \log G_t$. (5) The increment of log Z is the logarithm of the mean weight, by which the
weights are then divided: the log-weights of a state always have mean weight 1. At t = 0 nothing is resampled.

$E[e^{\log Z}] = Z$ exactly, with an ESS-triggered resampling too, because the decision sees the weights alone;
$E[\log Z]$ is about $\log Z$ minus half its variance.

Reference: N. Chopin, O. Papaspiliopoulos, An Introduction to Sequential Monte Carlo, Springer 2020, algorithm 10.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import status
from jaxsci.smc import _checks, _weights
from jaxsci.smc._transport import Informed, Transport, transported
from pallas_kernels.log_weight_stats import ALL_ZERO, ANY_INFINITE, log_weight_stats
from pallas_kernels.permute import permute, settle

UNEVEN_LOOK_AHEAD = status.register(
    "smc",
    23,
    "uneven look-ahead",
    "the look-ahead tells particles apart by more than their next weights may make good: its logarithm has a variance "
    "above 4, and log Z may have a far larger one than without it",
    "compare with a run without look-ahead, or flatten it",
    notice=True,
)
_LARGEST_VARIANCE = 4.0
STORED = ("ancestors", "aux", "log_weights", "particles")
GRADIENTS = ("none", "stop_gradient", "soft")


class Cloud(NamedTuple):
    """N weighted particles.

    Attributes:
        particles: a pytree of arrays with N along the leading axis.
        log_weights: log(N W_i): of mean weight 1; all 0 where no weight was positive or one was infinite.
    """

    particles: PyTree
    log_weights: Float[Array, " N"]


class State(NamedTuple):
    """All that is needed to go on from here.

    Attributes:
        cloud: the particles after the last step and their weights.
        eves: which particle of time 0 each descends from.
        log_z: log Z so far, rounded.
        remainder: what the rounding of `log_z` left over; their sum is compensated.
        ess: effective sample size of the cloud.
        num_steps: how many inputs have been taken.
        status: bits of everything that happened so far; 0 = ok.
    """

    cloud: Cloud
    eves: Int[Array, " N"]
    log_z: Float[Array, ""]
    remainder: Float[Array, ""]
    ess: Float[Array, ""]
    num_steps: Int[Array, ""]
    status: Int[Array, ""]


class Step(NamedTuple):
    """What is recorded of one step; along a leading axis of T in the history of a run.

    Attributes:
        log_increment: what the step added to log Z; -inf if no weight was positive, NaN if one was infinite.
        ess: effective sample size after the step.
        resampled: whether the cloud was resampled before it moved; False at the first step.
        status: int32 bits of this step alone, 0 = ok.
        statistics: what the caller's function made of particles and weights after the step, before any resampling.
        particles: the cloud after the step, on request.
        log_weights: its log-weights, of mean weight 1, on request.
        ancestors: of which particle of the step before each is the offspring, on request.
        aux: what the model's `move` returned beside; of the steps after the first, on request.
    """

    log_increment: Float[Array, "..."]
    ess: Float[Array, "..."]
    resampled: Array
    status: Int[Array, "..."]
    statistics: PyTree = None
    particles: PyTree = None
    log_weights: Array | None = None
    ancestors: Array | None = None
    aux: PyTree = None


class Options(NamedTuple):
    """How steps are taken: `ess_threshold` and `soft_share` are traced, all else is static.

    `num_resampled` is how many particles a resampling leaves, None for as many as there are; `in_place` lets those
    that survive keep their places.
    """

    resampler: PyTree
    ess_threshold: Array
    gradient: str
    soft_share: Array
    statistics: PyTree
    store: tuple[str, ...]
    num_resampled: int | None = None
    in_place: bool = False


def first(options: Options, key, model, input, num_particles: int) -> tuple[State, Step]:
    """Draw the cloud and weigh it by the first input."""
    key = jax.random.fold_in(key, 0)
    particles, log_weights = _checks.pair("init of the model", model.init(key, num_particles, input), 2)
    log_weights = jnp.asarray(log_weights)
    _checks.check_vector("init of the model", "log_weights", log_weights, num_particles)
    _checks.check_cloud("init of the model", particles, num_particles)
    log_weights = log_weights.astype(jnp.promote_types(log_weights.dtype, jnp.float32))
    particles = jax.tree.map(jnp.asarray, particles)
    zero, eves = jnp.zeros((), log_weights.dtype), jnp.arange(num_particles, dtype=jnp.int32)
    state = State(Cloud(particles, log_weights), eves, zero, zero, zero, jnp.int32(0), jnp.int32(0))
    return _weighed(options, state, jnp.asarray(False), eves, jnp.int32(0), None)


def following(options: Options, key, model, state: State, input) -> tuple[State, Step]:
    """Resample if need be, move, weigh by one more input."""
    key_resample, key_move = jax.random.split(jax.random.fold_in(key, state.num_steps))
    num = state.cloud.log_weights.shape[0]
    cloud, eves, resampled, ancestors, code = _resampled(options, key_resample, model, state, input)
    moved = _checks.pair("move of the model", model.move(key_move, cloud.particles, cloud.log_weights, input), 3)
    particles, increment, aux = moved[0], jnp.asarray(moved[1]), moved[2]
    _checks.check_vector("move of the model", "log_increment", increment, num)
    _checks.check_cloud("move of the model", particles, num, state.cloud.particles)
    log_weights = _children(cloud.log_weights, num) + increment.astype(cloud.log_weights.dtype)
    state = state._replace(cloud=Cloud(particles, log_weights), eves=eves)
    return _weighed(options, state, resampled, ancestors, code, aux)


def _rows(array, found, in_place: bool):
    """Rows of an array of the cloud; typed keys are none that a kernel knows."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array[found]
    return permute(array, found, in_place=in_place)


def _children(values, num: int):
    """`values` of M parents for their `num` children: child i is of parent i mod M."""
    return values if values.shape[0] == num else jnp.tile(values, num // values.shape[0])


def _resampled(options, key, model, state, input):
    """The cloud that moves: as it is, or resampled with the weights that make up for it."""
    cloud, num = state.cloud, state.eves.shape[0]
    num_out = num if options.num_resampled is None else options.num_resampled
    dtype, log_num = cloud.log_weights.dtype, jnp.log(jnp.asarray(num, cloud.log_weights.dtype))
    law, ess, code, possible = cloud.log_weights, state.ess, jnp.int32(0), jnp.asarray(True)
    if model.look_ahead is not None:
        eta = jnp.asarray(model.look_ahead(cloud.particles, cloud.log_weights, input))
        _checks.check_vector("look_ahead of the model", "log_eta", eta, num)
        eta = eta.astype(dtype)
        law = cloud.log_weights + eta
        largest, total, squares, trouble = log_weight_stats(law)
        possible = trouble & (ALL_ZERO | ANY_INFINITE) == 0
        ess = _weights.ess(total, squares, trouble)
        code = _weights.code(trouble) | _unevenness(cloud.log_weights, eta)
        law = law - jnp.where(possible, _weights.log_total(largest, total) - log_num, 0)
    law = jnp.where(jnp.isnan(law), -jnp.inf, law)  # of mean weight 1
    proposal = law
    if options.gradient == "soft":
        share = options.soft_share.astype(dtype)
        proposal = jnp.logaddexp(law + jnp.log(share), jnp.log1p(-share))
    threshold = options.ess_threshold.astype(dtype)
    wanted = possible & ((ess < threshold * num) | (threshold >= 1))

    def again():
        given = key, jax.lax.stop_gradient(proposal), num_out
        if isinstance(options.resampler, Informed):
            found = options.resampler.function(*given, cloud.particles, input)
        else:
            found = options.resampler(*given)
        if jnp.shape(found) != (num_out,) or not jnp.issubdtype(jnp.result_type(found), jnp.integer):
            got = f"{jnp.result_type(found)}{list(jnp.shape(found))}"
            raise TypeError(f"smc.run: resampler must return int32[{num_out}] ancestors, got {got}")
        found = found.astype(jnp.int32)
        if options.in_place:
            found = settle(found)
        if options.gradient == "none" and model.look_ahead is None:
            weights = jnp.zeros(num_out, dtype)
        elif options.gradient == "stop_gradient":
            weights = cloud.log_weights[found] - jax.lax.stop_gradient(proposal[found])
        else:
            weights = cloud.log_weights[found] - proposal[found]
        particles = jax.tree.map(lambda a: _rows(a, found, options.in_place), cloud.particles)
        found = _children(found, num)
        return Cloud(particles, weights), state.eves[found], found

    def as_before():
        return cloud, state.eves, jnp.arange(num, dtype=jnp.int32)

    if isinstance(options.resampler, Transport):
        return _transported(options, key, state, wanted, code)

    if num_out != num:  # the model moves as many as a resampling leaves, so there is always one
        (particles, weights), eves, ancestors = again()
        new = Cloud(particles, jnp.where(possible, weights, 0))
        return new, eves, jnp.asarray(True), ancestors, code
    new, eves, ancestors = jax.lax.cond(wanted, again, as_before)
    return new, eves, wanted, ancestors, code


def _transported(options, key, state, wanted, code):
    """The cloud made by a transport where one is wanted; all descend from particle 0, which says that none is known."""

    def again():
        particles, log_weights, trouble = transported(options.resampler, key, state.cloud)
        return Cloud(particles, log_weights), jnp.zeros_like(state.eves), trouble

    new, eves, trouble = jax.lax.cond(wanted, again, lambda: (state.cloud, state.eves, jnp.int32(0)))
    return new, eves, wanted, jnp.arange(state.eves.shape[0], dtype=jnp.int32), code | trouble


def _unevenness(log_weights, eta):
    """The notice that a look-ahead differs too much between particles, by its variance under the weights."""
    weights = jnp.exp(log_weights) / log_weights.size
    usable = jnp.isfinite(eta) & (weights > 0)
    weights, eta = jnp.where(usable, weights, 0), jnp.where(usable, eta, 0)
    mean = jnp.sum(weights * eta)
    return status.flag(jnp.sum(weights * (eta - mean) ** 2) > _LARGEST_VARIANCE, UNEVEN_LOOK_AHEAD)


def _weighed(options, state, resampled, ancestors, code, aux) -> tuple[State, Step]:
    """Add the mean weight to log Z and divide by it; tell of weights that hold no law."""
    particles, log_weights = state.cloud
    largest, total, squares, trouble = log_weight_stats(log_weights)
    good = trouble & (ALL_ZERO | ANY_INFINITE) == 0
    log_num = jnp.log(jnp.asarray(log_weights.shape[0], log_weights.dtype))
    mean = _weights.log_total(largest, jnp.where(good, total, 1)) - log_num
    increment = jnp.where(trouble & ANY_INFINITE != 0, jnp.nan, mean)
    clean = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    log_weights = jnp.where(good, clean - jnp.where(good, mean, 0), 0)
    ess = jnp.where(good, _weights.ess(total, squares, trouble), 0)
    code = code | _weights.code(trouble)
    log_z, remainder = _two_sum(state.log_z, increment + state.remainder)
    cloud = Cloud(particles, log_weights)
    # Weights without a law were replaced by equal ones: the cloud goes on, unresampled.
    going_on = jnp.where(good, ess, log_weights.shape[0])
    merged = state.status | code
    state = State(cloud, state.eves, log_z, remainder, going_on, state.num_steps + 1, merged)
    statistics = None
    if options.statistics is not None:
        statistics = options.statistics(particles, jnp.exp(log_weights) / log_weights.shape[0])
    kept = {"particles": particles, "log_weights": log_weights, "ancestors": ancestors, "aux": aux}
    kept = {name: value for name, value in kept.items() if name in options.store}
    return state, Step(increment, ess, resampled, code, statistics, **kept)


def _two_sum(a, b):
    """a + b rounded, and what the rounding cut off (Knuth); 0 where the sum is not finite."""
    total = a + b
    part = total - a
    rest = (a - (total - part)) + (b - part)
    finite = jnp.isfinite(total)
    return total, jax.lax.stop_gradient(jnp.where(finite, rest, 0))


__all__ = ["Cloud", "State", "Step"]
