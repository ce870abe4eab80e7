"""Networks as people have them, each wrapped once: flax linen, flax nnx, torch, EDM preconditioning, a null label.

Every network holds the mixture of problem A as its parameters and computes its exact prediction, so each sample has a
known truth: the error of UniPC-3 in 20 steps is 1.53e-2 whatever the network is written in.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.core.static import bind
from jaxsci.diffusion import grids, interop, predictions, schedules, solvers

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
TABLE = solvers.unipc(grids.logsnr(VP, 20), order=3, lower_order_final=False)
ERROR = 1.53e-2

pytestmark = pytest.mark.x64


def sampled(denoiser, *, cond=None, w=1.0):
    """All particles in one compiled call."""
    return jax.vmap(lambda x: diffusion.sample(None, denoiser, TABLE, x, cond=cond, guidance_scale=w))(PROBLEM.x_T)


def check(make, *parameters):
    """`make(*parameters) -> denoiser`: the truth, jit = eager = loop over particles, one compilation for new values."""
    denoiser = make(*parameters)
    result = sampled(denoiser)
    assert mixture.rmse(result.value, mixture.truth("a")) == pytest.approx(ERROR, rel=0.01)
    assert int(result.nfe[0]) == 20 and int(jnp.max(result.status)) == 0
    one = diffusion.sample(None, denoiser, TABLE, PROBLEM.x_T[3])
    np.testing.assert_allclose(one.value, result.value[3], rtol=1e-12)
    inside = jax.jit(lambda x, *p: diffusion.sample(None, make(*p), TABLE, x).value)
    np.testing.assert_allclose(inside(PROBLEM.x_T[3], *parameters), one.value, rtol=1e-12)
    moved = jax.tree.map(lambda a: a * 1.01 if jnp.issubdtype(a.dtype, jnp.floating) else a, parameters)
    x = jnp.asarray(PROBLEM.x_T[4])
    jax.block_until_ready((moved, x))
    with contracts.count_compilations() as events:
        again = diffusion.sample(None, make(*moved), TABLE, x)
        inside(x, *moved)
    assert not events, f"new parameters compiled {len(events)} programs"
    assert float(jnp.abs(again.value - result.value[4]).max()) > 1e-4, "the parameters are traced, not constants"


def exact_noise(weights, means, stds, x, alpha, sigma):
    """The mixture's eps from arrays of any library."""
    return mixture.predict(mixture.Mixture(weights, means, stds), x, alpha, sigma)[1]


def test_flax_linen():
    """A linen module; its variables are the leaves of a Partial."""
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, t):
            named = zip(("weights", "means", "stds"), PROBLEM.mixture)
            parts = [self.param(name, lambda key, value=value: jnp.asarray(value)) for name, value in named]
            return exact_noise(*parts, x, *VP.alpha_sigma(VP.lam(t)))

    network = Network()
    variables = network.init(jax.random.key(0), jnp.zeros(2), jnp.asarray(0.5))

    def apply(variables, x, t, cond):
        return network.apply(variables, x, t)

    check(lambda variables: predictions.denoiser(Partial(apply, variables), VP, "epsilon"), variables)


def test_flax_linen_that_insists_on_a_batch():
    """The same with a leading axis that the module will not do without."""
    linen = pytest.importorskip("flax.linen", reason="flax is not installed")

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, t):
            assert x.ndim == 2 and t.shape == x.shape[:1], "a batch, please"
            means = self.param("means", lambda key: jnp.asarray(PROBLEM.mixture.means))
            one = lambda x, t: exact_noise(  # noqa: E731
                PROBLEM.mixture.weights, means, PROBLEM.mixture.stds, x, *VP.alpha_sigma(VP.lam(t))
            )
            return jax.vmap(one)(x, t)

    network = Network()
    variables = network.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.full(1, 0.5))

    def apply(variables, x, t, cond):
        return network.apply(variables, x, t)

    check(lambda variables: predictions.denoiser(Partial(apply, variables), VP, "epsilon", batched=True), variables)


def test_flax_nnx():
    """An nnx module, split into its graph (static) and its state (leaves)."""
    nnx = pytest.importorskip("flax.nnx", reason="flax is not installed")

    class Network(nnx.Module):
        def __init__(self):
            self.means = nnx.Param(jnp.asarray(PROBLEM.mixture.means))
            self.stds = nnx.Param(jnp.asarray(PROBLEM.mixture.stds))

        def __call__(self, x, t):
            alpha, sigma = VP.alpha_sigma(VP.lam(t))
            data, noise = mixture.predict(
                mixture.Mixture(PROBLEM.mixture.weights, self.means[...], self.stds[...]), x, alpha, sigma
            )
            return alpha * noise - sigma * data

    graph, state = nnx.split(Network())

    def apply(state, x, t, cond, *, graph):
        return nnx.merge(graph, state)(x, t)

    check(lambda state: predictions.denoiser(Partial(bind(apply, graph=graph), state), VP, "v_prediction"), state)


def test_torch_through_the_runner():
    """A torch module on a table of ours, in torch's own arrays; the same numbers as in JAX."""
    torch = pytest.importorskip("torch", reason="torch is not installed")

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, value in zip(("weights", "means", "stds"), PROBLEM.mixture):
                self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(value)))

        def forward(self, x, t):
            alpha, sigma = (float(v) for v in VP.alpha_sigma(VP.lam(t)))
            v = alpha**2 * self.stds**2 + sigma**2
            gap = x[:, None] - alpha * self.means
            r = torch.softmax(torch.log(self.weights) - torch.log(v) - (gap**2).sum(-1) / (2 * v), -1)
            return sigma * ((r / v)[..., None] * gap).sum(1)

    network = Network()
    with torch.no_grad():
        denoiser = interop.plain_denoiser(network, VP, "epsilon")
        value = interop.run_plain(denoiser, TABLE, torch.from_numpy(PROBLEM.x_T))
    assert isinstance(value, torch.Tensor) and value.dtype == torch.float64
    assert mixture.rmse(value.numpy(), mixture.truth("a")) == pytest.approx(ERROR, rel=0.01)
    ours = sampled(mixture.denoiser(PROBLEM.mixture, VP)).value
    np.testing.assert_allclose(value.numpy(), ours, rtol=1e-10, atol=1e-10)


def test_numpy_through_the_runner():
    """The same with a network in NumPy, on the whole batch at once."""
    network = lambda x, t: exact_noise(*PROBLEM.mixture, x, *VP.alpha_sigma(VP.lam(t)))  # noqa: E731
    value = interop.run_plain(interop.plain_denoiser(network, VP, "epsilon"), TABLE, PROBLEM.x_T)
    assert mixture.rmse(value, mixture.truth("a")) == pytest.approx(ERROR, rel=0.01)


def _edm_network(parts, sigma_data, x, noise_time, cond):
    """F of Karras et al.: what is left of D when the skip is taken off, as a function of the scaled input."""
    ratio = jnp.exp(4 * noise_time)
    root = jnp.sqrt(ratio**2 + sigma_data**2)
    data = mixture.predict(parts, x * root, 1.0, ratio)[0]
    return (data - sigma_data**2 / root**2 * (x * root)) * root / (ratio * sigma_data)


def test_edm_preconditioning():
    """On a variance-preserving schedule the same truth; on its own schedule the flow of the mixture."""

    def make(parts, sigma_data, schedule=VP):
        model = Partial(_edm_network, parts, sigma_data)
        return predictions.denoiser(model, schedule, "edm", sigma_data=sigma_data)

    parts, sigma_data = jax.tree.map(jnp.asarray, PROBLEM.mixture), jnp.asarray(0.5)
    check(make, parts, sigma_data)
    ve = schedules.ve()
    table = solvers.unipc(grids.karras(ve, 160), order=3, lower_order_final=False)
    result = jax.vmap(lambda x: diffusion.sample(None, make(parts, sigma_data, ve), table, x))(80 * PROBLEM.x_T[:8])
    truth = mixture.reference(PROBLEM.mixture, ve, 80 * PROBLEM.x_T[:8])
    assert mixture.rmse(result.value, truth) < 1e-4


def _labelled(rows, means, stds, x, t, label):
    """Label k knows component k alone, the last label all of them."""
    return exact_noise(rows[label], means, stds, x, *VP.alpha_sigma(VP.lam(t)))


def test_null_label():
    """Guidance by a null label: w = 1 is the class, a Gaussian whose flow is known, w = 0 the mixture; w is traced."""
    floor = 1e-30  # weights of a class's other components; their logarithm stays finite
    rows = jnp.asarray(np.vstack([np.maximum(np.eye(5), floor), PROBLEM.mixture.weights]))
    model = Partial(_labelled, rows, jnp.asarray(PROBLEM.mixture.means), jnp.asarray(PROBLEM.mixture.stds))
    denoiser = predictions.denoiser(model, VP, "epsilon", guidance="classifier_free", null=jnp.int32(5))
    ends = [tuple(float(v) for v in VP.alpha_sigma(VP.lam(t))) for t in (VP.t_max, VP.t_min)]
    for label in (0, 3):
        value = sampled(denoiser, cond=jnp.int32(label)).value
        mean, std = PROBLEM.mixture.means[label], PROBLEM.mixture.stds[label]
        exact = mixture.gaussian_flow(mean, std, PROBLEM.x_T, *ends)
        assert mixture.rmse(value, exact) < 1e-2
    free = sampled(denoiser, cond=jnp.int32(2), w=0.0).value
    assert mixture.rmse(free, mixture.truth("a")) == pytest.approx(ERROR, rel=0.01)
    scales = jnp.linspace(0.0, 3.0, 8)
    x = jnp.asarray(PROBLEM.x_T[0])
    run = jax.jit(jax.vmap(lambda w, label: diffusion.sample(
        None, denoiser, TABLE, x, cond=label, guidance_scale=w).value, (0, None)))  # fmt: skip
    swept = run(scales, jnp.int32(2))
    np.testing.assert_allclose(swept[0], free[0], rtol=1e-10)
    others, label = jax.block_until_ready((jnp.flip(scales), jnp.int32(1)))
    with contracts.count_compilations() as events:
        jax.block_until_ready(run(others, label))
    assert not events, "guidance scales and labels are traced"
    data, noise = denoiser(x, jnp.asarray(0.4), jnp.int32(1), 2.5)
    one, none = (_labelled(*model.args, x, 0.4, label) for label in (1, 5))
    np.testing.assert_allclose(noise, none + 2.5 * (one - none), rtol=1e-12)
    alpha, sigma = VP.alpha_sigma(VP.lam(0.4))
    np.testing.assert_allclose(data, (x - sigma * noise) / alpha, rtol=1e-12)
