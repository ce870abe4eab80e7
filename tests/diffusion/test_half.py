"""States in half precision: times and coefficients stay in single precision, and every driver runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from jaxsci import diffusion
from jaxsci.core import status
from jaxsci.diffusion import adaptive, dense, grids, interop, predictions, rules, schedules, solvers, tables

HALF = [jnp.bfloat16, jnp.float16]
CHAIN = schedules.vp_discrete(schedules.betas("scaled_linear"))
VP = schedules.vp_linear()


def _normal(x, t, cond):
    """The exact noise prediction for data N(1, 1/4), in the dtype of x."""
    alpha, sigma = VP.alpha_sigma(VP.lam(t))
    return (sigma * (x.astype(t.dtype) - alpha) / (alpha**2 / 4 + sigma**2)).astype(x.dtype)


DENOISER = predictions.denoiser(_normal, VP, "epsilon")


@pytest.mark.parametrize("dtype", HALF)
def test_the_network_sees_whole_steps(dtype):
    """Four trailing steps of a chain of 1000: 999, 749, 499, 249, in float32."""
    seen = []

    def model(x, t, cond):
        jax.debug.callback(lambda t: seen.append((float(t), t.dtype)), t)
        return jnp.zeros_like(x)

    steps = grids.spacing("trailing", 4)
    table = solvers.unipc(grids.from_timesteps(CHAIN, steps), order=2)
    result = diffusion.sample(None, predictions.denoiser(model, CHAIN, "epsilon"), table, jnp.ones(3, dtype))
    jax.effects_barrier()
    assert result.value.dtype == dtype and int(result.status) == 0
    np.testing.assert_allclose([t for t, _ in seen], [999, 749, 499, 249], atol=1e-3)
    assert {d for _, d in seen} == {np.dtype("float32")}


@pytest.mark.parametrize("dtype", HALF)
def test_samples_are_those_of_single_precision_rounded(dtype):
    x = jax.random.normal(jax.random.key(0), (64,))
    grid = grids.logsnr(VP, 20)
    eps = float(jnp.finfo(dtype).eps)
    for table in (solvers.unipc(grid, order=3), solvers.sde_dpm(grid)):
        exact = diffusion.sample(jax.random.key(1), DENOISER, table, x).value
        half = diffusion.sample(jax.random.key(1), DENOISER, table, x.astype(dtype)).value
        assert half.dtype == dtype
        if table.predictor.std is None:  # draws in half precision are other draws
            error = np.asarray(half, np.float32) - np.asarray(exact)
            assert np.sqrt(np.mean(error**2)) <= 4 * eps


@pytest.mark.parametrize("dtype", HALF)
def test_adaptive_steps_and_dense_output(dtype):
    x = jnp.array([1.0, -0.5], dtype)
    exact = adaptive.sample(DENOISER, VP, x.astype(jnp.float32))
    half = adaptive.sample(DENOISER, VP, x)
    assert half.value.dtype == dtype and int(half.status) == 0
    np.testing.assert_allclose(np.asarray(half.value, np.float32), exact.value, atol=8 * float(jnp.finfo(dtype).eps))
    grid, rule = grids.logsnr(VP, 8), rules.multistep(2)
    run = diffusion.sample(None, DENOISER, tables.tabulate(rule, grid), x, save="trajectory")
    points = dense.evaluate(dense.outputs(rule, grid, [grid.lam[3], 1.0]), run.trajectory)
    assert points.dtype == dtype
    np.testing.assert_array_equal(points[0], run.trajectory.x[3])


@pytest.mark.parametrize("dtype", HALF)
def test_likelihoods_are_computed_in_single_precision(dtype):
    pytest.importorskip("diffrax")
    from jaxsci.diffusion import likelihood

    found = likelihood.log_prob(None, DENOISER, VP, jnp.array([1.0], dtype), t_min=0.01)
    exact = likelihood.log_prob(None, DENOISER, VP, jnp.array([1.0]), t_min=0.01)
    assert int(found.status) == 0 and found.value.dtype == jnp.float32
    np.testing.assert_allclose(found.value, exact.value, atol=1e-4)


def test_the_sampler_of_edm_keeps_its_input_half():
    def model(x, t, cond):
        assert x.dtype == jnp.bfloat16 and t.dtype == jnp.float32
        return x

    schedule = schedules.ve()
    denoiser = predictions.denoiser(model, schedule, "edm")
    table = solvers.unipc(grids.karras(schedule, 4), order=2)
    result = diffusion.sample(None, denoiser, table, 80 * jnp.ones(2, jnp.bfloat16))
    assert result.value.dtype == jnp.bfloat16 and int(result.status) == 0


# --- guidance over time -------------------------------------------------------------------------------------


def _labelled(x, t, cond):
    return x * 0 + cond


GUIDED = predictions.denoiser(_labelled, VP, "sample", guidance="classifier_free", null=0.0)


def test_guidance_is_a_number_one_a_row_or_a_function_of_time():
    grid = grids.with_zero(grids.logsnr(VP, 3))
    table, x = solvers.unipc(grid, order=1), jnp.zeros(8)
    of_rows = np.array([1.0, 5.0, 2.0, 3.0], np.float32)

    def value(w, save="final"):
        return diffusion.sample(None, GUIDED, table, x, cond=jnp.float32(1.0), guidance_scale=w, save=save)

    np.testing.assert_allclose(value(of_rows, "trajectory").trajectory.data[:, 0], of_rows, rtol=1e-6)
    steps = [diffusion.init(table, x)]
    for i in range(table.num_rows):
        steps.append(diffusion.step(None, GUIDED, table, steps[-1], i, cond=jnp.float32(1.0), guidance_scale=of_rows))
    np.testing.assert_allclose(diffusion.finish(steps[-1]).value, value(of_rows).value, rtol=1e-6)
    low, high = sorted((float(grid.t[1]), float(grid.t[2])))
    within = value(predictions.within(4.0, low - 1e-6, high + 1e-6), "trajectory").trajectory.data[:, 0]
    np.testing.assert_allclose(within, [1, 4, 4, 1], rtol=1e-6)
    scales = jnp.linspace(7, 1, 8)
    lanes = jax.vmap(lambda w: value(w).value)(scales)
    np.testing.assert_allclose(lanes[:, 0], scales, rtol=1e-5)
    with pytest.raises(ValueError, match=r"must be a number, one for each of 4 rows, or a function of time, got shape"):
        value(scales)
    with pytest.raises(ValueError, match=r"guidance_scale\(t\) must return a number"):
        value(Partial(lambda t: jnp.ones(2)))


def test_a_scale_without_guidance_is_refused():
    table = solvers.unipc(grids.logsnr(VP, 3), order=1)
    with pytest.raises(ValueError, match=r"guidance_scale=7.5 has no effect"):
        diffusion.sample(None, DENOISER, table, jnp.zeros(2), guidance_scale=7.5)
    with pytest.raises(ValueError, match=r"guidance_scale=2.0 has no effect"):
        adaptive.sample(DENOISER, VP, jnp.zeros(2), guidance_scale=2.0)
    for call in (
        lambda: diffusion.statistics.estimate(
            jax.random.key(0), DENOISER, VP, np.ones((4, 2), np.float32), lams=2, num_samples=2, guidance_scale=7.5
        ),
        lambda: diffusion.likelihood.log_prob(None, DENOISER, VP, jnp.zeros(2), guidance_scale=7.5),
        lambda: diffusion.likelihood.transport(DENOISER, VP, jnp.zeros(2), "noise", guidance_scale=7.5),
    ):
        with pytest.raises(ValueError, match=r"guidance_scale=7.5 has no effect"):
            call()
    diffusion.sample(None, DENOISER, table, jnp.zeros(2), guidance_scale=1.0)
    with pytest.raises(ValueError, match="guidance_scale must be a scalar"):
        adaptive.sample(GUIDED, VP, jnp.zeros(2), cond=1.0, guidance_scale=jnp.ones(3))


def test_labels_keep_their_numbers():
    """An unsigned label beside a null of -1; whole numbers beside a fraction are refused."""

    def model(x, t, cond):
        return x * 0 + cond.astype(x.dtype)

    denoiser = predictions.denoiser(model, VP, "sample", guidance="classifier_free", null=np.int32(-1))
    data, _ = denoiser(jnp.zeros(1), 0.5, jnp.uint8(3), 0.0)
    assert float(data[0]) == -1.0
    denoiser = predictions.denoiser(model, VP, "sample", guidance="classifier_free", null=0.5)
    with pytest.raises(TypeError, match="null must be of whole numbers as cond is"):
        denoiser(jnp.zeros(1), 0.5, jnp.int32(3), 0.0)


# --- what is given wrongly ----------------------------------------------------------------------------------


def test_a_chain_knows_its_length():
    chain = schedules.vp_discrete(schedules.betas("linear", 100))
    sigma = grids.from_timesteps(chain, [99, 66, 33, 11]).sigma
    np.testing.assert_allclose(sigma[:4], [0.798, 0.604, 0.332, 0.120], atol=6e-4)
    np.testing.assert_allclose(chain.model_time(np.array([1.0, 0.5])), [99, 49])


def test_cumulative_products_are_known_from_betas():
    betas = schedules.betas("scaled_linear")
    bar = np.cumprod(1 - betas)
    t = np.linspace(0.001, 1, 50)
    np.testing.assert_allclose(
        schedules.from_alphas_cumprod(bar).lam(t), schedules.vp_discrete(betas).lam(t), rtol=1e-9
    )
    with pytest.raises(ValueError, match=r"pass those to schedules.from_alphas_cumprod"):
        schedules.vp_discrete(bar)
    with pytest.raises(ValueError, match="betas go to schedules.vp_discrete"):
        schedules.from_alphas_cumprod(betas)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: grids.from_sigmas(VP, [np.inf, 5, 1, 0]), ValueError, r"no time for nodes \[0\]"),
        (lambda: grids.at_lams(VP, None), TypeError, "nodes must be numbers, got None"),
        (lambda: grids.at_times(VP, None), TypeError, "nodes must be numbers, got None"),
        (lambda: grids.from_times(VP, None), TypeError, "from_times: times must be numbers, got None"),
        (lambda: grids.from_sigmas(VP, None), TypeError, "from_sigmas: sigmas must be numbers, got None"),
        (lambda: grids.from_timesteps(CHAIN, None), TypeError, "from_timesteps: timesteps must be numbers, got None"),
        (lambda: schedules.vp_linear(-1, -5), ValueError, "beta_min must be >= 0, got -1"),
        (lambda: schedules.vp_linear(0.1, np.inf), ValueError, "vp_linear: beta_max must be finite, got inf"),
        (lambda: schedules.vp_cosine(np.nan), ValueError, "vp_cosine: offset must be finite, got nan"),
        (lambda: schedules.ve(-1.0), ValueError, "ve: sigma_min must be >= 0, got -1.0"),
        (lambda: schedules.ve(2.0, 1.0), ValueError, "sigma_min must be below sigma_max, got 2.0 and 1.0"),
        (lambda: schedules.flow(0.0), ValueError, "flow: shift must be > 0, got 0.0"),
        (lambda: diffusion.hooks.clip(-1.0), ValueError, "clip: radius must be positive, got -1.0"),
        (lambda: diffusion.hooks.dynamic_threshold(max_value=0), ValueError, "max_value must be positive, got 0"),
        (lambda: diffusion.hooks.dynamic_threshold(1.5), ValueError, "quantile must lie in"),
        (lambda: diffusion.likelihood.bits_per_dimension(0.0, 0), ValueError, "num_dims must be an int >= 1, got 0"),
        (lambda: predictions.denoiser(VP, _normal, "epsilon"), TypeError, "schedule must be a NoiseSchedule, got func"),
        (
            lambda: diffusion.sample(None, solvers.unipc(grids.logsnr(VP, 3)), DENOISER, jnp.zeros(2)),
            TypeError,
            "table must be a SolverTable, got Partial; the order is denoiser, table, state",
        ),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_batch_given_as_one_sample_is_told():
    """The network's own error, with a note of what `sample` gave it; many samples go through vmap."""
    weights = np.ones((3, 3), np.float32)
    denoiser = predictions.denoiser(lambda x, t, cond: weights @ x, VP, "epsilon")
    table, batch = solvers.unipc(grids.logsnr(VP, 3)), np.zeros((16, 3), np.float32)
    with pytest.raises(TypeError, match="contracting dimensions") as caught:
        diffusion.sample(None, denoiser, table, batch)
    assert any("one sample, x of shape (16, 3); many go through jax.vmap" in note for note in caught.value.__notes__)
    assert jax.vmap(lambda x: diffusion.sample(None, denoiser, table, x).value)(batch).shape == (16, 3)


def test_equal_nodes_inside_compiled_code_are_a_status():
    """Nobody can raise there; the rows divide by a step of length zero."""

    @jax.jit
    @jax.vmap
    def code(lams):
        table = tables.tabulate(rules.multistep(2), grids.at_lams(VP, lams))
        return diffusion.sample(None, DENOISER, table, jnp.zeros(2)).status

    good, bad = code(jnp.array([[-1.0, 0.0, 0.5, 1.0], [-1.0, 0.0, 0.0, 1.0]]))
    assert int(good) == 0 and int(bad) & tables.SINGULAR
    assert "make lam rise from node to node" in status.explain(int(bad), "diffusion")


def _flow_of_a_normal(x, t, cond):
    """eps - D of N(.3, .25) under the flow, in single precision inside, as networks with half-precision ends are."""
    wide, sigma = x.astype(jnp.float32), t / 1000
    alpha = 1 - sigma
    data = 0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (wide - alpha * 0.3)
    return ((wide - alpha * data) / sigma - data).astype(x.dtype)


def test_twenty_steps_of_the_flow_of_a_large_image_model():
    """Shift by the size of the image: times in single precision, states up to twenty roundings."""
    config = {
        "_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True,
        "base_shift": 0.5, "max_shift": 1.15,
    }  # fmt: skip
    it = interop.from_diffusers(config, sigmas=np.linspace(1, 1 / 20, 20), image_seq_len=4096)
    seen, ends = [], {}

    def network(x, t, cond):
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), t)
        return _flow_of_a_normal(x, t, cond)

    denoiser = interop.denoiser(it, network)
    x = jax.random.normal(jax.random.key(0), (4096,))
    for dtype in (jnp.float32, jnp.bfloat16):
        ends[dtype] = np.asarray(diffusion.sample(None, denoiser, it.table, x.astype(dtype)).value, np.float32)
        jax.effects_barrier()
        assert {t.dtype for t in seen} == {np.dtype("float32")}
        np.testing.assert_allclose(seen[-20:], it.timesteps, rtol=1e-7)
    assert np.sqrt(np.mean((ends[jnp.bfloat16] - ends[jnp.float32]) ** 2)) <= 6e-3
