r"""Gaussian mixtures, whose denoiser is known exactly, and their probability-flow ODE solved to 1e-10 as truth.

For $p_0 = \sum_k w_k N(\mu_k, s_k^2 I)$ with $v_k = \alpha^2 s_k^2 + \sigma^2$ and posterior weights $r_k$,

$$ D = \sum_k r_k\,\bigl(\tfrac{\sigma^2}{v_k}\mu_k + \tfrac{\alpha s_k^2}{v_k} x\bigr), \qquad
   \varepsilon = \sigma\sum_k \tfrac{r_k}{v_k}(x - \alpha\mu_k). $$

Usage in a test::

    from diffusion import mixture
    problem = mixture.problem_a()
    denoiser = mixture.denoiser(problem.mixture, problem.schedule)      # (x, t, cond, w) -> (D, eps), single example
    truth = mixture.truth("a")                                          # NumPy float64 [256, 2], computed once
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from scipy.integrate import solve_ivp
from scipy.special import logsumexp
from threadpoolctl import threadpool_limits

from jaxsci.diffusion import predictions, schedules


class Mixture(NamedTuple):
    """Weights [K], means [K, d], standard deviations [K]."""

    weights: Any
    means: Any
    stds: Any


class Problem(NamedTuple):
    """A mixture, its schedule, the starting points [batch, d] and, where known, the first truths."""

    mixture: Mixture
    schedule: schedules.NoiseSchedule
    x_T: np.ndarray
    golden: np.ndarray | None


@functools.cache
def problem_a() -> Problem:
    """Five components in the plane, 256 particles, vp_linear from 1 to 1e-3."""
    means = np.array([(1.5, 0), (-1, 1.2), (-0.8, -1.4), (0.6, 1.6), (1.2, -1.5)])
    mixture = Mixture(np.array([0.3, 0.25, 0.2, 0.15, 0.1]), means, np.array([0.3, 0.25, 0.35, 0.2, 0.4]))
    golden = np.array([(1.18231508, -0.02280515), (1.44722921, 0.08580909)])
    return Problem(mixture, schedules.vp_linear(), np.random.default_rng(0).standard_normal((256, 2)), golden)


@functools.cache
def digits_mixture(bandwidth: float = 0.3, seed: int = 1) -> Problem:
    """All 1797 digits of scikit-learn, pixel/8 - 1, equal weights; 64 starting points."""
    from sklearn.datasets import load_digits

    means = load_digits().data / 8.0 - 1.0
    mixture = Mixture(np.full(len(means), 1 / len(means)), means, np.full(len(means), bandwidth))
    return Problem(mixture, schedules.vp_linear(), np.random.default_rng(seed).standard_normal((64, 64)), None)


def single_gaussian(mean=(0.7, -0.4), std: float = 0.5) -> Mixture:
    """One component; its flow is `gaussian_flow`."""
    return Mixture(np.ones(1), np.asarray(mean, np.float64)[None], np.full(1, std))


def gaussian_flow(mean, std, x, start, end):
    """The exact flow of N(mean, std^2) between two pairs (alpha, sigma)."""
    (a, s), (b, t) = start, end
    return b * mean + (x - a * mean) * np.sqrt((b**2 * std**2 + t**2) / (a**2 * std**2 + s**2))


# --- exact predictions --------------------------------------------------------------------------------------


def _copied(mixture):
    """Fresh NumPy arrays for a trace: JAX remembers the precision in which a captured NumPy object was lowered.

    An array that a scan's body captured under x64 would arrive in float64 in later programs without x64.
    """
    return Mixture(*(a.copy() if isinstance(a, np.ndarray) else a for a in mixture))


def _posterior(xp, mixture, x, alpha, sigma):
    """(log weighted densities up to (d/2) log 2 pi, variances), components on the last axis."""
    v = alpha**2 * mixture.stds**2 + sigma**2
    dots = x @ mixture.means.T if xp is np else jnp.matmul(mixture.means, x, precision="highest")
    norm = (x * x).sum(-1, keepdims=xp is np)
    distance = norm - 2 * alpha * dots + alpha**2 * (mixture.means**2).sum(-1)
    return xp.log(mixture.weights) - x.shape[-1] / 2 * xp.log(v) - distance / (2 * v), v


def predict(mixture: Mixture, x, alpha, sigma):
    """Exact (D, eps): NumPy for a batch [..., d] in float64, JAX for one example."""
    xp = np if isinstance(x, np.ndarray) else jnp
    mixture = mixture if xp is np else _copied(mixture)
    logits, v = _posterior(xp, mixture, x, alpha, sigma)
    # the shift cancels; differentiated, a maximum compares its operand with itself, computed anew in another kernel: at
    # XLA's level 0 the two can differ by rounding, no entry is the largest, and the derivative is 0/0
    largest = logits.max(-1, keepdims=True)
    weights = xp.exp(logits - (largest if xp is np else jax.lax.stop_gradient(largest)))
    weights = weights / weights.sum(-1, keepdims=True)
    mean = weights / v @ mixture.means if xp is np else jnp.matmul(weights / v, mixture.means, precision="highest")
    keep = xp is np
    data = sigma**2 * mean + alpha * (weights * (mixture.stds**2 / v)).sum(-1, keepdims=keep) * x
    return data, sigma * ((weights / v).sum(-1, keepdims=keep) * x - alpha * mean)


def log_prob(mixture: Mixture, x: np.ndarray, alpha, sigma) -> np.ndarray:
    """Exact log-density of the noisy mixture, NumPy [..., d] -> [...]."""
    return logsumexp(_posterior(np, mixture, x, alpha, sigma)[0], axis=-1) - x.shape[-1] / 2 * np.log(2 * np.pi)


def data_variance(mixture: Mixture, x, alpha, sigma):
    """Var(x_0 | x) per dimension: NumPy for a batch, JAX for one example."""
    xp = np if isinstance(x, np.ndarray) else jnp
    mixture = mixture if xp is np else _copied(mixture)
    logits, v = _posterior(xp, mixture, x, alpha, sigma)
    weights = xp.exp(logits - logsumexp(logits, axis=-1, keepdims=True)) if xp is np else jax.nn.softmax(logits)
    if xp is np:
        x = x[..., None, :]
    else:
        x = jnp.broadcast_to(x, mixture.means.shape)
    gain = sigma**2 / v
    centre = gain[:, None] * mixture.means + (alpha * mixture.stds**2 / v)[:, None] * x
    second = centre**2 + (mixture.stds**2 * gain)[:, None]
    return (weights[..., None] * second).sum(-2) - (weights[..., None] * centre).sum(-2) ** 2


def draw(mixture: Mixture, key):
    """One draw, float64 only if the weights are; traced. A sum instead of a search: it compiles faster."""
    choose, noise = jax.random.split(key)
    steps = jnp.asarray(np.cumsum(mixture.weights))
    k = jnp.sum(steps[:-1] < steps[-1] * (1 - jax.random.uniform(choose, (), steps.dtype)))
    z = jax.random.normal(noise, mixture.means.shape[1:])
    return jnp.asarray(mixture.means)[k] + jnp.asarray(mixture.stds)[k] * z


def _noise_model(mixture, schedule, x, t, cond):
    mixture = jax.tree.map(lambda a: jnp.asarray(a, x.dtype), mixture)
    alpha, sigma = schedule.alpha_sigma(schedule.lam(t))
    return predict(mixture, x, jnp.asarray(alpha, x.dtype), jnp.asarray(sigma, x.dtype))[1]


def noise_model(mixture: Mixture, schedule) -> Partial:
    """``model(x, t, cond) -> eps`` of the exact mixture: what a perfectly trained network would return."""
    return Partial(_noise_model, mixture, schedule)


def denoiser(mixture: Mixture, schedule) -> Partial:
    """The same as a denoiser ``(x, t, cond, w) -> (D, eps)``."""
    return predictions.denoiser(noise_model(mixture, schedule), schedule, "epsilon")


def plain_loop(table, predict, x, noise=None):
    """The recursion of `jaxsci.diffusion.tables` in NumPy float64: final state, and lists of x, D and eps.

    ``predict(x, i) -> (D, eps)``; ``noise(i)`` draws for row i.
    """
    xs, datas, noises = [], [], []

    def combine(rows, i):
        parts = ((rows.x, xs), (rows.data, datas), (rows.noise, noises))
        return sum(c[i, k] * h[-1 - k] for c, h in parts for k in range(c.shape[1]) if np.any(c[i, k]))

    for i in range(table.t.shape[-1] - 1):
        D, eps = predict(x, i)
        datas.append(D)
        noises.append(eps)
        xs.append(x)
        if table.corrector is not None and table.corrected[i]:
            xs[-1] = combine(table.corrector, i)
        x = combine(table.predictor, i)
        if table.predictor.std is not None:
            x = x + table.predictor.std[i] * noise(i)
    return x, xs, datas, noises


# --- truth --------------------------------------------------------------------------------------------------


def reference(mixture: Mixture, schedule, x_T, *, lam_start=None, lam_end=None, tol: float = 1e-11) -> np.ndarray:
    """The probability-flow ODE in lambda from `lam_start` to `lam_end` by DOP853, NumPy float64 whatever JAX's is."""
    start = float(schedule.lam(np.float64(schedule.t_max))) if lam_start is None else lam_start
    end = float(schedule.lam(np.float64(schedule.t_min))) if lam_end is None else lam_end
    x_T = np.asarray(x_T, np.float64)

    def slope(lam, y):
        x = y.reshape(x_T.shape)
        alpha, sigma = schedule.alpha_sigma(np.float64(lam))
        return (schedule.rate(np.float64(lam)) * x - sigma * predict(mixture, x, alpha, sigma)[1]).ravel()

    with threadpool_limits(1):  # small products: threads would wait for each other on a busy machine
        solution = solve_ivp(slope, (start, end), x_T.ravel(), method="DOP853", rtol=tol, atol=tol, t_eval=[end])
    assert solution.success, solution.message
    return solution.y[:, -1].reshape(x_T.shape)


@functools.cache
def truth(name: str) -> np.ndarray:
    """`reference` of "a" or "digits", computed once per process."""
    problem = {"a": problem_a, "digits": digits_mixture}[name]()
    return reference(problem.mixture, problem.schedule, problem.x_T, tol=1e-11 if name == "a" else 1e-7)


def rmse(x, truth, *, per_entry: bool = False) -> float:
    """Root mean square over particles of |x - truth| (problem A), or over entries (digits)."""
    error = np.asarray(x, np.float64) - truth
    return float(np.sqrt((error**2).mean() if per_entry else (error**2).sum(-1).mean()))
