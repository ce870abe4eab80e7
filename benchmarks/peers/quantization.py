"""Qwix, Keras on JAX, SciPy's Hadamard matrix, and the published arithmetic of QuEST in NumPy."""

import os

import numpy as np

# alpha of the published code, for 1 to 8 bits: the grid alpha * linspace(-1, 1, 2**bits)
_ALPHA = (
    0.7978845587, 1.4935346200, 2.0510683541, 2.5139305786, 2.9160938835, 3.2765972826, 3.6010497188, 3.8849386788,
)  # fmt: skip


def quest(x, bits):
    """Rows of numbers that are transformed already: the values of the published forward pass, and what it masks."""
    count, one = 2**bits, np.float32(1)

    def run():
        sigma = np.sqrt(np.mean(x**2, axis=-1, keepdims=True, dtype=np.float32))
        scale = np.float32(_ALPHA[bits - 1]) * sigma + np.float32(1e-8)
        step = 2 * scale / np.float32(count - 1)
        clipped = np.clip(x, -scale, scale)
        values = np.round(clipped / step + one / 2) * step - step / 2
        trust = np.abs(values - x) <= np.float32(_ALPHA[bits - 1] / (count - 1)) * sigma
        return values, trust, np.round(values / step - one / 2).astype(np.int8), step

    return run


def hadamard(x, block):
    """The transform of blocks as one product with SciPy's matrix."""
    from scipy.linalg import hadamard as matrix

    table = (matrix(block) / np.sqrt(block)).astype(x.dtype)
    shape = (*x.shape[:-1], x.shape[-1] // block, block)
    return lambda: (x.reshape(shape) @ table).reshape(x.shape)


def qwix(w, bits):
    """Codes and scales of kernels (in, out), one scale for each output."""
    import jax.numpy as jnp
    from qwix import quantize

    def run(w):
        q = quantize(w, {4: jnp.int4, 8: jnp.int8}[bits], channelwise_axes=[1], calibration_method="absmax")
        return q.qvalue.astype(jnp.int8), q.scale

    return run, jnp.asarray(w)


def qwix_int4(w):
    """The stored array of int4, and its bytes as NumPy counts them."""
    import jax.numpy as jnp
    from qwix import quantize

    stored = quantize(jnp.asarray(w), jnp.int4, channelwise_axes=[1]).qvalue
    return lambda: np.asarray(stored.nbytes)


def keras_pack(codes):
    """Two codes of four bits in a byte along axis 0."""
    os.environ["KERAS_BACKEND"] = "jax"
    from keras.quantizers import pack_int4

    return lambda: np.asarray(pack_int4(codes, axis=0)[0])
