r"""Time grids: where a sampler stands, from noise (node 0) to data (node N), as a record that carries its schedule.

A grid is a builder's result: float64 on the host. A grid with traced nodes for learned or adaptive steps is made by
`at_times` and `at_lams`, which check nothing they cannot see.

References: C. Lu et al., "DPM-Solver", 2022, appendix; Q. Zhang, Y. Chen, DEIS, 2023, section 4; T. Karras et al. 2022,
equation 5; S. Lin et al. 2024, table 2 (trailing); A. Sabour et al., "Align Your Steps", 2024 (tables).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from jaxsci.core import entry, keys
from jaxsci.core.host import namespace, to_host
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray, Size, concrete
from jaxsci.diffusion.schedules import NoiseSchedule, chain_length

_INGRAPH = "use grids.at_times(schedule, times) or grids.at_lams(schedule, lams) inside compiled code"

ALIGN_YOUR_STEPS = {
    "sd": (999, 850, 736, 645, 545, 455, 343, 233, 124, 24),
    "sdxl": (999, 845, 730, 587, 443, 310, 193, 116, 53, 13),
}
"""Ten optimised time steps of two published latent models, on their own scale of 0 to 999."""


class TimeGrid(NamedTuple):
    """N + 1 nodes from noise to data.

    Attributes:
        t: schedule times, falling.
        lam: log(alpha / sigma), rising; inf at a last node without noise, -inf at a first one without signal.
        alpha: signal scale, x_t = alpha x_0 + sigma eps.
        sigma: noise scale.
        schedule: where the nodes come from; solvers that insert nodes or integrate over time need it.
    """

    t: Float[Array, " N+1"]
    lam: Float[Array, " N+1"]
    alpha: Float[Array, " N+1"]
    sigma: Float[Array, " N+1"]
    schedule: NoiseSchedule


def at_lams(schedule: NoiseSchedule, lams: Float[ArrayLike, " num_nodes"]) -> TimeGrid:
    """Nodes at given lam, unchecked; traced values allowed.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.at_lams(schedules.ve(), np.array([-1.0, 0.0])).sigma.round(2))
        [2.72 1.  ]
    """
    lams = _nodes(schedule, lams)
    with np.errstate(invalid="ignore"):  # a noise that the schedule never reaches; checked where values may be
        times = schedule.t_of_lam(lams)
    return _grid(schedule, lams.dtype, times, lams)


def at_times(schedule: NoiseSchedule, times: Float[ArrayLike, " num_nodes"]) -> TimeGrid:
    """Nodes at given schedule times, unchecked; traced values allowed.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.at_times(schedules.ve(), np.array([2.0, 1.0])).sigma)
        [2. 1.]
    """
    times = _nodes(schedule, times)
    return _grid(schedule, times.dtype, times, schedule.lam(times))


def _nodes(schedule, nodes):
    """Float64 on the host; inside compiled code the dtype that was given."""
    if nodes is None:
        raise TypeError("grids: nodes must be numbers, got None")
    if namespace(schedule, nodes) is np:
        return np.asarray(nodes, np.float64)
    nodes = jnp.asarray(nodes)
    return nodes if jnp.issubdtype(nodes.dtype, jnp.floating) else nodes.astype(jnp.result_type(float))


def _grid(schedule, dtype, times, lams):
    alpha, sigma = schedule.alpha_sigma(lams)
    xp = namespace(times, lams, alpha, sigma)
    return TimeGrid(*(xp.asarray(a, dtype) for a in (times, lams, alpha, sigma)), schedule)


def _checked(name: str, grid: TimeGrid) -> TimeGrid:
    """The grid in float64, if its nodes rise strictly in lam."""
    lam = np.asarray(grid.lam)
    if lam.ndim != 1 or lam.size < 2:
        raise ValueError(f"grids.{name}: needs at least 2 nodes, got shape {lam.shape}")
    if np.isnan(lam).any():
        raise ValueError(f"grids.{name}: lam is NaN at nodes {np.flatnonzero(np.isnan(lam)).tolist()}; times in range?")
    lost = np.flatnonzero(~np.isfinite(np.asarray(grid.t)))
    if lost.size:
        raise ValueError(
            f"grids.{name}: the schedule has no time for nodes {lost.tolist()}, of lam {lam[lost].tolist()}; it never "
            "reaches that noise, leave them out"
        )
    bad = np.flatnonzero(~(lam[1:] > lam[:-1]))
    if bad.size:
        i = int(bad[0])
        what = "is repeated" if lam[i + 1] == lam[i] else "is out of order"
        raise ValueError(
            f"grids.{name}: nodes must go from noise to data, each lam above the one before; node {i + 1} {what} "
            f"(lam {lam[i]:.6g} then {lam[i + 1]:.6g}). Sort them and drop duplicates"
        )
    return grid


def _ends(name, schedule, num_steps, t_min, t_max, power=1.0):
    """Validated schedule, number of steps and end times of a builder, all on the host; and its power."""
    concrete((schedule, t_min, t_max, power), f"grids.{name}", "schedule, t_min, t_max and power", _INGRAPH)
    if not 0 < float(power) < np.inf:
        raise ValueError(f"grids.{name}: power must be positive, got {power}")
    num_steps = check_size(f"grids.{name}", "num_steps", num_steps)
    schedule = to_host(schedule)
    low = float(schedule.t_min if t_min is None else t_min)
    high = float(schedule.t_max if t_max is None else t_max)
    if not 0 <= low < high:
        raise ValueError(f"grids.{name}: needs 0 <= t_min < t_max, got {low} and {high}")
    return schedule, int(num_steps), low, high


def _lam_ends(name, schedule, low, high):
    """lam at both ends, finite: these grids divide the range of lam or rho."""
    lams = float(schedule.lam(high)), float(schedule.lam(low))
    if not np.isfinite(lams).all():
        raise ValueError(
            f"grids.{name}: lam is {lams[0]:.4g} and {lams[1]:.4g} at the ends t = {high} and {low}; choose ends with "
            "both noise and signal (with_zero adds a last node without noise)"
        )
    return lams


def time(schedule: NoiseSchedule, num_steps: Size, *, power: float = 1.0, t_min=None, t_max=None) -> TimeGrid:
    r"""Uniform in $t^{1/\kappa}$: 1 is uniform in time, 2 the quadratic grid of DEIS.

    Args:
        schedule: the noise schedule.
        num_steps: N, the grid has N + 1 nodes.
        power: kappa.
        t_min, t_max: ends; those of the schedule by default.

    Raises:
        TypeError: a traced argument.
        ValueError: num_steps below 1, ends out of order, or a power that is not positive.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> grid = grids.time(schedules.vp_linear(), 4)
        >>> print(grid.t.round(3))
        [1.    0.75  0.5   0.251 0.001]
    """
    schedule, num_steps, low, high = _ends("time", schedule, num_steps, t_min, t_max, power)
    times = np.linspace(high ** (1 / power), low ** (1 / power), num_steps + 1) ** power
    times[0], times[-1] = high, low
    return _checked("time", at_times(schedule, times))


def logsnr(schedule: NoiseSchedule, num_steps: Size, *, t_min=None, t_max=None) -> TimeGrid:
    """Uniform in lam, that is exponential in sigma/alpha; arguments as in `time`.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(np.diff(grids.logsnr(schedules.ve(0.1, 10.0), 4).lam).round(3))
        [1.151 1.151 1.151 1.151]
    """
    schedule, num_steps, low, high = _ends("logsnr", schedule, num_steps, t_min, t_max)
    first, last = _lam_ends("logsnr", schedule, low, high)
    return _checked("logsnr", at_lams(schedule, np.linspace(first, last, num_steps + 1)))


def karras(schedule: NoiseSchedule, num_steps: Size, *, power: float = 7.0, t_min=None, t_max=None) -> TimeGrid:
    r"""Uniform in $\rho^{1/\kappa}$, $\rho = \sigma/\alpha$; kappa = 7 is the grid of EDM. Arguments as in `time`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.karras(schedules.ve(), 4).sigma.round(2))
        [80.   17.53  2.52  0.17  0.  ]
    """
    schedule, num_steps, low, high = _ends("karras", schedule, num_steps, t_min, t_max, power)
    first, last = np.exp(-np.asarray(_lam_ends("karras", schedule, low, high)))
    rhos = np.linspace(first ** (1 / power), last ** (1 / power), num_steps + 1) ** power
    return _checked("karras", at_lams(schedule, -np.log(rhos)))


def beta(
    schedule: NoiseSchedule, num_steps: Size, *, a: float = 0.6, b: float = 0.6, t_min=None, t_max=None
) -> TimeGrid:
    r"""$\rho$ at the quantiles of a Beta(a, b) law between its ends: dense at both. Arguments as in `time`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.beta(schedules.ve(), 4).sigma.shape)
        (5,)

    References: H. Lee et al., "Beta Sampling is All You Need", 2024.
    """
    import scipy.stats

    schedule, num_steps, low, high = _ends("beta", schedule, num_steps, t_min, t_max)
    first, last = np.exp(-np.asarray(_lam_ends("beta", schedule, low, high)))
    rhos = last + (first - last) * scipy.stats.beta.ppf(1 - np.linspace(0, 1, num_steps + 1), a, b)
    return _checked("beta", at_lams(schedule, -np.log(rhos)))


def started(grid: TimeGrid, order: Size) -> TimeGrid:
    r"""The grid with its first step cut into halves, quarters, ..., so that a multistep solver keeps its order.

    The first row of such a solver is of first order and leaves $h_0^2$ behind, once. Cut down to
    $h_0 = 2^{-m} h \le h^{p/2}$ with $m = \lceil (p/2 - 1) \log_2(1/h) \rceil$ that is $h^p$. It costs m steps more.

    Args:
        grid: of finite first nodes.
        order: p, that shall be kept.

    Raises:
        TypeError: a traced grid.
        ValueError: a first node of pure noise, or an order below 1.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> grid = grids.logsnr(schedules.vp_linear(), 40)
        >>> print(len(grids.started(grid, 4).lam) - len(grid.lam))
        3

    References: E. Hairer, S. Nørsett, G. Wanner, "Solving Ordinary Differential Equations I", 1993, section III.1.
    """
    concrete(grid, "grids.started", "grid", _INGRAPH)
    grid, order = to_host(grid), check_size("grids.started", "order", order)
    h = grid.lam[1] - grid.lam[0]
    if not np.isfinite(h):
        raise ValueError("grids.started: the first step must be finite in lam; start at a little signal")
    num = max(math.ceil((order / 2 - 1) * math.log2(1 / h)), 0)
    within = grid.lam[0] + h * 0.5 ** np.arange(num, 0, -1)
    return at_lams(grid.schedule, np.concatenate([grid.lam[:1], within, grid.lam[1:]]))


def _given(name, schedule, argument, values):
    """Nodes of a builder are there, and known on the host."""
    if values is None:
        raise TypeError(f"grids.{name}: {argument} must be numbers, got None")
    concrete((schedule, values), f"grids.{name}", f"schedule and {argument}", _INGRAPH)


def from_times(schedule: NoiseSchedule, times: Any) -> TimeGrid:
    """Given schedule times, from noise to data: validated, never changed.

    Raises:
        TypeError: a traced argument.
        ValueError: fewer than 2 nodes, NaN, a repeated node or one out of order (the message names it).

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.from_times(schedules.vp_linear(), [1.0, 0.5, 0.1]).t)
        [1.  0.5 0.1]
    """
    _given("from_times", schedule, "times", times)
    return _checked("from_times", at_times(to_host(schedule), np.asarray(times, np.float64)))


def from_sigmas(schedule: NoiseSchedule, sigmas: Any) -> TimeGrid:
    r"""Given noise levels $\rho = \sigma/\alpha$ from large to small; a last 0 is the node without noise.

    Raises:
        TypeError: a traced argument.
        ValueError: negative levels, or see `from_times`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.from_sigmas(schedules.ve(), [10.0, 1.0, 0.0]).sigma)
        [10.  1.  0.]
    """
    _given("from_sigmas", schedule, "sigmas", sigmas)
    rhos = np.asarray(sigmas, np.float64)
    if np.any(rhos < 0):
        raise ValueError(f"grids.from_sigmas: sigmas must be >= 0, got {rhos[rhos < 0][0]}")
    with np.errstate(divide="ignore"):
        return _checked("from_sigmas", at_lams(to_host(schedule), -np.log(rhos)))


def with_zero(grid: TimeGrid) -> TimeGrid:
    """The same grid with one more node without noise, where x = D.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> print(grids.with_zero(grids.logsnr(schedules.ve(), 3)).sigma[-1])
        0.0
    """
    concrete(grid, "grids.with_zero", "grid", _INGRAPH)
    if np.isposinf(np.asarray(grid.lam)[-1]):
        return grid
    return _checked("with_zero", at_lams(to_host(grid.schedule), np.append(np.asarray(grid.lam), np.inf)))


def from_strength(grid: TimeGrid, strength: float) -> TimeGrid:
    """The last part of a grid, for starting at a noisy image instead of pure noise: see `start`.

    Args:
        grid: of N steps.
        strength: share of the steps to keep, in (0, 1]: floor(strength N) of them. 1 forgets the image.

    Raises:
        TypeError: a traced argument.
        ValueError: a strength outside (0, 1], or so small that no step is left.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> grid = grids.logsnr(schedules.vp_linear(), 10)
        >>> print(grids.from_strength(grid, 0.5).lam.shape)
        (6,)

    References: C. Meng et al., "SDEdit", 2022, algorithm 1.
    """
    alternative = "slice the grid's arrays inside compiled code"
    concrete((grid, strength), "grids.from_strength", "grid and strength", alternative)
    num_steps = len(grid.lam) - 1
    kept = int(num_steps * float(strength) + 1e-9)
    if not 0 < float(strength) <= 1 or kept == 0:
        raise ValueError(
            f"grids.from_strength: strength must be in (0, 1] and leave a step of {num_steps}, got {strength}"
        )
    return TimeGrid(*(np.asarray(a)[num_steps - kept :] for a in grid[:4]), to_host(grid.schedule))


def start(key: KeyArray, grid: Any, image: Float[ArrayLike, "*d"], *, node: int = 0) -> Float[Array, "*d"]:
    r"""The image with the noise of a node, $\alpha_i y + \sigma_i\xi$: where an image-to-image run starts.

    Args:
        key: one typed key.
        grid: a grid or a table.
        image: y, one sample (zeros give the start of an unconditional run from any schedule).
        node: i (static).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.diffusion import grids, schedules
        >>> grid = grids.from_strength(grids.time(schedules.vp_linear(), 10), 0.3)
        >>> print(grid.t.round(2), grids.start(jax.random.key(0), grid, jnp.ones((2, 2))).shape)
        [0.3 0.2 0.1 0. ] (2, 2)
    """
    key = keys.as_typed_key(key, "grids.start")
    image = jnp.asarray(image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(f"grids.start: image must be floating, got {image.dtype}")
    alpha, sigma = (jnp.asarray(a[node], image.dtype) for a in (grid.alpha, grid.sigma))
    return alpha * image + sigma * jax.random.normal(key, image.shape, image.dtype)


def from_timesteps(
    schedule: NoiseSchedule, timesteps: Any, *, num_train: int | None = None, last: float | int | None = None
) -> TimeGrid:
    """Given integer (or interpolated) steps of a discrete chain, 0-based and falling, as time (step + 1)/num_train.

    Args:
        schedule: of the chain, from `schedules.vp_discrete`.
        timesteps: steps where the model is called; `ALIGN_YOUR_STEPS` holds published ones.
        num_train: length of the chain: that of the schedule by default, 1000 where it is no chain.
        last: step of one more node, the end of the last interval; None ends without noise.

    Raises:
        ValueError: see `from_times`.

    Example:
        >>> from jaxsci.diffusion import grids, schedules
        >>> chain = schedules.vp_discrete(schedules.betas("linear"))
        >>> print(grids.from_timesteps(chain, [999, 499, 0]).t.round(3))
        [1.    0.5   0.001 0.   ]
    """
    _given("from_timesteps", schedule, "timesteps", timesteps)
    steps = np.asarray(timesteps, np.float64)
    num_train = (chain_length(schedule) or 1000) if num_train is None else num_train
    times = (np.append(steps, last) if last is not None else steps) + 1.0
    grid = _checked("from_timesteps", at_times(to_host(schedule), times / num_train))
    return grid if last is not None else with_zero(grid)


def spacing(
    kind: str,
    num_steps: Size,
    *,
    num_train: int = 1000,
    offset: int = 0,
    num_used: Size | None = None,
    left_out: int = 1,
    rounded: bool = True,
):
    r"""The integer steps of common implementations: "linspace", "leading" or "trailing", falling.

    With T_u = `num_used` steps (T when nothing is clipped) and M = N + `left_out`: linspace round(linspace(0, T_u - 1,
    M)), leading (0..M-1) * floor(T_u / M) plus offset, both without the smallest `left_out`, trailing
    round(T_u, T_u - T/N, ...) - 1.

    Args:
        kind: one of the three.
        num_steps: N.
        num_train: T.
        offset: added to "leading" steps.
        num_used: steps left where the chain is cut off at its noisy end.
        left_out: 1 where implementations count one more step and leave out the smallest, otherwise 0.
        rounded: False keeps the fractions of "linspace".

    Returns:
        NumPy int64[N]; float64 if not `rounded`.

    Raises:
        ValueError: an unknown kind, or more steps than the chain has room for.

    Example:
        >>> from jaxsci.diffusion import grids
        >>> print(grids.spacing("trailing", 4))
        [999 749 499 249]

    References: S. Lin et al. 2024, table 2.
    """
    used, size = num_train if num_used is None else num_used, num_steps + left_out
    if not 1 <= num_steps <= used:
        raise ValueError(f"grids.spacing: num_steps must be in [1, {used}], got {num_steps}")
    if kind == "linspace":
        steps = np.linspace(0, used - 1, size)[::-1][:num_steps]
    elif kind == "leading":
        steps = (np.arange(size) * (used // size))[::-1][:num_steps] + offset
    elif kind == "trailing":
        steps = np.round(np.arange(used, 0, -num_train / num_steps))[:num_steps] - 1
    else:
        raise ValueError(f"grids.spacing: kind must be 'linspace', 'leading' or 'trailing', got {kind!r}")
    steps = np.round(steps) if rounded else steps
    if np.any(np.diff(steps) >= 0):
        raise ValueError(
            f"grids.spacing: num_steps={num_steps} of {kind!r} in a chain of {used} repeats steps; use fewer"
        )
    return steps.astype(np.int64 if rounded else np.float64)


__all__ = [
    "ALIGN_YOUR_STEPS",
    "TimeGrid",
    "at_lams",
    "at_times",
    "beta",
    "from_sigmas",
    "from_strength",
    "from_times",
    "from_timesteps",
    "karras",
    "logsnr",
    "spacing",
    "start",
    "started",
    "time",
    "with_zero",
]

entry.guard(globals())
