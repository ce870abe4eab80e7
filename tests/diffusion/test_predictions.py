"""Every kind of model gives the same data and noise; guidance; thresholds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from diffusion import mixture
from jaxsci.diffusion import hooks, predictions, schedules

PROBLEM = mixture.problem_a()
FLOW = schedules.flow(shift=2.0)


def _model(kind, schedule):
    """A perfect network of any kind, made of the exact mixture's data and noise."""

    def model(x, t, cond):
        if kind == "edm":  # x = c_in y, t = log(sigma)/4: undo both, answer with F of D = c_skip y + c_out F
            sigma, data = jnp.exp(4 * t), 0.5
            root = jnp.sqrt(sigma**2 + data**2)
            y = x * root
            D = mixture.predict(PROBLEM.mixture, y, 1.0, sigma)[0]
            return (D - data**2 / root**2 * y) / (sigma * data / root)
        time = t / (2 - t) if schedule is FLOW else t  # the flow network's own time is the shifted one
        alpha, sigma = schedule.alpha_sigma(schedule.lam(time))
        D, eps = mixture.predict(PROBLEM.mixture, x, alpha, sigma)
        return {
            "epsilon": eps, "sample": D, "v_prediction": alpha * eps - sigma * D, "score": -eps / sigma,
            "flow_prediction": eps - D,
        }[kind]  # fmt: skip

    return model


@pytest.mark.x64
@pytest.mark.parametrize("schedule", [PROBLEM.schedule, schedules.ve(), FLOW], ids=["vp", "ve", "flow"])
@pytest.mark.parametrize("kind", predictions.KINDS)
@pytest.mark.parametrize("batched", [False, True])
def test_all_kinds_agree(kind, schedule, batched):
    x, t = jnp.asarray([0.4, -1.1]), jnp.asarray(0.37)
    alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
    model = _model(kind, schedule)
    if batched:
        single = model
        model = lambda x, t, cond: jax.vmap(single, (0, 0, None))(x, t, cond)  # noqa: E731
    D, eps = predictions.denoiser(model, schedule, kind, batched=batched)(x, t, None, 1.0)
    expected = mixture.predict(PROBLEM.mixture, x, alpha, sigma)
    np.testing.assert_allclose(D, expected[0], rtol=1e-10)
    np.testing.assert_allclose(eps, expected[1], rtol=1e-10)
    np.testing.assert_allclose(alpha * D + sigma * eps, x, rtol=1e-10)


def test_model_time_is_that_of_its_training():
    chain = schedules.vp_discrete(schedules.betas("linear"))
    seen = []
    model = lambda x, t, cond: (seen.append(t), x)[1]  # noqa: E731
    predictions.denoiser(model, chain, "epsilon")(jnp.zeros(2), jnp.asarray(0.5), None, 1.0)
    np.testing.assert_allclose(seen[0], 499.0, rtol=1e-5)


def _linear_model(x, t, cond):
    return cond["scale"] * x + t


@pytest.mark.x64
@pytest.mark.parametrize("batched", [False, True])
def test_classifier_free_guidance_is_one_call_of_both_labels(batched):
    calls = []

    def model(x, t, cond):
        calls.append(x.shape)
        if batched:
            assert x.shape == (2, 3) and t.shape == (2,) and cond["scale"].shape == (2,)
            return cond["scale"][:, None] * x + t[:, None]
        return _linear_model(x, t, cond)

    vp = schedules.vp_linear()
    denoiser = predictions.denoiser(
        model, vp, "epsilon", guidance="classifier_free", null={"scale": 0.0}, batched=batched
    )
    x, t = jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray(0.5)
    for w in (0.0, 1.0, 3.5):
        _, eps = denoiser(x, t, {"scale": jnp.asarray(2.0)}, w)
        np.testing.assert_allclose(eps, (0 * x + t) + w * (2.0 * x), rtol=1e-12)
    assert len(calls) == 3


@pytest.mark.x64
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_guidance_before_conversion_is_guidance_of_the_noise(kind):
    vp = schedules.vp_linear()
    make = lambda c: predictions.denoiser(Partial(lambda x, t, cond: jnp.sin(c * x)), vp, kind)  # noqa: E731
    model = lambda x, t, cond: jnp.sin(cond * x)  # noqa: E731
    guided = predictions.denoiser(model, vp, kind, guidance="classifier_free", null=0.0)
    x, t = jnp.asarray([0.3, -0.9]), jnp.asarray(0.4)
    _, eps = guided(x, t, 1.5, 4.0)
    (_, with_label), (_, without) = make(1.5)(x, t, None, 1.0), make(0.0)(x, t, None, 1.0)
    np.testing.assert_allclose(eps, without + 4.0 * (with_label - without), rtol=1e-10)


@pytest.mark.x64
def test_classifier_guidance_gives_the_posterior():
    # For one Gaussian and a Gaussian observation of x_t, the guided noise is minus sigma times the posterior score.
    gauss = mixture.single_gaussian(std=0.5)
    vp = schedules.vp_linear()
    log_likelihood = lambda x, t, cond: -jnp.sum((x - cond) ** 2) / 2  # noqa: E731
    model = mixture.noise_model(gauss, vp)
    guided = predictions.denoiser(model, vp, "epsilon", guidance="classifier", classifier=log_likelihood)
    x, t, y = jnp.asarray([0.3, -0.9]), jnp.asarray(0.4), jnp.asarray([1.0, 1.0])
    alpha, sigma = vp.alpha_sigma(vp.lam(t))
    D, eps = guided(x, t, y, 2.0)
    score = -(x - alpha * gauss.means[0]) / (alpha**2 * 0.25 + sigma**2) - 2.0 * (x - y)
    np.testing.assert_allclose(eps, -sigma * score, rtol=1e-10)
    np.testing.assert_allclose(alpha * D + sigma * eps, x, rtol=1e-10)


@pytest.mark.x64
def test_thresholds_keep_the_dtype_of_the_data():
    data = jnp.asarray([-2.0, 0.5, 3.0], jnp.float32)
    assert hooks.clip(np.float64(1.5))(data).dtype == jnp.float32
    assert hooks.dynamic_threshold(np.float64(0.9), max_value=np.float64(2))(data).dtype == jnp.float32


def test_thresholds():
    data = jnp.asarray([-3.0, -0.5, 0.2, 2.0])
    np.testing.assert_allclose(hooks.clip()(data), [-1, -0.5, 0.2, 1])
    np.testing.assert_allclose(hooks.clip(2.5)(data), [-2.5, -0.5, 0.2, 2])
    q = np.quantile([3.0, 0.5, 0.2, 2.0], 0.7)
    np.testing.assert_allclose(hooks.dynamic_threshold(0.7)(data), np.clip(np.asarray(data), -q, q) / q, rtol=1e-6)
    np.testing.assert_allclose(hooks.dynamic_threshold(0.7, max_value=1.0)(data), hooks.clip()(data))
    small = jnp.asarray([-0.5, 0.2])  # inside [-1, 1] nothing changes
    np.testing.assert_array_equal(hooks.dynamic_threshold()(small), small)
    half = hooks.dynamic_threshold()(data.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


@pytest.mark.x64
def test_parameters_of_the_model_are_traced():
    vp = schedules.vp_linear()
    make = lambda a: predictions.denoiser(Partial(lambda a, x, t, cond: a * x, a), vp, "epsilon")  # noqa: E731
    value = lambda a: make(a)(jnp.ones(2), jnp.asarray(0.5), None, 1.0)[1].sum()  # noqa: E731
    np.testing.assert_allclose(jax.grad(value)(0.3), 2.0)
    np.testing.assert_allclose(jax.vmap(value)(jnp.asarray([1.0, 2.0])), [2.0, 4.0])


@pytest.mark.bad_input
def test_bad_input():
    vp, model = schedules.vp_linear(), lambda x, t, cond: x
    for keywords, match in (
        (dict(kind="eps"), "kind must be one of .* got 'eps'"),
        (dict(kind="epsilon", guidance="cfg"), "guidance must be None, 'classifier_free' or 'classifier', got 'cfg'"),
        (dict(kind="epsilon", guidance="classifier_free"), "needs null"),
        (dict(kind="epsilon", null=0.0), "null has no effect with guidance=None; pass guidance='classifier_free'"),
        (dict(kind="epsilon", classifier=model), "classifier has no effect with guidance=None"),
        (dict(kind="epsilon", guidance="classifier_free", null=0, classifier=model), "classifier has no effect"),
        (dict(kind="epsilon", guidance="classifier"), r"needs classifier\(x, t, cond\)"),
    ):
        with pytest.raises(ValueError, match=match):
            predictions.denoiser(model, vp, **keywords)
    guided = predictions.denoiser(model, vp, "epsilon", guidance="classifier_free", null=0.0)
    with pytest.raises(ValueError, match="classifier_free guidance needs cond"):
        guided(jnp.zeros(2), 0.5, None, 2.0)
    with pytest.raises(ValueError, match="output must have the shape of x"):
        predictions.convert("epsilon", jnp.zeros(3), jnp.zeros(2), 0.6, 0.8)
    with pytest.raises(ValueError, match="kind must be one of"):
        predictions.convert("edm", jnp.zeros(2), jnp.zeros(2), 0.6, 0.8)
