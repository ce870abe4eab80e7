"""The process against dense NumPy, and what it does where a factorisation fails."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxsci
from jaxsci import gp
from jaxsci.core import status

K = gp.kernels
LENGTH, VARIANCE, NOISE = np.array([0.7, 1.2]), 1.3, 0.05
MASK = np.array([1, 1, 0, 1, 1, 1, 0, 1], bool)


def kernel(dtype=float):
    return K.scale(K.rbf(jnp.asarray(LENGTH, dtype)), jnp.asarray(VARIANCE, dtype))


def covariance(x, y):
    return VARIANCE * np.exp(-(((x[:, None] - y[None]) / LENGTH) ** 2).sum(-1) / 2)


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((8, 2)), rng.standard_normal(8), rng.standard_normal((4, 2))


def dense(x, y, xs, noise):
    """Posterior mean and covariance at xs and the log density of y."""
    gram = covariance(x, x) + noise * np.eye(len(x))
    cross = covariance(x, xs)
    mean = cross.T @ np.linalg.solve(gram, y)
    spread = covariance(xs, xs) - cross.T @ np.linalg.solve(gram, cross)
    return mean, spread, scipy.stats.multivariate_normal(np.zeros(len(x)), gram).logpdf(y)


@pytest.mark.x64
def test_posterior_equals_dense_algebra(data):
    x, y, xs = data
    process = gp.condition(kernel(), x, y, MASK, noise=NOISE)
    mean, spread, density = dense(x[MASK], y[MASK], xs, NOISE)
    joint = gp.joint(process, xs)
    np.testing.assert_allclose(joint.mean, mean, atol=1e-12)
    np.testing.assert_allclose(joint.covariance, spread, atol=1e-12)
    apart = gp.marginals(process, xs)
    np.testing.assert_allclose(apart.mean, mean, atol=1e-12)
    np.testing.assert_allclose(apart.variance, np.diagonal(spread), atol=1e-12)
    single = jax.vmap(gp.predict, (None, 0))(process, jnp.asarray(xs))
    np.testing.assert_allclose(single.mean, mean, atol=1e-12)
    np.testing.assert_allclose(single.variance, np.diag(spread), atol=1e-12)
    np.testing.assert_allclose(gp.log_marginal(process), density, rtol=1e-12)
    jaxsci.check(process)


@pytest.mark.x64
def test_dead_rows_change_nothing(data):
    """Whatever stands in them, NaN included, and wherever they are: bit for bit, gradients too."""
    x, y, xs = data

    @jax.jit
    def read(x, y):
        def value(length):
            process = gp.condition(K.rbf(length), x, y, MASK, noise=NOISE)
            return gp.log_marginal(process), gp.joint(process, xs)

        return jax.value_and_grad(value, has_aux=True)(jnp.asarray(0.8))

    first = read(x, y)
    x2, y2 = x.copy(), y.copy()
    x2[~MASK], y2[~MASK] = np.nan, np.inf
    chex.assert_trees_all_equal(first, read(x2, y2))
    short = gp.condition(kernel(), x[MASK], y[MASK], noise=NOISE)
    long = gp.condition(kernel(), x, y, MASK, noise=NOISE, size=11)
    np.testing.assert_allclose(gp.joint(long, xs).mean, gp.joint(short, xs).mean, atol=1e-14)
    np.testing.assert_allclose(gp.log_marginal(long), gp.log_marginal(short), rtol=1e-14)


@pytest.mark.x64
def test_append_equals_condition_on_everything(data):
    x, y, _ = data
    noise = np.linspace(0.05, 0.4, 8)
    grown = gp.condition(kernel(), x[:3], y[:3], MASK[:3], noise=noise[:3], jitter=1e-3, size=8)
    for i in range(3, 8):
        grown = gp.append(grown, x[i], y[i], noise=noise[i])
    # The last live row was the second, so the new rows follow it: rows 0, 1, then 3 ... 7.
    order = [0, 1, 3, 4, 5, 6, 7]
    whole = gp.condition(kernel(), x[order], y[order], noise=noise[order], jitter=1e-3, size=8)
    for name in ("x", "y", "mask", "chol", "alpha"):
        np.testing.assert_allclose(getattr(grown, name), getattr(whole, name), atol=1e-10, err_msg=name)
    assert int(grown.status) == 0
    # A row without a noise of its own takes that of `condition`.
    default = gp.append(gp.condition(kernel(), x[:2], y[:2], noise=NOISE, size=8), x[2], y[2])
    expected = gp.condition(kernel(), x[:3], y[:3], noise=NOISE, size=8)
    np.testing.assert_allclose(default.chol, expected.chol, atol=1e-12)


@pytest.mark.x64
def test_append_reports_and_changes_nothing_when_it_cannot(data):
    x, y, _ = data
    process = gp.condition(kernel(), x, y, noise=NOISE)
    full = gp.append(process, x[0], 1.0)
    assert int(full.status) == gp.FULL and "no room" in jaxsci.explain(full.status, "gp")
    room = gp.condition(kernel(), x[:7], y[:7], noise=NOISE, size=8)
    bad = [
        gp.append(room, at, value, noise=noise)
        for at, value, noise in ((x[0] * np.nan, 1.0, NOISE), (x[0], np.inf, NOISE), (x[0], 1.0, np.nan))
    ]
    for before, after in ((process, full), *((room, b) for b in bad)):
        chex.assert_trees_all_close(before._replace(status=0), after._replace(status=0), rtol=1e-7, atol=1e-13)
    assert [int(b.status) for b in bad] == [status.NONFINITE_INPUT] * 3


@pytest.mark.x64
def test_leave_one_out_equals_leaving_one_out(data):
    x, y, _ = data
    process = gp.condition(kernel(), x, y, MASK, noise=NOISE, jitter=0.01)
    found = gp.leave_one_out(process)
    for i in np.flatnonzero(MASK):
        rest = MASK.copy()
        rest[i] = False
        mean, spread, _ = dense(x[rest], y[rest], x[i : i + 1], NOISE + 0.01)
        np.testing.assert_allclose(found.mean[i], mean[0], atol=1e-11)
        np.testing.assert_allclose(found.variance[i], spread[0, 0], atol=1e-11)
    assert not np.any(np.asarray(found.mean)[~MASK])


@pytest.mark.x64
def test_derivatives_of_the_evidence_by_both_ways(data):
    """`log_marginal` through the factor, and the form that `fit` uses: values, slopes, and curvature by the first."""
    from jaxsci.gp._gp import evidence

    x, y, _ = (jnp.asarray(a) for a in data)

    def through_factor(u):
        process = gp.condition(K.scale(K.rbf(jnp.exp(u[0])), jnp.exp(u[1])), x, y, MASK, noise=jnp.exp(u[2]))
        return gp.log_marginal(process)

    def closed(u):
        mixed = K.scale(K.rbf(jnp.exp(u[0])), jnp.exp(u[1]))
        return evidence(mixed, x, y, jnp.asarray(MASK), jnp.exp(u[2]), jnp.asarray(0.0))[0]

    u = jnp.asarray([-0.3, 0.2, -2.0])
    values = [jax.jit(jax.value_and_grad(f)) for f in (through_factor, closed)]
    np.testing.assert_allclose(values[0](u)[0], values[1](u)[0], rtol=1e-12)
    np.testing.assert_allclose(values[0](u)[1], values[1](u)[1], rtol=1e-10)
    hessian = jax.jit(jax.hessian(through_factor))(u)
    for j in range(3):
        step = jnp.zeros(3).at[j].set(1e-5)
        differences = (values[1](u + step)[1] - values[1](u - step)[1]) / 2e-5
        np.testing.assert_allclose(hessian[j], differences, rtol=1e-6, atol=1e-7)
        difference = (values[1](u + step)[0] - values[1](u - step)[0]) / 2e-5
        np.testing.assert_allclose(values[1](u)[1][j], difference, rtol=1e-7)


def test_samples_have_the_posterior_covariance(data, key):
    x, y, xs = (np.asarray(a, np.float32) for a in data)
    process = gp.condition(kernel(np.float32), x, y, MASK, noise=NOISE)
    num = 20_000
    draws = jax.vmap(gp.sample, (0, None, None))(jax.random.split(key, num), process, jnp.asarray(xs))
    assert not np.any(draws.status)
    mean, spread, _ = dense(x[MASK].astype(float), y[MASK], xs.astype(float), NOISE)
    values = np.asarray(draws.value, float)
    deviation = np.sqrt(np.diag(spread))
    assert np.all(np.abs(values.mean(0) - mean) <= 5 * deviation / np.sqrt(num))
    # The variance of a product of two Gaussians with covariance S is S_ii S_jj + S_ij^2.
    error = np.sqrt((np.outer(np.diag(spread), np.diag(spread)) + spread**2) / num)
    assert np.all(np.abs(np.cov(values.T) - spread) <= 5 * error)
    # A sample at observed points without noise is the observation.
    sure = gp.sample(key, gp.condition(kernel(np.float32), x[:3], y[:3], noise=0.0), jnp.asarray(x[:3]))
    np.testing.assert_allclose(sure.value, y[:3], atol=0.02)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.x64)])
def test_rows_that_coincide_raise_the_jitter_and_say_so(dtype):
    x, y = jnp.zeros((8, 2), dtype), jnp.ones(8, dtype)
    process = gp.condition(kernel(dtype), x, y, noise=0.0)
    assert int(process.status) == gp.JITTERED and float(process.jitter) > 0
    mean, variance, code = gp.predict(process, jnp.zeros(2, dtype))
    np.testing.assert_allclose(mean, 1.0, atol=1e-3)
    assert float(variance) < 1e-3 and int(code) == gp.JITTERED
    grown = gp.append(gp.condition(kernel(dtype), x[:1], y[:1], noise=0.0, size=8), x[0], y[0])
    assert int(grown.status) == gp.JITTERED and bool(jnp.all(jnp.isfinite(grown.alpha)))
    slope = jax.grad(lambda v: gp.log_marginal(gp.condition(K.scale(kernel(dtype), v), x, y, noise=0.0)))
    chex.assert_tree_all_finite(slope(jnp.asarray(1.0, dtype)))


def test_what_cannot_be_factored_is_the_prior_and_says_so(data):
    x, y, _ = (np.asarray(a, np.float32) for a in data)
    negative = gp.condition(lambda x, y: -jnp.ones(()), x, y, noise=0.1)  # no covariance at all
    assert int(negative.status) == status.SINGULAR and not np.any(negative.mask)
    broken = jax.jit(lambda length: gp.condition(K.rbf(length), x, y, noise=0.1))(np.nan)
    assert int(broken.status) & status.SINGULAR
    for process in (negative, broken):
        chex.assert_tree_all_finite((process.chol, process.alpha, *gp.predict(process, x[0])[:2]))
    with pytest.raises(jaxsci.core.status.StatusError, match="singular"):
        jaxsci.check(negative)


def test_targets_of_any_size_are_solved_for_or_reported():
    """1e30 fits; K^-1 y of 1e37 against two rows that nearly coincide does not."""
    x = jnp.asarray([[0.0], [1.0], [2.0]])
    large, unit = (gp.condition(K.rbf(1.0), x, s * jnp.asarray([1.0, -1.0, 1.0]), noise=0.01) for s in (1e30, 1.0))
    np.testing.assert_allclose(large.alpha, 1e30 * np.asarray(unit.alpha), rtol=1e-5)
    close, y = jnp.asarray([[0.0], [1.0], [1.001]]), 1e37 * jnp.asarray([1.0, -1.0, 1.0])
    lost = gp.condition(K.rbf(1.0), close, y, noise=1e-5)
    assert int(lost.status) == status.NONFINITE_RESULT and not np.any(lost.alpha)
    grown = gp.append(gp.condition(K.rbf(1.0), close[:2], y[:2], noise=1e-5, size=3), close[2], y[2])
    assert int(grown.status) & status.NONFINITE_RESULT and bool(jnp.isfinite(grown.alpha).all())


def test_negative_jitter_is_reported_and_taken_as_none():
    x, y = jnp.asarray([[0.0], [1.0]]), jnp.ones(2)
    found, none = (gp.condition(K.rbf(1.0), x, y, noise=0.1, jitter=j) for j in (-0.05, 0.0))
    assert int(found.status) == status.OUT_OF_RANGE
    np.testing.assert_array_equal(found.alpha, none.alpha)


@pytest.mark.parametrize("kernel", [K.rbf, lambda length: K.matern(0.5, length), lambda length: K.matern(2.5, length)])
def test_slopes_at_degenerate_lengths_are_finite(kernel):
    """Without correlation the evidence is flat in the length, with full correlation too; in between it is not."""
    x, y = jnp.linspace(0, 1, 5)[:, None], jnp.asarray([0.0, 0.2, 0.5, 0.7, 0.8])
    slope = jax.jit(jax.vmap(jax.grad(lambda l: gp.log_marginal(gp.condition(kernel(l), x, y, noise=0.01)))))
    got = slope(jnp.asarray([1e-38, 1e-30, 1e-3, 1.0, 1e30]))
    np.testing.assert_array_equal(got[jnp.asarray([0, 1, 2, 4])], 0)
    assert float(got[3]) > 0.1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: K.rbf(-1.0), "kernels.rbf: length must be > 0, got -1.0"),
        (lambda: K.rbf(jnp.asarray([1.0, 0.0])), "length must be > 0"),
        (lambda: K.matern(1.5, np.nan), "kernels.matern: length"),
        (lambda: K.scale(K.rbf(1.0), -2.0), "kernels.scale: variance must be >= 0"),
        (lambda: K.constant(-2.0), "kernels.constant: variance"),
        (lambda: K.linear(-2.0), "kernels.linear: variance"),
    ],
)
def test_parameters_that_are_none_raise_where_they_are_known(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_live_row_that_is_not_finite_is_left_out_and_reported(data):
    x, y, xs = (np.asarray(a, np.float32) for a in data)
    y2 = y.copy()
    y2[2] = np.nan
    keep = np.arange(8) != 2
    process = gp.condition(kernel(np.float32), x, y2, noise=NOISE)
    assert int(process.status) == status.NONFINITE_INPUT
    np.testing.assert_array_equal(process.mask, keep)
    expected = gp.condition(kernel(np.float32), x, y, keep, noise=NOISE)
    np.testing.assert_array_equal(process.alpha, expected.alpha)
    lost = gp.predict(expected, np.full(2, np.nan, np.float32))
    assert int(lost.status) == status.NONFINITE_RESULT and float(lost.mean) == 0


def test_noise_that_is_no_variance_makes_its_row_dead_and_reaches_no_other(data):
    """One NaN and one negative among the noises: later rows get the mean of the others, and append still works."""
    x, y, xs = (np.asarray(a, np.float32) for a in data)
    noise = np.full(8, NOISE, np.float32)
    noise[2], noise[5] = np.nan, -0.5
    keep = ~np.isin(np.arange(8), (2, 5))
    process = gp.condition(kernel(np.float32), x, y, noise=noise, size=10)
    assert int(process.status) == status.NONFINITE_INPUT | status.OUT_OF_RANGE
    np.testing.assert_array_equal(process.mask[:8], keep)
    np.testing.assert_allclose(process.noise, NOISE, rtol=1e-6)
    grown = gp.append(process, xs[0], 0.3)
    assert int(grown.mask.sum()) == 7
    expected = gp.condition(
        kernel(np.float32), np.vstack([x[keep], xs[:1]]), np.append(y[keep], np.float32(0.3)), noise=NOISE
    )
    np.testing.assert_allclose(gp.predict(grown, xs[1]).mean, gp.predict(expected, xs[1]).mean, atol=1e-4)
    refused = gp.append(gp.condition(kernel(np.float32), x, y, noise=NOISE, size=10), xs[0], 0.3, noise=-0.5)
    assert int(refused.status) == status.OUT_OF_RANGE and int(refused.mask.sum()) == 8


def test_an_empty_process_is_the_prior_and_grows():
    process = gp.condition(K.rbf(1.0), jnp.zeros((0, 1)), jnp.zeros(0), noise=0.1, size=3)
    mean, variance, code = gp.predict(process, jnp.ones(1))
    assert (float(mean), float(variance), int(code)) == (0.0, 1.0, 0)
    process = gp.append(process, jnp.ones(1), 2.0)
    np.testing.assert_allclose(gp.predict(process, jnp.ones(1))[:2], [2 / 1.1, 1 - 1 / 1.1], rtol=1e-5)


def _process(x, y):
    return gp.condition(K.rbf(1.0), x, y, noise=1.0, size=4)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x, y: gp.condition(K.rbf(1.0), x, y[:, None], noise=1.0), r"y must have shape \(n,\)"),
        (lambda x, y: gp.condition(K.rbf(1.0), x[:2], y, noise=1.0), "x must have n = 3 rows"),
        (lambda x, y: gp.condition(K.rbf(1.0), (x, x[:2]), y, noise=1.0), r"x\[1\] must have n = 3 rows"),
        (lambda x, y: gp.condition(K.rbf(1.0), x, y, y, noise=1.0), "mask must be Bool"),
        (lambda x, y: gp.condition(K.rbf(1.0), x, y, noise=y[:2]), "noise must be a scalar"),
        (lambda x, y: gp.condition(K.rbf(1.0), x, y, noise=1.0, size=2), "size must be an int >= "),
        (lambda x, y: gp.condition(lambda a, b: a * b, x, y, noise=1.0), "kernel must give a scalar"),
        (lambda x, y: gp.predict(_process(x, y), x), "gp.predict: expected one input.*gp.marginals"),
        (lambda x, y: gp.predict(_process(x, y), 0.5), "gp.predict: expected one input"),
        (lambda x, y: gp.predict(_process(x, y), (x[0],)), "gp.predict: expected one input"),
        (lambda x, y: gp.joint(_process(x, y), x[:, :1]), "gp.joint: expected m inputs"),
        (lambda x, y: gp.joint(_process(x, y), x[0]), "gp.joint: expected m inputs"),
        (lambda x, y: gp.marginals(_process(x, y), x[0]), "gp.marginals: expected m inputs"),
        (lambda x, y: gp.sample(jax.random.key(0), _process(x, y), x[:, :1]), "gp.sample: expected m inputs"),
        (lambda x, y: gp.append(_process(x, y), 0.5, 1.0), "gp.append: expected one input"),
        (lambda x, y: gp.append(_process(x, y), x[0], y), "y and noise must be scalars"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.ones((3, 2)), jnp.ones(3))


@pytest.mark.bad_input
def test_untyped_key_raises():
    process = gp.condition(K.rbf(1.0), jnp.ones((1, 2)), jnp.ones(1), noise=1.0)
    with pytest.raises(TypeError, match="typed key"):
        gp.sample(jax.random.PRNGKey(0), process, jnp.ones((1, 2)))
