"""The one scan: counting, padding, batching, compilations, dtypes, hooks, gradients and trouble."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
import jaxsci
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import grids, hooks, interop, predictions, rules, solvers, tables
from jaxsci.diffusion.tables import Row, Step

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
X = PROBLEM.x_T[0]


def _labelled(x, t, cond):
    """A conditional model: the mixture, pulled towards cond."""
    return mixture._noise_model(PROBLEM.mixture, VP, x, t, None) - 0.3 * cond


GUIDED = predictions.denoiser(Partial(_labelled), VP, "epsilon", guidance="classifier_free", null=np.zeros(2))
COND = np.asarray([0.4, -0.2])


def _unipc(num_steps=6):
    return solvers.unipc(grids.logsnr(VP, num_steps))


def test_counts_are_model_calls():
    calls = []

    def counted(x, t, cond, w):
        jax.debug.callback(lambda: calls.append(1))
        return DENOISER(x, t, cond, w)

    table = tables.pad(_unipc(5), 9)
    result = diffusion.sample(None, counted, table, X)
    jax.effects_barrier()
    assert int(result.nfe) == 5 == len(calls) and result.nfe.dtype == jnp.int32
    calls.clear()
    result = diffusion.sample(None, counted, tables.analytic_first(table, 0.1), X)
    jax.effects_barrier()
    assert int(result.nfe) == 4 == len(calls)
    heun = diffusion.sample(None, DENOISER, solvers.heun(grids.with_zero(grids.logsnr(VP, 4))), X)
    assert int(heun.nfe) == 9


@pytest.mark.x64
def test_padding_changes_nothing(key):
    for table in (_unipc(), solvers.sde_dpm(grids.logsnr(VP, 6)), solvers.dpm_singlestep(grids.logsnr(VP, 2), order=3)):
        plain = diffusion.sample(key, DENOISER, table, X, save="trajectory")
        padded = diffusion.sample(key, DENOISER, tables.pad(table, 11), X, save="trajectory")
        np.testing.assert_array_equal(plain.value, padded.value)
        assert int(plain.nfe) == int(padded.nfe) == 6
        np.testing.assert_array_equal(padded.trajectory.x[:7], plain.trajectory.x)
        np.testing.assert_array_equal(padded.trajectory.x[7:], np.tile(plain.value, (5, 1)))
        assert not padded.trajectory.data[6:].any() and not padded.trajectory.noise[6:].any()


def test_one_compilation_for_all_calls_solvers_guidances_and_conditions():
    build = (solvers.ddim, solvers.unipc, solvers.deis)
    many = tables.unify([b(grids.logsnr(VP, n)) for b in build for n in range(5, 21)])
    diffusion.sample(None, GUIDED, many[0], X, cond=COND).value.block_until_ready()
    with contracts.count_compilations() as events:
        calls = [
            int(diffusion.sample(None, GUIDED, t, (1 + j) * X, cond=j * COND, guidance_scale=float(j)).nfe)
            for j, t in enumerate(many)
        ]
    assert not events and calls == 3 * list(range(5, 21))


@pytest.mark.x64
def test_tables_guidance_and_seeds_are_axes(key):
    """vmap over all of them equals the loop, and each entry depends on its own key alone."""
    stacked = tables.stack([solvers.sde_dpm(grids.logsnr(VP, n)) for n in (4, 6)])
    scales, keys = jnp.asarray([1.0, 2.5, 4.0]), jax.random.split(key, 3)

    def one(key, table, w):
        x = jax.random.normal(jax.random.fold_in(key, 99), (2,))
        return diffusion.sample(key, GUIDED, table, x, cond=COND, guidance_scale=w)

    batch = jax.vmap(jax.vmap(jax.vmap(one, (None, None, 0)), (None, 0, None)), (0, None, None))
    result = batch(keys, stacked, scales)
    assert result.value.shape == (3, 2, 3, 2)
    np.testing.assert_array_equal(result.nfe[:, 0], 4)
    for i, k in enumerate(keys):
        for j in range(2):
            table = jax.tree.map(lambda a, j=j: a[j], stacked)
            for m, w in enumerate(scales):
                np.testing.assert_allclose(result.value[i, j, m], one(k, table, w).value, rtol=1e-11)
    alone = batch(keys[1:2], stacked, scales)
    np.testing.assert_allclose(alone.value[0], result.value[1], rtol=1e-13)


def test_float32_follows_float64():
    """Tables are float64 on the host, so the device's precision costs its rounding alone."""
    assert not jax.config.jax_enable_x64
    grid = grids.logsnr(VP, 10)
    run = jax.jit(jax.vmap(lambda x, t: diffusion.sample(None, DENOISER, t, x).value, (0, None)))
    build = (solvers.unipc, solvers.dpm_multistep, lambda g: solvers.deis(g, variable="lam"))
    for table in tables.unify([b(grid) for b in build]):
        single = run(PROBLEM.x_T, table)
        assert single.dtype == jnp.float32
        predict = lambda x, i, t=table: mixture.predict(PROBLEM.mixture, x, t.alpha[i], t.sigma[i])  # noqa: E731
        error = np.abs(np.asarray(single) - mixture.plain_loop(table, predict, PROBLEM.x_T)[0])
        assert error.max() < 5e-5 and np.median(error) < 1e-6


def test_low_precision_keeps_its_dtype():
    x = jnp.asarray(X, jnp.bfloat16)
    result = diffusion.sample(None, DENOISER, _unipc(), x)
    assert result.value.dtype == jnp.bfloat16 and int(result.status) == 0
    wide = lambda value, *_: value.astype(jnp.float32)  # noqa: E731
    hooked = diffusion.sample(None, DENOISER, _unipc(), x, denoised_hook=wide, state_hook=wide)
    assert hooked.value.dtype == jnp.bfloat16 and int(hooked.status) == 0


@pytest.mark.x64
def test_gradients(key):
    """x_T, guidance scale, condition and the table's own numbers, against differences."""
    table = jax.tree.map(jnp.asarray, tables.pad(_unipc(5), 7))

    def value(x, w, cond, table):
        result = diffusion.sample(None, GUIDED, table, x, cond=cond, guidance_scale=w)
        return jnp.sum(jnp.asarray([1.0, -0.7]) * result.value)

    args = (jnp.asarray(X), jnp.asarray(2.0), jnp.asarray(COND), table)
    slopes = jax.jit(jax.grad(value, (0, 1, 2, 3), allow_int=True))(*args)
    jitted = jax.jit(value)
    for position in range(4):
        leaves, tree = jax.tree.flatten(args[position])
        keys = jax.random.split(jax.random.fold_in(key, position), len(leaves))
        floats = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]
        way = [jax.random.normal(k, a.shape) if f else None for k, a, f in zip(keys, leaves, floats)]

        def moved(h, position=position, leaves=leaves, way=way, tree=tree):
            new = [a if w is None else a + h * w for a, w in zip(leaves, way)]
            return jitted(*args[:position], jax.tree.unflatten(tree, new), *args[position + 1 :])

        got = sum(jnp.vdot(w, g) for w, g in zip(way, jax.tree.leaves(slopes[position])) if w is not None)
        np.testing.assert_allclose(got, (moved(1e-6) - moved(-1e-6)) / 2e-6, rtol=1e-4)


@pytest.mark.x64
def test_gradients_stay_finite_in_a_padded_batch_that_ends_without_noise():
    two = tables.unify([solvers.unipc(grids.with_zero(grids.logsnr(VP, n))) for n in (5, 8)])
    slope_of = jax.grad(lambda x, table: diffusion.sample(None, DENOISER, table, x).value.sum())
    slope = jax.vmap(slope_of, (None, 0))(jnp.asarray(X), tables.stack(two))
    np.testing.assert_allclose(slope, [slope_of(jnp.asarray(X), table) for table in two], rtol=1e-10)
    assert np.all(np.isfinite(slope))


def test_trajectory_shapes_and_none():
    result = diffusion.sample(None, DENOISER, _unipc(), X)
    assert result.trajectory is None
    seen = diffusion.sample(None, DENOISER, _unipc(), X, save="trajectory").trajectory
    assert seen.x.shape == (7, 2) and seen.data.shape == seen.noise.shape == (6, 2)
    np.testing.assert_allclose(seen.x[0], X, rtol=1e-6)


def test_any_data_shape():
    denoiser = predictions.denoiser(Partial(lambda x, t, cond: 0.1 * x), VP, "epsilon")
    for shape in ((), (3,), (2, 3, 1)):
        x = jnp.full(shape, 0.5)
        assert diffusion.sample(None, denoiser, _unipc(), x).value.shape == shape


# --- features a table may have ------------------------------------------------------------------------------


@pytest.mark.x64
def test_constants_and_coefficients_of_the_data_shape():
    scale, shift = np.asarray([0.5, 2.0]), np.asarray([1.0, -1.0])

    def rule(grid, i):
        return Step(Row({0: scale}, {0: 0.25}, {}, shift=i * shift))

    table = tables.tabulate(rule, grids.logsnr(VP, 3))
    x = X
    for i in range(3):
        x = scale * x + 0.25 * mixture.predict(PROBLEM.mixture, x, table.alpha[i], table.sigma[i])[0] + i * shift
    np.testing.assert_allclose(diffusion.sample(None, DENOISER, table, X).value, x, rtol=1e-12)
    leading = diffusion.sample(None, lambda x, t, c, w: (0 * x, x), table, np.ones((3, 2)))
    np.testing.assert_allclose(leading.value[0], leading.value[2])
    batched = diffusion.sample(None, lambda x, t, c, w: (0 * x, x), table, np.ones(2))
    np.testing.assert_allclose(leading.value[1], batched.value)


@pytest.mark.x64
def test_analytic_first_step():
    """The saved call is nearly free: the error rises by less than a call fewer costs, with the mean of the data."""
    mean = PROBLEM.mixture.weights @ PROBLEM.mixture.means
    truth = mixture.truth("a")
    plain, shorter = _unipc(8), _unipc(7)
    free = tables.analytic_first(plain, mean)
    run = jax.jit(jax.vmap(lambda x, t: diffusion.sample(None, DENOISER, t, x), (0, None)))
    many = tables.unify([plain, shorter, free, tables.analytic_first(plain)])
    results = [run(PROBLEM.x_T, t) for t in many]
    errors = [mixture.rmse(r.value, truth) for r in results]
    assert [int(r.nfe[0]) for r in results] == [8, 7, 7, 7]
    assert errors[2] < errors[1] and errors[3] < errors[1]
    first = diffusion.sample(None, DENOISER, free, X, save="trajectory").trajectory
    np.testing.assert_allclose(first.data[0], mean)
    np.testing.assert_allclose(first.noise[0], (X - free.alpha[0] * mean) / free.sigma[0])


@pytest.mark.x64
def test_hooks_see_what_they_should(key):
    table = solvers.sde_dpm(grids.logsnr(VP, 4))
    plain = diffusion.sample(key, DENOISER, table, X, save="trajectory")
    same = diffusion.sample(
        key, DENOISER, table, X, denoised_hook=lambda D, x, t, key: D, state_hook=lambda x, t, key: x
    )
    np.testing.assert_allclose(same.value, plain.value, rtol=1e-10)
    halved = diffusion.sample(key, DENOISER, table, X, denoised_hook=lambda D, x, t, key: D / 2, save="trajectory")
    D = mixture.predict(PROBLEM.mixture, X, table.alpha[0], table.sigma[0])[0] / 2
    np.testing.assert_allclose(halved.trajectory.data[0], D, rtol=1e-12)
    np.testing.assert_allclose(halved.trajectory.noise[0], (X - table.alpha[0] * D) / table.sigma[0], rtol=1e-12)
    times = diffusion.sample(
        key, DENOISER, table, X, denoised_hook=lambda D, x, t, key: D + 0 * x + t,
        state_hook=lambda x, t, key: jnp.full(2, t) + 0 * x, save="trajectory",
    )  # fmt: skip
    np.testing.assert_allclose(times.trajectory.x[1:, 0], table.t[1:], rtol=1e-12)


def test_streams_of_noise_and_hooks_are_apart(key):
    """The step's own noise, the data hook and the state hook draw from three different keys."""
    seen = {}

    def data_hook(D, x, t, key):
        jax.debug.callback(lambda k: seen.setdefault("data", []).append(int(k)), jax.random.bits(key))
        return D

    def state_hook(x, t, key):
        jax.debug.callback(lambda k: seen.setdefault("state", []).append(int(k)), jax.random.bits(key))
        return x

    result = diffusion.sample(key, DENOISER, _unipc(), X, denoised_hook=data_hook, state_hook=state_hook)
    result.value.block_until_ready()
    jax.effects_barrier()
    own = [int(jax.random.bits(jax.random.fold_in(jax.random.fold_in(key, i), 0))) for i in range(6)]
    assert len({*seen["data"], *seen["state"], *own}) == 18


# --- trouble ------------------------------------------------------------------------------------------------


def test_not_a_number_is_a_status():
    x = jnp.asarray([jnp.nan, 0.0])
    assert int(diffusion.sample(None, DENOISER, _unipc(), x).status) & status.NONFINITE_INPUT
    broken = lambda x, t, cond, w: (jnp.where(t < 0.5, jnp.nan, x), x)  # noqa: E731
    result = diffusion.sample(None, broken, _unipc(), X)
    assert int(result.status) == status.NONFINITE_RESULT
    with pytest.raises(status.StatusError, match="non-finite result"):
        jaxsci.check(result)
    lanes = jax.vmap(lambda x: diffusion.sample(None, DENOISER, _unipc(), x))(jnp.stack([x, jnp.asarray(X, "f4")]))
    assert lanes.status.tolist()[1] == 0 and bool(jnp.all(jnp.isfinite(lanes.value[1])))


def test_trouble_on_the_way_is_a_status():
    """Hooks, an import's own limit and a state that is overwritten hide nothing; padding and other lanes are apart."""
    table = tables.pad(_unipc(5), 7)

    def sick(x, t, cond, w):  # an overflow in one of the rows
        return jnp.where(jnp.abs(t - table.t[2]) < 1e-4, w, 0.0) + 0.1 * x, x

    run = lambda w, **options: diffusion.sample(None, sick, table, X, guidance_scale=w, **options)  # noqa: E731
    for w, code in ((jnp.inf, status.NONFINITE_RESULT), (2.0, 0)):
        assert int(run(w, denoised_hook=hooks.clip(1.0)).status) == code
        clipped = run(w, denoised_hook=lambda D, x, t, key: jnp.clip(D, -1, 1))
        assert bool(jnp.all(jnp.isfinite(clipped.value))) and int(clipped.status) == code
        reset = run(w, state_hook=lambda x, t, key: jnp.where(t < table.t[3], X, 0 * X))
        assert bool(jnp.all(jnp.isfinite(reset.value))) and int(reset.status) == code
    lanes = jax.vmap(lambda w: run(w, denoised_hook=hooks.clip(1.0)).status)(jnp.asarray([1.0, jnp.nan, 3.0]))
    assert lanes.tolist() == [0, status.NONFINITE_RESULT, 0]
    it = interop.from_diffusers({"_class_name": "DDPMScheduler"}, 5)  # clips
    denoiser = interop.denoiser(it, lambda x, t, cond: jnp.where(t == it.timesteps[2], jnp.inf, x))
    assert int(diffusion.sample(jax.random.key(0), denoiser, it.table, X).status) == status.NONFINITE_RESULT


@pytest.mark.bad_input
def test_bad_input():
    noisy = solvers.ddim(grids.logsnr(VP, 3), eta=1.0)
    wide = tables.tabulate(lambda g, i: Step(Row({0: np.ones(3)}, {}, {})), grids.logsnr(VP, 3))
    for call, error, match in (
        (lambda: diffusion.sample(None, DENOISER, noisy, X), ValueError, r"draws noise; pass a key.*jax.random.key"),
        (lambda: diffusion.sample(None, DENOISER, _unipc(), X, save="all"), ValueError, "save must be 'final' or"),
        (lambda: diffusion.sample(None, DENOISER, wide, X), ValueError, r"have shape \(3,\), x_T has \(2,\)"),
        (lambda: diffusion.sample(None, DENOISER, _unipc(), [1, 2]), TypeError, "x_T must be floating, got int32"),
        (lambda: diffusion.sample(jax.random.PRNGKey(0), DENOISER, noisy, X), TypeError, "key must be a typed key"),
        (lambda: diffusion.sample(None, lambda x, t, c, w: x, _unipc(), X), TypeError, r"return \(D, eps\)"),
        (lambda: diffusion.sample(None, lambda x, t, c, w: (x, x[:1]), _unipc(), X), TypeError, r"shape \(2,\), got"),
        (
            lambda: diffusion.sample(None, DENOISER, _unipc(), X, denoised_hook=lambda D, x, t, key: D.sum()),
            TypeError, r"denoised_hook must return an array of shape \(2,\), got \(\)",
        ),
        (
            lambda: diffusion.sample(None, DENOISER, _unipc(), X, state_hook=lambda x, t, key: x[:1]),
            TypeError, r"state_hook must return an array of shape \(2,\), got \(1,\)",
        ),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            call()


def test_rules_in_the_graph_serve_populations():
    """vmap over grids: one program makes and runs a population of tables."""
    lams = np.stack([grids.logsnr(VP, 5).lam, grids.time(VP, 5).lam])

    def one(lams):
        table = tables.tabulate(rules.multistep(2, relaxation="bh2"), grids.at_lams(VP, lams))
        return diffusion.sample(None, DENOISER, table, X).value

    host = [solvers.dpm_multistep(g(VP, 5), lower_order_final=False) for g in (grids.logsnr, grids.time)]
    expected = [diffusion.sample(None, DENOISER, t, X).value for t in host]
    np.testing.assert_allclose(jax.jit(jax.vmap(one))(lams), expected, rtol=2e-5, atol=2e-5)
