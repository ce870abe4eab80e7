r"""Feynman-Kac correctors: weighted samples of a product of powers of diffusion models, with its normalising constant.

The target is $\frac1Z \prod_i q_i(x)^{\beta_i}\,e^{\rho r(x)}$: one model annealed, two guided (powers 1 - w and w) or
multiplied, a law tilted by a reward. A solver's table moves a cloud of particles by the composed prediction, weights
make up for what that gets wrong (equation in `_composed.py`), and the cloud is resampled where they grow uneven. It
is an `smc.Model`, so that all of `smc` applies to it.

References: M. Skreta et al., "Feynman-Kac Correctors in Diffusion: Annealing, Guidance, and Product of Experts", 2025;
P. Del Moral, A. Doucet, A. Jasra, "Sequential Monte Carlo samplers", 2006, section 3.3 (weights from densities).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Real

from jaxsci import smc
from jaxsci.core import entry, status, tree
from jaxsci.core.host import as_leaf, to_host
from jaxsci.core.static import as_partial, bind, check_size
from jaxsci.core.types import KeyArray, Size, as_real, as_scalar, concrete, is_concrete
from jaxsci.diffusion import _corrected, solvers
from jaxsci.diffusion._composed import Target
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.tables import SolverTable

BIASED = status.register(
    "diffusion",
    22,
    "biased weights",
    "a window, a clip or a centring changed the weights: the cloud follows the target less closely than with all of "
    "them, and log Z is no estimate of its constant",
    "compare with window=None, clip=None and centre=False",
    notice=True,
)
"""Notice of `sample`: the weights are not those of the target."""


class Result(NamedTuple):
    r"""A weighted cloud of samples, and what it tells of the target.

    Attributes:
        value: samples at the last node and their log-weights, of mean weight 1.
        state: of the `smc` run: particles with the histories of the solver.
        history: of the start and of every row: log-increment, effective sample size, whether it was resampled.
        status: that of `smc.run`; OUT_OF_RANGE (powers that leave no normal law to start from, a table that starts
            without any signal or never gains any); the notice BIASED.
        log_z: log of the estimated Z, the law at node 0 included.
        nfe: calls of each model for each particle.
        kappa: noise of the solver, its mean over lambda.
        variance_ratio: $B\kappa/((1+\kappa)B - 1)$ with $B = \sum_i\beta_i$: the variance of the unweighted cloud over
            that of a narrow normal target. Above 1 is benign, below 1 are heavy-tailed weights and lost modes; inf
            where it has no limit.
    """

    value: smc.Cloud
    state: smc.State
    history: smc.Step
    status: Int[Array, ""]
    log_z: Float[Array, ""]
    nfe: Int[Array, ""]
    kappa: Float[Array, ""]
    variance_ratio: Float[Array, ""]


# --- what users give ----------------------------------------------------------------------------------------


def _several(value, m, name):
    """A tuple of m things."""
    value = value if isinstance(value, (tuple, list)) else (value,) * m
    if len(value) != m:
        raise ValueError(f"correctors.sample: {name} must be one for each of {m} denoisers, got {len(value)}")
    return tuple(value)


def _path(value, m, name):
    """Numbers, one for each of m or one alone, or a function of lambda that gives them."""
    if callable(value):
        return as_partial(value, "correctors.sample", name)
    value = as_leaf(value)
    if np.shape(value) != (m,) and not (m in (None, 1) and np.shape(value) == ()):
        expected = "a number" if m is None else f"one for each of {m} denoisers"
        raise ValueError(
            f"correctors.sample: {name} must be {expected}, or a function of lambda that gives it, got shape "
            f"{np.shape(value)}"
        )
    return value


def _table(table, beta, kappa):
    """(table, kappa of its rows); a grid becomes a table, see `sample`."""
    if isinstance(table, SolverTable):
        if table.evaluate is not None:
            raise ValueError(
                "correctors.sample: every row of the table must call the models, got one with analytic predictions; "
                "build it without tables.analytic_first"
            )
        table = to_host(table) if is_concrete(table) else table
        return table, _corrected.kappas_of(table) if kappa is None else as_scalar(kappa, "correctors.sample", "kappa")
    if not isinstance(table, TimeGrid):
        raise TypeError(f"correctors.sample: table must be a SolverTable or a TimeGrid, got {type(table).__name__}")
    remedy = "build the table before, by solvers.sde_dpm(grid, tau=kappa**.5, power=sum of beta)"
    lam = concrete(table.lam, "correctors.sample", "a grid", remedy)
    powers = [beta(v) for v in lam[np.isfinite(lam)]] if callable(beta) else [beta]
    totals = [float(np.sum(v)) for v in concrete(powers, "correctors.sample", "beta with a grid", remedy)]
    if kappa is None:
        kappa = max(1.0, 1 / min(totals)) if min(totals) > 0 else 1.0
    kappa = float(concrete(kappa, "correctors.sample", "kappa with a grid", remedy))
    return solvers.sde_dpm(table, tau=kappa**0.5, power=max(*totals, 1 / (1 + kappa), 1e-3)), np.float64(kappa)


def _problem(
    denoisers, table, mean, beta, conds, std, kappa, reward, reward_scale, log_densities, exact, ess_threshold,
    interval, window, clip, centre,
):  # fmt: skip
    """The model, and what `_corrected.prepared` makes."""
    name = "correctors.sample"
    denoisers = denoisers if isinstance(denoisers, (tuple, list)) else (denoisers,)
    m, exact = len(denoisers), bool(exact)
    if m == 0:
        raise ValueError(f"{name}: denoisers must be one or several, got none")
    denoisers = tuple(as_partial(f, name, "denoisers") for f in denoisers)
    conds = (None,) * m if conds is None else tree.as_arrays(_several(conds, m, "conds"))
    means = tuple(jnp.asarray(a) for a in _several(mean, m, "mean"))
    dtype = jnp.result_type(*means)
    if not jnp.issubdtype(dtype, jnp.floating) or len({a.shape for a in means}) > 1:
        got = ", ".join(f"{a.dtype}{list(a.shape)}" for a in means)
        raise TypeError(f"{name}: mean must be floating and of the shape of one sample, got {got}")
    means, stds = (
        tuple(as_real(a, dtype) for a in _several(value, m, what)) for value, what in ((means, "mean"), (std, "std"))
    )
    beta = _path(beta, m, "beta")
    if log_densities is not None:
        log_densities = tuple(as_partial(f, name, "log_densities") for f in _several(log_densities, m, "log_densities"))
    elif callable(beta) or exact:
        what = "a beta that changes with lambda" if callable(beta) else "exact=True"
        raise ValueError(
            f"{name}: {what} needs log_densities, the log-density of each model at every noise: its weights hold "
            "log q, which no denoiser tells; keep beta constant and exact=False, or pass them"
        )
    reward = None if reward is None else as_partial(reward, name, "reward")
    target = Target(denoisers, conds, beta, reward, _path(reward_scale, None, "reward_scale"), log_densities)
    table, kappas = _table(table, beta, kappa)
    if exact and table.predictor.std is None:
        raise ValueError(
            f"{name}: exact=True compares the densities of noisy moves, got a table without noise; use solvers.sde_dpm"
        )
    if window is not None:
        if len(window) != 2:
            raise ValueError(f"{name}: window must be (low, high) in lambda, got {len(window)} numbers")
        window = tuple(as_scalar(a, name, "window") for a in window)
    options = _corrected.Options(window, None if clip is None else as_scalar(clip, name, "clip"), bool(centre))
    share = as_scalar(ess_threshold, name, "ess_threshold")
    ready = _corrected.prepared(
        target, table, kappas, means, stds, options, share, check_size(name, "interval", interval), exact
    )
    init, move = bind(_corrected.start, exact=exact), bind(_corrected.move, exact=exact)
    return smc.Model(Partial(init, target, ready.law), Partial(move, target, options)), ready


def model(
    denoisers: Callable | tuple[Callable, ...],
    table: SolverTable | TimeGrid,
    mean: Float[ArrayLike, "*d"] | tuple,
    *,
    beta: Real[ArrayLike, "..."] | Callable[..., Array] = 1.0,
    conds: tuple[PyTree, ...] | None = None,
    std: ArrayLike | tuple = 1.0,
    kappa: ArrayLike | None = None,
    reward: Callable[..., Array] | None = None,
    reward_scale: ArrayLike | Callable[..., Array] = 1.0,
    log_densities: Callable | tuple[Callable, ...] | None = None,
    exact: bool = False,
    ess_threshold: ArrayLike = 0.5,
    interval: Size = 1,
    window: tuple[ArrayLike, ArrayLike] | None = None,
    clip: ArrayLike | None = None,
    centre: bool = False,
) -> tuple[smc.Model, PyTree, Float[Array, " T"]]:
    """The model of the cloud, for `smc.init` and `smc.step`, `smc.in_batches` or a `smc.run` of one's own.

    Arguments as for `sample`.

    Returns:
        ``(model, inputs, ess_threshold)``, what `smc.run` takes: T = N + 1 inputs, one for the start and one for each
        row of the table, and a threshold for each. Samples are ``particles.state.x``.

    Raises:
        TypeError, ValueError: as `sample`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> ve = diffusion.schedules.ve(0.01, 10.0)
        >>> def network(x, t, cond):  # of N(0, 1)
        ...     return t * x / (1 + t**2)
        >>> denoiser = diffusion.predictions.denoiser(network, ve, "epsilon")
        >>> model = diffusion.correctors.model(denoiser, diffusion.grids.logsnr(ve, 5), jnp.zeros(1), beta=2.0)
        >>> print(type(model).__name__)
        tuple
    """
    found, ready = _problem(
        denoisers, table, mean, beta, conds, std, kappa, reward, reward_scale, log_densities, exact, ess_threshold,
        interval, window, clip, centre,
    )  # fmt: skip
    return found, ready.inputs, ready.shares


def sample(
    key: KeyArray,
    denoisers: Callable | tuple[Callable, ...],
    table: SolverTable | TimeGrid,
    mean: Float[ArrayLike, "*d"] | tuple,
    *,
    num_particles: Size,
    beta: Real[ArrayLike, "..."] | Callable[..., Array] = 1.0,
    conds: tuple[PyTree, ...] | None = None,
    std: ArrayLike | tuple = 1.0,
    kappa: ArrayLike | None = None,
    reward: Callable[..., Array] | None = None,
    reward_scale: ArrayLike | Callable[..., Array] = 1.0,
    log_densities: Callable | tuple[Callable, ...] | None = None,
    exact: bool = False,
    ess_threshold: ArrayLike = 0.5,
    interval: Size = 1,
    window: tuple[ArrayLike, ArrayLike] | None = None,
    clip: ArrayLike | None = None,
    centre: bool = False,
    store: str | tuple[str, ...] = (),
    **options: Any,
) -> Result:
    r"""Weighted samples of $\frac1Z \prod_i q_i^{\beta_i} e^{\rho r}$, and log Z.

    The cloud starts at node 0 from the normal law that the powers of $N(\alpha m_i, \alpha^2 s_i^2 + \sigma^2)$ make,
    whose constant log Z begins with. $E[\hat Z]$ is Z up to the steps of the solver; with `exact` for any steps.

    Args:
        key: one typed key; one draw a step serves the whole cloud.
        denoisers: m functions ``(x, t, cond, w) -> (D, eps)`` of one schedule, or one alone; each is called once a step
            at every particle with w = 1. A denoiser made for classifier-free guidance hides its two laws: give the
            conditional and the unconditional one as two, with the powers w and 1 - w.
        table: any solver, all rows of which call the models; noise helps (see `Result.variance_ratio`). A grid stands
            for ``solvers.sde_dpm(grid, tau=kappa**.5, power=B)``, $B = \sum_i\beta_i$. A last step to a node without
            noise moves the cloud and is not weighed.
        mean: m_i, the mean of the data, of the shape of one sample, whose dtype all computations take; or one for each.
        num_particles: N, static.
        beta: the powers, traced: one for each denoiser, of any sign; or a function of lambda, which needs
            `log_densities`.
        conds: condition of each denoiser, None for none.
        std: s_i, standard deviation of the data: a number or an array of the data's shape; or one for each.
        kappa: tau^2 of the solver. With a grid: 0 is the ODE, None is max(1, 1/B), built. With a table, traced: None
            reads it off the noise of the rows, which is right for the reverse SDE of power 1 and for eta.
        reward: ``reward(x, t) -> r``, differentiable; -inf excludes x.
        reward_scale: rho at the last node, approached as alpha^2/(alpha^2 + sigma^2), traced; or a function of lambda.
        log_densities: ``(x, t, cond) -> log q_i`` at the noise of schedule time t, normalised, one for each. With them
            the start is corrected too.
        exact: weigh by densities instead of by predictions: unbiased for any table with noise, at one more call.
        ess_threshold: resample when the effective sample size is below this share of N; 0 never, 1 always; traced.
        interval: look at that every `interval` rows, static.
        window: (low, high) in lambda: no weights and no resampling outside. Biased.
        clip: limit of every increment of a log-weight. Biased.
        centre: subtract from the increments their mean over the cloud, before `clip`. Biased.
        store, **options: of `smc.run`: `resampler`, `statistics`, `keep_at`, `checkpoint`, ...

    Returns:
        A `Result`. Where window, clip or centring changed something its status holds the notice BIASED. Differentiable
        where `smc.run` is, with its reservations.

    Raises:
        TypeError: `table` is neither, `mean` is not floating, or a function returns what it must not.
        ValueError: numbers of things that do not agree, or what `log_densities` is missing for.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> ve = diffusion.schedules.ve(0.01, 10.0)
        >>> def model(x, t, cond):  # of N(cond, 1): eps = -sigma score
        ...     return t * (x - cond) / (1 + t**2)
        >>> denoiser = diffusion.predictions.denoiser(model, ve, "epsilon")
        >>> grid, means = diffusion.grids.logsnr(ve, 50), (jnp.zeros(1), jnp.ones(1))
        >>> powers = dict(beta=jnp.array([1.0, 1.0]), conds=(0.0, 1.0), kappa=2.0)
        >>> sample = diffusion.correctors.sample
        >>> result = sample(jax.random.key(0), (denoiser, denoiser), grid, means, num_particles=4096, **powers)
        >>> print(f"{result.log_z:.1f}")  # log N(1; 0, 2) = -1.516
        -1.5
        >>> print(f"{result.variance_ratio:.3f}", int(result.nfe), int(result.status))
        0.800 50 0

    References: Skreta et al. 2025, algorithm 1; the choice of kappa is that of a normal law, in closed form.
    """
    name = "correctors.sample"
    found, ready = _problem(
        denoisers, table, mean, beta, conds, std, kappa, reward, reward_scale, log_densities, exact, ess_threshold,
        interval, window, clip, centre,
    )  # fmt: skip
    store = (store,) if isinstance(store, str) else tuple(store)
    run = smc.run(
        key, found, ready.inputs, num_particles=check_size(name, "num_particles", num_particles),
        ess_threshold=ready.shares, store=tuple({*store, "aux"}), **options,
    )  # fmt: skip
    return _told(run, ready, "aux" in store)


@eqx.filter_jit
def _told(run, ready, aux):
    bits = run.status | ready.status | status.flag(jnp.any(run.history.aux), BIASED)
    cloud = run.value._replace(particles=run.value.particles.state.x)
    x = cloud.particles
    lost = jnp.isfinite(cloud.log_weights) & ~jnp.all(jnp.isfinite(x), axis=tuple(range(1, x.ndim)))
    bits = bits | status.flag(jnp.any(lost), status.NONFINITE_RESULT)
    history = run.history if aux else run.history._replace(aux=None)
    return Result(cloud, run.state, history, bits, run.log_z, ready.nfe, ready.kappa, ready.variance_ratio)


__all__ = ["BIASED", "Result", "model", "sample"]

entry.guard(globals())
