"""Correctors: the weight's equation, quadrature of one-dimensional targets, exact densities, histories, bad input.

All runs of the one-dimensional suite are lanes of one program: two mixtures, their powers, a reward, a table.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
from diffusion import mixture
from diffusion.mixture import Mixture
from jaxsci import diffusion
from jaxsci.diffusion import _composed, correctors, grids, schedules, solvers, tables
from tolerances import STANDARD_ERRORS

VE = schedules.ve(0.01, 10.0)
SCHEDULES = {"ve": VE, "vp": schedules.vp_linear(), "flow": schedules.flow(t_max=0.99)}


def _mixture(weights, means, variances):
    """Three components in one dimension; those that are missing have next to no weight."""
    parts = (weights, 1e-30), (means, 0.0), (np.sqrt(variances), 1.0)
    rows = [np.pad(np.asarray(a, np.float64), (0, 3 - len(a)), constant_values=fill) for a, fill in parts]
    return Mixture(rows[0], rows[1][:, None], rows[2])


Q1 = _mixture([0.3, 0.5, 0.2], [-2, 1, 3], np.square([0.4, 0.3, 0.6]))
Q2 = _mixture([0.6, 0.4], [0, 2], [0.64, 0.25])
U = _mixture([0.5, 0.5], [-2, 2], [1, 1])
C = _mixture([0.3, 0.7], [-2.5, 1.5], [0.25, 0.25])
G = _mixture([1.0], [1.5], [0.64])


class Target(NamedTuple):
    """Two mixtures, their powers, the reward's scale; log Z, mean and variance of the product, by quadrature."""

    pair: tuple
    beta: tuple
    scale: float
    truth: tuple


TARGETS = {
    "Q1^.5": Target((Q1, Q2), (0.5, 0), 0, (0.8518, 0.6530, 4.5766)),
    "Q1^2": Target((Q1, Q2), (2, 0), 0, (-1.1433, 0.5224, 1.8607)),
    "Q1^4": Target((Q1, Q2), (4, 0), 0, (-2.5494, 0.8525, 0.4769)),
    "Q1 Q2": Target((Q1, Q2), (1, 1), 0, (-2.0621, 1.0657, 0.7453)),
    "U^-.5 C^1.5": Target((U, C), (-0.5, 1.5), 0, (0.3099, 0.5773, 2.9316)),
    "U^-2 C^3": Target((U, C), (-2, 3), 0, (1.6056, 1.1095, 1.1981)),
    "Q1 exp(r)": Target((Q1, Q2), (1, 0), 1, (-0.9709, 0.9206, 0.12176)),
    "G exp(r)": Target((G, Q2), (1, 0), 1, (-0.85068, 0.93860, 0.28070)),
}


def _reward(x, t):
    return -jnp.sum((x - 0.5) ** 2)


def _eps(m, schedule, x, t, cond):
    return mixture._noise_model(m, schedule, x, t, cond)


def _denoiser(m, schedule):
    return diffusion.predictions.denoiser(Partial(_eps, m, schedule), schedule, "epsilon")


def _log_law(m, schedule, x, t, cond):
    """log q at schedule time t, written apart from the denoiser."""
    m = Mixture(*(jnp.asarray(a, x.dtype) for a in m))
    alpha, sigma = (jnp.asarray(a, x.dtype) for a in schedule.alpha_sigma(schedule.lam(t)))
    v = alpha**2 * m.stds**2 + sigma**2
    distance = jnp.sum((x[None] - alpha * m.means) ** 2, axis=-1)
    logits = jnp.log(m.weights) - x.size / 2 * jnp.log(2 * jnp.pi * v) - distance / (2 * v)
    return jax.scipy.special.logsumexp(logits)


# --- the equation of the weight -----------------------------------------------------------------------------

PLANE = mixture.problem_a().mixture
OTHER = Mixture(np.asarray([0.4, 0.6]), np.asarray([[0.3, -0.5], [-1.0, 0.8]]), np.asarray([0.6, 0.5]))
CASES = np.asarray([[2, 0, 0], [0.5, 0, 0], [1, 1, 0], [-0.5, 1.5, 0], [1, 0, 0.8], [1.3, -0.4, 0.6]])
# beta and rho move with lambda in the last two cases
RATES = np.asarray([[0, 0, 0]] * 4 + [[0, 0, 0.3], [0.2, -0.1, 0.4]])


def _scored(m, schedule, x, t, cond, w):
    """A denoiser by differentiating the density: eps = -sigma grad log q."""
    alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
    eps = -sigma * jax.grad(lambda x: _log_law(m, schedule, x, t, cond))(x)
    return (x - sigma * eps) / alpha, eps


def _target(schedule, laws=(PLANE, OTHER)):
    return _composed.Target(
        tuple(Partial(_scored, m, schedule) for m in laws), (None, None), None, _reward, None,
        tuple(Partial(_log_law, m, schedule) for m in laws),
    )  # fmt: skip


def _place(schedule, lam, case, rates, lam0):
    """The parameters at lam, on their way through `case` at lam0."""
    moving = case + rates * (lam - lam0)
    return _composed.Place(lam, jnp.log(schedule.alpha_sigma(lam)[0]), moving[:2], moving[2])


def _growth(schedule, target, lam, case, rates, x):
    """d log w / d lambda of a cloud."""
    alpha, sigma = schedule.alpha_sigma(lam)
    here = _place(schedule, lam, case, rates, lam)
    change = _composed.Place(jnp.ones(()), schedule.rate(lam), rates[:2], rates[2])
    seen = _composed.look(target, x, schedule.t_of_lam(lam), here, alpha, True)
    return _composed.log_growth(seen, here, change, x, sigma), seen, here


def _log_target(schedule, target, lam, case, rates, lam0, x):
    here, t = _place(schedule, lam, case, rates, lam0), schedule.t_of_lam(lam)
    laws = jnp.stack([f(x, t, None) for f in target.log_densities])
    return jnp.sum(here.beta * laws) + here.scale * _reward(x, t)


@pytest.mark.x64
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_weight_solves_the_pde(name):
    """The density p moves by dp/dlam = -div(a p) + kappa sigma^2 lap p + g p, whatever kappa is."""
    schedule = SCHEDULES[name]
    target = _target(schedule)

    def residual(x, lam, case, rates, kappa):
        alpha, sigma = schedule.alpha_sigma(lam)
        growth, _, here = _growth(schedule, target, lam, case, rates, x[None])

        def drift(x):
            seen = _composed.look(target, x[None], schedule.t_of_lam(lam), here, alpha, False)
            eps = _composed.pair(seen, here, kappa, alpha, sigma)[1][0]
            return schedule.rate(lam) * x - (1 + kappa) * sigma * eps

        log_p = lambda x, lam2: _log_target(schedule, target, lam2, case, rates, lam, x)  # noqa: E731
        slope = jax.grad(log_p)(x, lam)
        laplacian = jnp.trace(jax.hessian(log_p)(x, lam)) + slope @ slope
        moved = jnp.trace(jax.jacfwd(drift)(x)) + drift(x) @ slope - kappa * sigma**2 * laplacian
        return jax.grad(log_p, 1)(x, lam) + moved - growth[0]

    rng = np.random.default_rng(0)
    lams, kappas = rng.uniform(-1.5, 1.5, 40), rng.uniform(0, 2, 40)
    alpha, sigma = (np.asarray(a)[:, None] for a in schedule.alpha_sigma(lams))
    x = alpha * PLANE.means[rng.integers(5, size=40)] + sigma * rng.standard_normal((40, 2))
    axes = jax.vmap(residual, (0, 0, None, None, 0)), (None, None, 0, 0, None)
    found = jax.jit(jax.vmap(*axes))(x, lams, CASES, RATES, kappas)
    assert found.shape == (6, 40) and np.abs(found).max() < 2e-5


@pytest.mark.x64
def test_the_mean_growth_is_that_of_log_z():
    """E_p[g] = d log Z / d lambda, by quadrature in one dimension; of other schedules the equation above says it."""
    schedule = SCHEDULES["vp"]
    target = _target(schedule, (Q1, Q2))
    x = jnp.linspace(-14, 14, 2801)[:, None]

    @jax.jit
    def both(lam, case, rates):
        def log_z(lam2):
            return jax.scipy.special.logsumexp(
                jax.vmap(lambda x: _log_target(schedule, target, lam2, case, rates, lam, x))(x)
            )

        log_p = jax.vmap(lambda x: _log_target(schedule, target, lam, case, rates, lam, x))(x)
        return jax.nn.softmax(log_p) @ _growth(schedule, target, lam, case, rates, x)[0], jax.grad(log_z)(lam)

    # at lambda 0 every schedule has noise of the signal's size
    cases = np.delete(CASES, 3, 0), np.delete(RATES, 3, 0)  # of these two the ratio has no integral
    mean, slope = jax.vmap(both, (None, 0, 0))(jnp.zeros(()), *cases)
    assert np.abs(slope).max() > 0.1
    np.testing.assert_allclose(mean, slope, atol=1e-5)


# --- one program for the suite in one dimension -------------------------------------------------------------


class Lane(NamedTuple):
    """One run of the suite."""

    target: str
    num_steps: int = 100
    kappa: float = 2.0
    ess_threshold: float = 0.5


LANES = (
    *(Lane(name) for name in TARGETS),
    *(Lane("U^-.5 C^1.5", num_steps, kappa, 0.99) for num_steps in (50, 100) for kappa in (1.0, 2.0)),
    Lane("Q1^.5", 100, 1.0, 0.0),
)
NUM_PARTICLES, NUM_SEEDS = 256, 16


def _powered(schedule, num_steps, kappa, total, order=2):
    return solvers.sde_dpm(grids.logsnr(schedule, num_steps), tau=kappa**0.5, power=total, order=order)


def _run(key, pair, table, beta, scale, kappa, ess_threshold):
    return correctors.sample(
        key, tuple(_denoiser(m, VE) for m in pair), table, jnp.zeros(1), num_particles=NUM_PARTICLES, std=2.0,
        beta=beta, kappa=kappa, reward=_reward, reward_scale=scale, ess_threshold=ess_threshold,
    )  # fmt: skip


def _of_seeds(run, seed, num_seeds=NUM_SEEDS):
    """A jitted run with an axis of lanes and one of seeds."""
    keys = jax.random.split(jax.random.key(seed), num_seeds)
    return jax.jit(lambda *lanes: jax.vmap(lambda *lane: jax.vmap(lambda key: run(key, *lane))(keys))(*lanes))


@functools.cache
def _suite():
    """All lanes in NumPy, seeds along the second axis."""
    chosen = [TARGETS[lane.target] for lane in LANES]
    pairs = jax.tree.map(lambda *a: np.stack(a), *(t.pair for t in chosen))
    table = tables.stack([_powered(VE, l.num_steps, l.kappa, sum(t.beta)) for l, t in zip(LANES, chosen)])
    column = lambda values: np.asarray(values, np.float32)  # noqa: E731
    beta, scale = column([t.beta for t in chosen]), column([t.scale for t in chosen])
    kappa, threshold = column([l.kappa for l in LANES]), column([l.ess_threshold for l in LANES])
    return contracts.host(_of_seeds(_run, 1)(pairs, table, beta, scale, kappa, threshold))


def _moments(result, weighted=True):
    """Mean and variance of each seed's cloud; log Z is another output."""
    weights = np.exp(result.value.log_weights) if weighted else np.ones_like(result.value.log_weights)
    x = result.value.particles[..., 0].astype(np.float64)
    mean = (weights * x).mean(-1) / weights.mean(-1)
    return mean, (weights * (x - mean[..., None]) ** 2).mean(-1) / weights.mean(-1)


def _assert_mean(values, truth, what, slack=0.0):
    """The mean over seeds within 5 standard errors."""
    error = values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean() - truth) < STANDARD_ERRORS * error + slack, (
        f"{what}: {values.mean():.4f} +- {error:.4f}, truth {truth:.4f}"
    )


def _lane(i):
    return jax.tree.map(lambda a: a[i], _suite())


@pytest.mark.parametrize("name", TARGETS)
def test_the_truth_of_the_suite(name):
    target, x = TARGETS[name], np.linspace(-12, 12, 8001)[:, None]
    log_p = sum(b * mixture.log_prob(m, x, 1.0, 0.0) for m, b in zip(target.pair, target.beta) if b)
    log_p = log_p - target.scale * (x[:, 0] - 0.5) ** 2
    p = np.exp(log_p) * (x[1, 0] - x[0, 0])
    mean = (p * x[:, 0]).sum() / p.sum()
    found = np.log(p.sum()), mean, (p * (x[:, 0] - mean) ** 2).sum() / p.sum()
    np.testing.assert_allclose(found, target.truth, atol=6e-5)


@pytest.mark.parametrize(
    "i", range(len(LANES) - 1), ids=[f"{l.target}, K={l.num_steps}, {l.kappa}" for l in LANES[:-1]]
)
def test_samples_and_log_z_against_quadrature(i):
    """Anneal, product, guidance, reward; and the study: two numbers of steps and two noises at a high threshold."""
    result, truth = _lane(i), TARGETS[LANES[i].target].truth
    assert not result.status.any() and np.all(result.nfe == LANES[i].num_steps)
    _assert_mean(np.exp(result.log_z - truth[0]), 1.0, "Z over its truth")
    mean, variance = _moments(result)
    _assert_mean(mean, truth[1], "mean", 0.03 * truth[2] ** 0.5)
    _assert_mean(variance, truth[2], "variance", 0.03 * truth[2])
    assert LANES[i].ess_threshold < 0.9 or result.history.resampled.any()


def test_without_weights_the_law_is_another():
    """A check of the checks: at kappa = 1 the unweighted variance of Q1^.5 is twice the target's."""
    result, truth = _lane(-1), TARGETS["Q1^.5"].truth
    assert not result.history.resampled.any()
    assert _moments(result, False)[1].mean() > 1.7 * truth[2]
    _assert_mean(_moments(result)[1], truth[2], "variance")


# --- densities ----------------------------------------------------------------------------------------------


def _ramp(start, end, lam):
    """Powers of the two mixtures, linear in lambda between the ends of VE's grid."""
    part = (lam - np.log(1 / 10)) / np.log(1000)
    return start + part * (end - start)


def _with_laws(key, start, end, table, *, exact):
    pair = (Q1, Q2)
    return correctors.sample(
        key, tuple(_denoiser(m, VE) for m in pair), table, jnp.zeros(1), num_particles=NUM_PARTICLES,
        beta=Partial(_ramp, start, end), std=2.0, kappa=2.0, exact=exact,
        log_densities=tuple(Partial(_log_law, m, VE) for m in pair),
    )  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
def test_densities_allow_powers_that_move_and_few_steps(exact):
    """beta from 1 to 2 on its way; by densities Z is unbiased in steps that are too few without."""
    starts, ends = np.float32([[1, 0], [1, 1]]), np.float32([[2, 0], [1, 1]])
    num_steps = 40 if exact else 80
    rows = [_powered(VE, num_steps, 2.0, 2.0, order) for order in (1 if exact else 2, 2)]
    run = _of_seeds(functools.partial(_with_laws, exact=exact), 2, 24)
    result = contracts.host(run(starts, ends, tables.stack(rows)))
    assert not result.status.any() and np.all(result.nfe == num_steps + exact)
    for lane, name in enumerate(("Q1^2", "Q1 Q2")):
        truth, mine = TARGETS[name].truth, jax.tree.map(lambda a, lane=lane: a[lane], result)
        _assert_mean(np.exp(mine.log_z - truth[0]), 1.0, f"Z over its truth, {name}")
        assert abs(_moments(mine)[0].mean() - truth[1]) < 0.3


# --- noise --------------------------------------------------------------------------------------------------


def test_the_variance_ratio_is_that_of_a_normal_target():
    """The variance of an unweighted cloud of a normal law's power, step by step in NumPy."""
    lam, s2 = np.append(np.linspace(-6, -1, 250), np.linspace(-1, 2, 901)[1:]), 0.7
    for beta, kappa, expected in (
        (2, 2, 0.8), (4, 0.5, 0.4), (0.5, 2, 2),
    ):  # fmt: skip
        table = solvers.sde_dpm(grids.at_lams(VE, lam), tau=kappa**0.5, power=beta, order=1)
        rows, sigma = table.predictor, table.sigma
        variance = (s2 + sigma[0] ** 2) / beta
        for i in range(table.num_rows):
            eps = beta * sigma[i] / (s2 + sigma[i] ** 2)  # times x
            slope = rows.x[i, 0] + rows.data[i, 0] * (1 - sigma[i] * eps)
            variance = slope**2 * variance + rows.std[i] ** 2
        np.testing.assert_allclose(variance / ((s2 + sigma[-1] ** 2) / beta), expected, rtol=0.01)
        told = _told(beta, kappa)
        np.testing.assert_allclose(told.variance_ratio, expected, rtol=1e-5)
        np.testing.assert_allclose(told.kappa, kappa, rtol=1e-5)
    assert np.isinf(_told(0.5, 0.5).variance_ratio), "(1 + kappa) beta < 1: it grows without limit"
    assert _told(0.5, None).kappa == 2 and _told(4.0, None).kappa == 1, "the default is max(1, 1/beta)"
    table = solvers.sde_dpm(grids.logsnr(VE, 4), tau=0.8)
    np.testing.assert_allclose(correctors.sample(KEY, _toy, table, ZERO, num_particles=2).kappa, 0.64, rtol=1e-4)


KEY, ZERO = jax.random.key(0), np.zeros(2, np.float32)


def _toy(x, t, cond, w):
    """The exact denoiser of N(0, 1) under VE."""
    return x / (1 + t**2), t * x / (1 + t**2)


def _told(beta, kappa):
    return contracts.host(
        correctors.sample(KEY, _toy, grids.logsnr(VE, 4), ZERO, num_particles=2, beta=beta, kappa=kappa)
    )


# --- forty modes in the plane -------------------------------------------------------------------------------


def _forty():
    """The benchmark of forty normal laws, with unequal weights."""
    uniform = (np.random.RandomState(0).randint(0, 2**32, 80, dtype=np.uint32) & 0xFFFFFF) / 2.0**24
    weights = np.random.default_rng(1).dirichlet(np.ones(40))
    return Mixture(weights, (uniform.reshape(40, 2) - 0.5) * 80, np.full(40, 1.3132617))


FORTY = _forty()
# beta, kappa, log Z, E[log q], mean; from a grid of 1201 x 1201 points
FORTY_TRUTH = (
    (0.5, 2.0, 3.46550, -7.68086, (-2.953, -1.134)),
    (2.0, 2.0, -5.79570, -5.35067, (0.1303, -11.7176)),
    (3.0, 2.0, -10.86854, -4.85142, (2.279, -18.921)),
    (2.0, 0.5, -5.79570, -5.35067, (0.1303, -11.7176)),  # noise that is scaled down with the temperature
)


def _anneal(key, table, beta, kappa, wide):
    denoiser = _denoiser(FORTY, wide)
    return correctors.sample(key, denoiser, table, jnp.zeros(2), num_particles=1024, beta=beta, kappa=kappa, std=23.0)


@pytest.mark.full
def test_forty_modes_annealed():
    """log Z, moments and shares of the modes; noise scaled down with the temperature drops modes, as published."""
    wide = schedules.ve(0.05, 100.0)
    grid = grids.karras(wide, 100)
    table = tables.stack([solvers.sde_dpm(grid, tau=k**0.5, power=b) for b, k, *_ in FORTY_TRUTH])
    beta, kappa = (np.float32([row[i] for row in FORTY_TRUTH]) for i in (0, 1))
    result = contracts.host(_of_seeds(functools.partial(_anneal, wide=wide), 5, 12)(table, beta, kappa))
    assert not result.status.any()
    spread, missed = [], []
    for i, (power, _, log_z, log_q, mean) in enumerate(FORTY_TRUTH):
        x, weights = result.value.particles[i].astype(np.float64), np.exp(result.value.log_weights[i]) / 1024
        if i < 3:
            _assert_mean(np.exp(result.log_z[i] - log_z), 1.0, f"Z over its truth, {power}")
            found = (weights * mixture.log_prob(FORTY, x, 1.0, 0.0)).sum(1)
            _assert_mean(found, log_q, f"E log q, {power}", 0.02)
            for axis in range(2):
                _assert_mean((weights * x[..., axis]).sum(1), mean[axis], f"mean, {power}", 0.3)
        nearest = ((x[:, :, None] - FORTY.means) ** 2).sum(-1).argmin(-1)
        shares = np.stack([np.bincount(n, w, 40) for n, w in zip(nearest, weights)])
        truth = FORTY.weights**power / (FORTY.weights**power).sum()
        missed.append(0.5 * np.abs(shares - truth).sum(1).mean())
        spread.append(result.log_z[i].std())
    assert spread[3] > spread[1] and missed[3] > 1.2 * missed[1]
