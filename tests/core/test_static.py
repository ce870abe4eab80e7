"""Functions that are made anew at each call: what that costs is told once, and only then."""

import functools
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import diffusion, linear
from jaxsci.core import static


def _ask(function):
    return static.as_partial(function, "sample", "denoiser")


def test_a_function_made_anew_a_hundred_times_is_told_once():
    def made(scale):
        return lambda x: scale * x

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for k in range(250):
            _ask(made(k))
    (told,) = caught
    text = str(told.message)
    assert "sample: denoiser was 100 different functions" in text and __file__ in text and "Partial" in text
    assert f"line {made.__code__.co_firstlineno + 1} of" in text


def test_what_is_compiled_once_is_not_told():
    def scaled(k, x):
        return k * x

    same = lambda x: x  # noqa: E731
    for k in range(250):  # warnings are errors here
        _ask(same)
        _ask(Partial(scaled, jnp.float32(k)))
        _ask(functools.partial(scaled, 2.0))  # no line of source to name


def test_entry_points_count_what_they_are_given():
    def operator(k):
        return linear.operators.matrix_free(lambda x: k * x, jnp.ones(2))

    with pytest.warns(UserWarning, match="matrix_free: mv was 100 different functions"):
        for _ in range(100):
            operator(2.0)


def test_a_bare_denoiser_made_anew_is_counted(monkeypatch):
    monkeypatch.setattr(static, "_MANY", 2)
    table = diffusion.solvers.ddim(diffusion.grids.logsnr(diffusion.schedules.vp_linear(), 2))
    with pytest.warns(UserWarning, match=r"diffusion\.sample: denoiser was 2 different functions"):
        for _ in range(2):
            diffusion.sample(None, lambda x, t, cond, w: (0 * x, x), table, np.zeros(1, np.float32))
