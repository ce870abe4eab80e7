r"""Resampling: which of N weighted particles each of M equally weighted ones copies.

A resampler is ``(key, log_weights, num_out) -> ancestors`` with $E[O_i] = M W_i$ for the number $O_i$ of copies of
particle i, $W$ the normalised weights, and $\sum_i O_i = M$. Ancestors come out sorted, so places are not
exchangeable: who needs independent draws in independent order asks `multinomial` for them, or permutes.

All stand on the exact running sums of `pallas_kernels.resample`: at ten million particles in float32 a zero weight has
no offspring, and a systematic count differs from $M W_i$ by less than one. If no weight is positive, or one is
infinite, place k copies particle k mod N; a NaN counts as zero. The statuses are those of the caller, `smc.run`.

==================  =====================================  =========================================================
scheme              offspring                              remarks
==================  =====================================  =========================================================
systematic          floor or ceil of M W_i                 the default; least noise in practice, one uniform number
ssp                 floor or ceil of M W_i                 as little noise, consistent in any order of the particles
stratified          less than 2 from M W_i
residual            at least floor of M W_i
multinomial         binomial                               the yardstick; the most noise
==================  =====================================  =========================================================

References: R. Douc, O. Cappe, E. Moulines, ISPA 2005, 64-69 (comparison); M. Gerber, N. Chopin, N. Whiteley, Ann.
Statist. 47 (2019), 2236-2260 (ssp); C. Andrieu, A. Doucet, R. Holenstein, J. R. Statist. Soc. B 72 (2010), 269-342
(conditional).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry
from jaxsci.core.keys import as_typed_key, unrolled
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Size
from jaxsci.smc._search import search
from jaxsci.smc._weights import as_log_weights, shift
from pallas_kernels import resample
from pallas_kernels.log_weight_stats import ALL_ZERO, ANY_INFINITE, log_weight_stats
from pallas_kernels.resample import ancestors, prefix


def _checked(name, key, log_weights, num_out):
    name = f"smc.resamplers.{name}"
    num_out = check_size(name, "num_out", num_out)
    return as_typed_key(key, name), as_log_weights(name, log_weights), num_out


def _weights(log_weights):
    """Weights of which the largest is 1, all 1 where the log-weights hold no law, and whether they do."""
    largest, _, _, trouble = log_weight_stats(log_weights)
    good = trouble & (ALL_ZERO | ANY_INFINITE) == 0
    clean = jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights)
    return jnp.where(good, jnp.exp(clean - shift(largest)), 1), good


def _or_in_turn(good, found, num_in, num_out):
    """The ancestors found, or 0, 1, ..., N - 1, 0, 1, ... where there was no law."""
    in_turn = jnp.arange(num_out, dtype=jnp.int32)
    return jnp.where(good, found, in_turn % num_in if num_out > num_in else in_turn).astype(jnp.int32)


def systematic(key: KeyArray, log_weights: Float[ArrayLike, " N"], num_out: Size) -> Int[Array, " M"]:
    r"""One uniform number u for all: place k copies the particle whose cell $[P_{i-1}, P_i)$ holds k + u.

    Args:
        key: one typed key.
        log_weights: of N particles, unnormalised, traced.
        num_out: M, static, below 2^30.

    Returns:
        Sorted ancestors. No gradient: they are integers.

    Raises:
        ValueError: `log_weights` is no vector, or `num_out` is no int >= 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.resamplers.systematic(jax.random.key(0), jnp.log(jnp.array([0.0, 1.0, 3.0])), 4))
        [1 2 2 2]

    References: J. Carpenter, P. Clifford, P. Fearnhead, IEE Proc. Radar Sonar Navig. 146 (1999), 2-7.
    """
    return _systematic(*_checked("systematic", key, log_weights, num_out))


@eqx.filter_jit
def _systematic(key, log_weights, num_out):
    return resample(log_weights, jax.random.uniform(unrolled(key)), num_out)


def stratified(key: KeyArray, log_weights: Float[ArrayLike, " N"], num_out: Size) -> Int[Array, " M"]:
    r"""A uniform number for each place: place k copies the particle whose cell $[P_{i-1}, P_i)$ holds k + u_k.

    Arguments, result and errors as `systematic`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.resamplers.stratified(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4))
        [0 0 1 2]

    References: G. Kitagawa, J. Comput. Graph. Statist. 5 (1996), 1-25.
    """
    return _stratified(*_checked("stratified", key, log_weights, num_out))


@eqx.filter_jit
def _stratified(key, log_weights, num_out):
    weights, good = _weights(log_weights)
    whole, fraction = prefix(weights, num_out)
    points = jax.random.uniform(unrolled(key), (num_out,))
    ends = whole + (fraction > points[jnp.minimum(whole, num_out - 1)])
    return _or_in_turn(good, ancestors(ends, num_out), log_weights.size, num_out)


def multinomial(
    key: KeyArray, log_weights: Float[ArrayLike, " N"], num_out: Size, *, ordered: bool = True
) -> Int[Array, " M"]:
    """M independent draws from the weights.

    Args:
        key, log_weights, num_out: as for `systematic`.
        ordered: sorted ancestors, from uniform order statistics in linear time. False gives the draws in the order in
            which they fell, as proposals of a Markov chain must be. Static.

    Returns:
        Ancestors. No gradient.

    Raises:
        ValueError: as for `systematic`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.resamplers.multinomial(jax.random.key(0), jnp.log(jnp.array([0.0, 1.0, 0.0])), 4))
        [1 1 1 1]
    """
    return _multinomial(*_checked("multinomial", key, log_weights, num_out), bool(ordered))


@eqx.filter_jit
def _multinomial(key, log_weights, num_out, ordered):
    weights, good = _weights(log_weights)
    whole, fraction = prefix(weights, num_out)
    if ordered:  # partial sums of exponential spacings are distributed as sorted uniform numbers
        points = prefix(jax.random.exponential(unrolled(key), (num_out + 1,)), num_out)
        points = points[0][:-1], points[1][:-1]
    else:
        points = _uniform_points(key, num_out, num_out)
    return _or_in_turn(good, search(whole, fraction, *points), log_weights.size, num_out)


def _uniform_points(key, num, high):
    """`num` uniform points of [0, high) as whole and fraction: finer than one float32 could be."""
    first, second = jax.random.split(unrolled(key))
    return jax.random.randint(first, (num,), 0, high, jnp.int32), jax.random.uniform(second, (num,))


def _shares(weights, num_out):
    """M W_i as floor and rest, from differences of running sums, so that they add up to M exactly."""
    whole, fraction = prefix(weights, num_out)
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), whole[:-1]])
    rest = fraction - jnp.concatenate([jnp.zeros(1, fraction.dtype), fraction[:-1]])
    return whole - before - (rest < 0), jnp.where(rest < 0, rest + 1, rest)


def residual(key: KeyArray, log_weights: Float[ArrayLike, " N"], num_out: Size) -> Int[Array, " M"]:
    r"""$\lfloor M W_i \rfloor$ copies of each, the places left by independent draws from what the floors cut off.

    Arguments, result and errors as `systematic`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.resamplers.residual(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4))
        [0 0 1 2]

    References: J. S. Liu, R. Chen, J. Amer. Statist. Assoc. 93 (1998), 1032-1044.
    """
    return _residual(*_checked("residual", key, log_weights, num_out))


@eqx.filter_jit
def _residual(key, log_weights, num_out):
    weights, good = _weights(log_weights)
    counts, rest = _shares(weights, num_out)
    left = num_out - jnp.sum(counts, dtype=jnp.int32)
    drawn = search(*prefix(rest, num_out), *_uniform_points(key, num_out, num_out))
    counts = counts.at[drawn].add((jnp.arange(num_out) < left).astype(jnp.int32))
    found = ancestors(jnp.cumsum(counts, dtype=jnp.int32), num_out)
    return _or_in_turn(good, found, log_weights.size, num_out)


def ssp(key: KeyArray, log_weights: Float[ArrayLike, " N"], num_out: Size) -> Int[Array, " M"]:
    r"""Srinivasan's sampling process: floors, and the fractional parts fight in pairs until each is 0 or 1.

    Of two with parts a and b, if a + b < 1 one takes a + b and the other gets nothing; else one gets a copy and the
    other keeps a + b - 1; the odds keep both means. The fights are held on a binary tree, so there are log2 N rounds.

    Arguments, result and errors as `systematic`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> print(smc.resamplers.ssp(jax.random.key(0), jnp.log(jnp.array([0.5, 0.25, 0.25])), 4))
        [0 0 1 2]

    References: M. Gerber, N. Chopin, N. Whiteley, Ann. Statist. 47 (2019), 2236-2260, section 3.4; the tree is ours:
    unbiasedness is tested, their bound of the variance is proved for the sequential order alone.
    """
    return _ssp(*_checked("ssp", key, log_weights, num_out))


@eqx.filter_jit
def _ssp(key, log_weights, num_out):
    size = log_weights.size
    weights, good = _weights(log_weights)
    counts, part = _shares(weights, num_out)
    padded = 1 << (size - 1).bit_length()
    part = jnp.concatenate([part, jnp.zeros(padded - size, part.dtype)])
    index = jnp.minimum(jnp.arange(padded, dtype=jnp.int32), size - 1)
    uniform = jax.random.uniform(unrolled(key), (padded,))
    while index.size > 1:
        half = index.size // 2
        draw, uniform = uniform[:half], uniform[half:]
        (i, j), (a, b) = (x.reshape(half, 2).T for x in (index, part))
        both = a + b
        crowded = both >= 1
        # The winner of a + b < 1 goes on with all; the loser of a + b >= 1 goes on with what is over.
        odds = jnp.where(crowded, (1 - b) / (2 - both), a / jnp.where(both > 0, both, 1))
        first = draw < odds
        counts = counts.at[jnp.where(first, i, j)].add(crowded.astype(jnp.int32))
        index, part = jnp.where(first ^ crowded, i, j), jnp.where(crowded, both - 1, both)
    counts = counts.at[index].add((part > 0.5).astype(jnp.int32))  # a whole number up to rounding
    return _or_in_turn(good, ancestors(jnp.cumsum(counts, dtype=jnp.int32), num_out), size, num_out)


def conditional_systematic(
    key: KeyArray,
    log_weights: Float[ArrayLike, " N"],
    num_out: Size,
    *,
    pivot: Int[ArrayLike, ""],
    slot: Int[ArrayLike, ""],
) -> Int[Array, " M"]:
    """Systematic resampling given that place `slot` copies particle `pivot`, as conditional SMC needs it.

    The law is that of systematic ancestors turned around by a uniform number of places, given the ancestor at `slot`.

    Args:
        key, log_weights, num_out: as for `systematic`.
        pivot: the particle that survives, traced; its weight should be positive.
        slot: the place that copies it, traced.

    Returns:
        Ancestors, not sorted, with ``ancestors[slot] == pivot`` whatever the weights. No gradient.

    Raises:
        ValueError: as for `systematic`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> log_weights = jnp.log(jnp.array([0.1, 0.2, 0.7]))
        >>> ancestors = smc.resamplers.conditional_systematic(jax.random.key(0), log_weights, 4, pivot=0, slot=0)
        >>> print(int(ancestors[0]), ancestors.shape)
        0 (4,)

    References: N. Chopin, S. S. Singh, Bernoulli 21 (2015), 1855-1883, section 5.2.
    """
    checked = _checked("conditional_systematic", key, log_weights, num_out)
    return _conditional(*checked, jnp.asarray(pivot, jnp.int32), jnp.asarray(slot, jnp.int32))


@eqx.filter_jit
def _conditional(key, log_weights, num_out, pivot, slot):
    size = log_weights.size
    side, offset, which = jax.random.uniform(unrolled(key), (3,))
    weights, good = _weights(jnp.roll(log_weights, -pivot))
    whole, fraction = prefix(weights, num_out)
    floor, rest = whole[0], fraction[0]
    # The number of copies is floor + 1 for u below the rest, else floor: u has a density in proportion to it.
    below = side * (floor + rest) < rest * (floor + 1)
    u = jnp.where(below, rest * offset, rest + (1 - rest) * offset)
    ends = whole + (fraction > u)
    copies = jnp.maximum(ends[0], 1)
    chosen = jnp.minimum((which * copies).astype(jnp.int32), copies - 1)
    found = (_or_in_turn(good, ancestors(ends, num_out), size, num_out) + pivot) % size
    return jnp.roll(found, slot - chosen).at[slot].set(pivot)


__all__ = ["conditional_systematic", "multinomial", "residual", "ssp", "stratified", "systematic"]

entry.guard(globals(), "systematic")
