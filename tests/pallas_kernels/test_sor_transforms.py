"""`sor` under jit, vmap, scan, grad and checkpoint, against the same sweeps written with masks and derived by JAX."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ladder
from pallas_kernels import _compat, sor
from pallas_kernels.sor import arg_specs, tpu

INTERPRETED = ("interpret", "tpu_interpret")
SHAPE = (5, 6)
SWEEPS = 3
BOTH = ("parallel", "parallel")
system = arg_specs.system
value = functools.partial(sor, num_sweeps=SWEEPS, implementation="reference")


def masked(u, b, coefficients, omega, first="red"):
    """The sweeps on the whole grid, every other cell thrown away."""
    rows, cols = u.shape
    if coefficients.ndim == 1:
        coefficients = jnp.broadcast_to(coefficients[:, None, None], (5, rows, cols))
    d, n, s, w, e = coefficients
    red = (jnp.arange(rows)[:, None] + jnp.arange(cols)[None, :]) % 2 == 0
    safe = jnp.where(d == 0, 1.0, d)

    def half(u, colour):
        p = jnp.pad(u, 1)
        r = b - d * u - n * p[:-2, 1:-1] - s * p[2:, 1:-1] - w * p[1:-1, :-2] - e * p[1:-1, 2:]
        return u + jnp.where(colour & (d != 0), omega * r / safe, 0), None

    order = (red, ~red) if first == "red" else (~red, red)
    return jax.lax.scan(half, u, jnp.stack(order * SWEEPS))[0]


def _ours(u, b, coefficients, omega, **static):
    return value(u, b, coefficients, omega, **static).value


def _score(f):
    """A function of all arguments that weighs every cell differently and is not linear in the value."""
    return lambda *args: jnp.sum(jnp.sin(f(*args) + jnp.arange(args[0].size, dtype=args[0].dtype).reshape(SHAPE)))


# --- gradient ----------------------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.parametrize(("variable", "first"), [(False, "red"), (True, "black")])
def test_gradients_equal_those_of_masked_sweeps(variable, first, key):
    u, b, coefficients = system(key, SHAPE, variable, jnp.float64)
    if variable:  # a cell that is never relaxed
        coefficients = coefficients.at[0, 2, 3].set(0.0)
    args = (u, b, coefficients, jnp.float64(1.3))
    ours, theirs = (_score(functools.partial(f, first=first)) for f in (_ours, masked))
    got, expected = (jax.jit(jax.grad(f, (0, 1, 2, 3)))(*args) for f in (ours, theirs))
    assert all(bool(np.isfinite(g).all()) for g in got)
    ladder.assert_same(got, expected, 1e-13)


@pytest.mark.slow
@pytest.mark.x64
def test_second_derivatives_equal_those_of_masked_sweeps(key):
    args = (*system(key, SHAPE, False, jnp.float64), jnp.float64(1.3))

    def mixed(f):
        """Slope in (b, matrix, omega) of one number made of the gradient in u and b."""
        inner = jax.grad(_score(f), (0, 1))
        return jax.grad(lambda *a: sum(jnp.sum(jnp.cos(g)) for g in inner(*a)), (1, 2, 3))

    ladder.assert_same(jax.jit(mixed(_ours))(*args), jax.jit(mixed(masked))(*args), 1e-12)


def test_gradient_in_u_and_b_keeps_no_sweeps(key):
    args = (*system(key, SHAPE, False), jnp.float32(1.3))

    def keeps(which):
        slopes = jax.grad(lambda *a: jnp.sum(jnp.sin(value(*a, num_sweeps=7).value)), which)
        return "f32[7," in jax.jit(slopes).lower(*args).compile().as_text()

    assert keeps((2,)) and not keeps((0, 1)), "the states of 7 sweeps are kept for the matrix alone"


def test_residuals_are_constants_and_forward_mode_raises(key):
    args = (*system(key, SHAPE, False), jnp.float32(1.3))
    slopes = jax.grad(lambda *a: jnp.sum(value(*a, residuals=True).residuals), (0, 1, 2, 3))(*args)
    assert not any(bool(jnp.any(g)) for g in slopes)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda u: _ours(u, *args[1:]), args[:1], args[:1])


def test_gradient_of_half_precision_keeps_it(key):
    u, b, coefficients, omega = arg_specs.make(key, "half_precision")
    slope = jax.grad(lambda b: jnp.sum(_ours(u, b, coefficients, omega).astype(jnp.float32)))(b)
    assert slope.dtype == jnp.bfloat16 and slope.shape == b.shape


# --- transformations ---------------------------------------------------------------------------------------


def _over_omega(f):
    return jax.vmap(f, (None, None, None, 0))


def _over_systems_and_omega(f):
    return jax.vmap(_over_omega(f), (0, 0, None, None))


def _scan(f):
    def loop(u, b, coefficients, omegas):
        return jax.lax.scan(lambda u, omega: (f(u, b, coefficients, omega), jnp.sum(u)), u, omegas)

    return loop


def _grad_of_scan(f):
    return jax.grad(lambda *args: jnp.sum(jnp.sin(_scan(f)(*args)[0])), (0, 1))


TRANSFORMED = {  # of a function of (u, b, coefficients, omega); extra axes of u and b, of omega; a matrix that varies
    "vmap of vmap": (_over_systems_and_omega, (2,), (3,), False),
    "scan": (_scan, (), (2,), False),
    "vmap of grad": (lambda f: jax.vmap(jax.grad(_score(f), (0, 1)), (0, 0, None, None)), (2,), (), True),
    "grad of vmap": (lambda f: jax.grad(lambda *a: jnp.sum(jnp.sin(_over_omega(f)(*a))), (0, 3)), (), (3,), False),
    "grad of checkpoint": (lambda f: jax.grad(_score(jax.checkpoint(f)), (0, 1)), (), (), False),
    "grad of scan": (_grad_of_scan, (), (2,), False),
}

# What the kernels add of their own are batching rules, with and without arrays that all lanes share.
CASES = [(name, "reference") for name in TRANSFORMED]
CASES += [(name, rung) for name in ("vmap of vmap", "vmap of grad") for rung in INTERPRETED]


@pytest.mark.parametrize(("name", "implementation"), [*CASES, ("scan", None)])
def test_transformations_equal_those_of_masked_sweeps(name, implementation, key):
    transform, lead, lanes, variable = TRANSFORMED[name]
    u, b, coefficients = system(key, (*lead, *SHAPE), variable)
    args = (u, b, coefficients, jnp.linspace(1.0, 1.9, lanes[0]) if lanes else jnp.float32(1.3))
    got = jax.jit(transform(functools.partial(_ours, implementation=implementation)))(*args)
    # The slope of u is exact to the rounding of its cotangent, and sweeps have damped it by 100 ("grad of scan").
    ladder.assert_same(got, jax.jit(transform(masked))(*args), 1e-5)


def test_lanes_do_not_see_each_other(key):
    u, b, coefficients = system(key, (3, *SHAPE), False)
    run = jax.jit(jax.vmap(lambda u, b: value(u, b, coefficients, 1.3, residuals=True)))
    out, other = run(u, b), run(u.at[1].set(jnp.nan), b)
    assert [int(s) for s in other.status] == [0, 2, 0]
    ladder.assert_same(other.value[0::2], out.value[0::2])
    ladder.assert_same(other.residuals[0::2], out.residuals[0::2])


@pytest.mark.parametrize("platform", ladder.PLATFORMS)
@pytest.mark.parametrize("name", ["vmap of vmap", "vmap of grad"])
def test_transformations_lower(name, platform):
    transform, lead, lanes, variable = TRANSFORMED[name]
    shapes = ((*lead, *SHAPE), (*lead, *SHAPE), (5, *SHAPE) if variable else (5,), lanes)
    specs = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    ladder.check_lowers(transform(functools.partial(_ours, implementation=None)), specs, platform)


def test_tpu_kernel_is_free_of_races(key, monkeypatch):
    # The kernel is one grid step; several systems are several, by vmap, which that interpreter does not count.
    real = _compat.pltpu.CompilerParams
    monkeypatch.setattr(_compat.pltpu, "CompilerParams", lambda **given: real(**given | {"dimension_semantics": BOTH}))
    u, b, coefficients = system(key, (2, *SHAPE), False)

    def lanes(u, b, *, interpret):
        static = dict(num_sweeps=2, sums=True, first="red", interpret=interpret)
        return jax.jit(jax.vmap(lambda u, b: tpu.call(u, b, coefficients, jnp.float32(1.3), **static)))(u, b)

    ladder.check_races(lanes, (u, b))


def test_equal_shapes_compile_once(key):
    cases = [(*system(jax.random.fold_in(key, i), (4, 3), False), 1.0 + 0.1 * i) for i in range(3)]
    before = sys.modules["pallas_kernels.sor"]._compiled._cache_size()
    for case in cases:
        value(*case)
    assert sys.modules["pallas_kernels.sor"]._compiled._cache_size() == before + 1
    assert np.isfinite(np.asarray(value(*cases[0]).value)).all()
