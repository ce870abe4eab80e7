r"""Threefry-2x32 with its twenty rounds written out, as a generator that JAX's typed keys can name.

On a CPU JAX lowers threefry to a loop of five turns, each several passes over memory; written out, the rounds are one
vectorised pass. The numbers are those of ``threefry2x32`` bit for bit (under ``jax_threefry_partitionable``, its
default): the word of place n is made of the two halves of the block of counter n.

Reference: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import define_prng_impl

_ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)
_PARITY = np.uint32(0x1BD11BDA)
_WORDS = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}
_WRITTEN_OUT_FROM = 256  # measured: for one key and for eight lanes, alone and within normal draws


@jax.jit
def _hash(key, low):
    """The block of each counter (0, low): two words of 32 bits."""
    words = key[0], key[1], key[0] ^ key[1] ^ _PARITY
    x, y = jnp.broadcast_to(words[0], low.shape), low + words[1]
    for turn in range(5):
        for by in _ROTATIONS[turn % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(by)) | (y >> np.uint32(32 - by)))
        x = x + words[(turn + 1) % 3]
        y = y + (words[(turn + 2) % 3] + np.uint32(turn + 1))
    return x, y


def _counters(shape):
    """0, 1, ... in the order of memory. Not a reshaped range: this one can be split over devices."""
    strides = [np.uint32(math.prod(shape[axis + 1 :])) for axis in range(len(shape))]
    parts = [lax.broadcasted_iota(np.uint32, shape, axis) * stride for axis, stride in enumerate(strides)]
    return sum(parts, jnp.zeros(shape, np.uint32))


def _rolled(key):
    return jax.random.wrap_key_data(key, impl="threefry2x32")


def _seed(seed):
    return jax.random.key_data(jax.random.key(seed, impl="threefry2x32"))


# Keys and a few numbers are left to JAX's loop: of straight code XLA makes a copy for each reader, and two words that
# depend on two words double it at every further key.


def _split(key, shape):
    return jax.random.key_data(jax.random.split(_rolled(key), shape))


def _fold_in(key, data):
    return jax.random.key_data(jax.random.fold_in(_rolled(key), data))


@functools.partial(jax.jit, static_argnums=(1, 2))
def _bits(key, width, shape):
    if not _WRITTEN_OUT_FROM <= math.prod(shape) < 2**32:  # beyond, counters need more than 32 bits
        return jax.random.bits(_rolled(key), shape, _WORDS[width])
    return lax.platform_dependent(
        key, cpu=lambda key: _computed_once(key, width, shape), default=lambda key: _words(key, width, _counters(shape))
    )


def _computed_once(key, width, shape):
    """The words, handed out by a loop that writes the first two again: XLA fuses nothing through a loop, so that no
    word is computed once for each reader, while the pass that makes them is one and may be shared by threads."""
    num = math.prod(shape)

    def again(i, words):
        return lax.dynamic_update_index_in_dim(words, _words(key, width, i.astype(np.uint32)), i, 0)

    words = _words(key, width, lax.iota(np.uint32, num))
    return lax.fori_loop(np.int32(0), np.int32(2), again, words).reshape(shape)


def _words(key, width, counters):
    high, low = _hash(key, counters)
    if width == 64:
        return (high.astype(np.uint64) << np.uint64(32)) | low.astype(np.uint64)
    return (high ^ low).astype(_WORDS[width])


NAME = "threefry2x32 unrolled"
SPEC = define_prng_impl(
    key_shape=(2,), seed=_seed, split=_split, random_bits=_bits, fold_in=_fold_in, name=NAME, tag="fryu"
)
