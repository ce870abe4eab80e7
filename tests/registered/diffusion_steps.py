"""Entries of jaxsci.diffusion: hooks, dense output and adaptive steps."""

import jax
import jax.numpy as jnp
import numpy as np

import contracts
from contracts import Builder, Compiled
from jaxsci import diffusion
from jaxsci.diffusion import adaptive, dense, grids, hooks, rules
from registered.diffusion import LAMS, VP, alpha_sigma, guided, numbers


def _data_hook(build, num):
    """A hook of `num` parameters applied to one prediction."""

    def make(key, dtype):
        def run(data, *parameters):
            return build(*parameters)(data, data, jnp.asarray(0.5, data.dtype), key)

        keys = jax.random.split(key, num + 1)
        parameters = (contracts.uniform(k, (), dtype, 0.5, 0.9) for k in keys[1:])
        return run, (2 * contracts.normal(keys[0], (5,), dtype), *parameters)

    return Compiled(make, grad=tuple(range(num + 1)))


def _replace(key, dtype):
    def run(key, x, known, mask):
        return hooks.replace_known(known, mask, VP)(x, jnp.asarray(0.5, x.dtype), key)

    return run, (key, contracts.normal(key, (3,), dtype), *numbers(key, dtype, 2))


def _compose(low, high):
    return hooks.compose(hooks.clip(low), hooks.inpaint(high, 0.5))


def _dense_outputs(lams):
    """First order to points of two intervals: alpha_t D + sigma_t eps."""
    points = dense.outputs(rules.ddim(), grids.at_lams(VP, LAMS), lams)
    return points.index, points.rows.data, points.rows.noise


def _dense_truth(lams):
    alpha, sigma = alpha_sigma(lams)
    return np.asarray([0, 3]), alpha[:, None], sigma[:, None]


def _dense_evaluate(key, dtype):
    points = dense.outputs(rules.multistep(2), grids.at_lams(VP, LAMS), [-0.8, 0.9])

    def run(x, data, noise):
        return dense.evaluate(points, diffusion.Trajectory(x, data, noise))

    keys = jax.random.split(key, 3)
    return run, tuple(contracts.normal(k, (n, 3), dtype) for k, n in zip(keys, (5, 4, 4)))


def _adaptive(key, dtype):
    def run(scale, x_T, w):
        result = adaptive.sample(
            guided(scale), VP, x_T, cond=0.5, guidance_scale=w, order=2, t_max=0.8, t_min=0.2, max_steps=8
        )
        return result.value, result.status

    scale, w = numbers(key, dtype, 2)
    return run, (scale, contracts.normal(key, (3,), dtype), w)


R = "jaxsci.diffusion."
ENTRIES = {
    R + "hooks.clip": _data_hook(hooks.clip, 1),
    R + "hooks.compose": _data_hook(_compose, 2),
    R + "hooks.dynamic_threshold": _data_hook(hooks.dynamic_threshold, 1),
    R + "hooks.inpaint": _data_hook(hooks.inpaint, 2),
    R + "hooks.replace_known": Compiled(_replace, grad=(1, 2, 3)),
    R + "dense.outputs": Builder(lambda: (_dense_outputs, (np.asarray([-1.5, 1.0]),)), _dense_truth),
    R + "dense.evaluate": Compiled(_dense_evaluate, grad=(0, 1, 2)),
    R + "adaptive.sample": Compiled(_adaptive),
}
