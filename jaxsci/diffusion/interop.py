r"""From and to other libraries: scheduler configurations as tables, and tables for networks of any array library.

`from_diffusers` reads a ``scheduler_config.json`` as a plain dict and returns what is needed to sample as that
scheduler does: noise schedule, prediction kind, solver table, scale of the initial noise and the network's times.
`run_plain` is `diffusion.sample` in plain Python, for networks that are not written in JAX.

States are those of the schedule's own law, $x = \alpha x_0 + \sigma\varepsilon$; where the library keeps $x/\alpha$
(Euler, Heun, linear multistep) its states are ours divided by alpha.

References: `_diffusers` and `_diffusers_rows` name what each class is made from; the common form is in `tables`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from jaxsci.core.static import bind
from jaxsci.core.types import Size
from jaxsci.diffusion import _diffusers, predictions, schedules, solvers
from jaxsci.diffusion._diffusers import Unsupported, refuse
from jaxsci.diffusion._diffusers_rows import CLASSES, Wanted
from jaxsci.diffusion._namespace import concrete, namespace
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.tables import SolverTable, num_rows, tabulate

_FAR = 1e30  # stands for the infinite level of pure noise among finite knots


class Imported(NamedTuple):
    """A scheduler of another library, in our terms."""

    schedule: NoiseSchedule
    """Its time is sigma/alpha (sigma for flows); ``model_time`` is right at the nodes, elsewhere that of the chain."""
    kind: str
    """Prediction kind, one of `predictions.KINDS`."""
    table: SolverTable
    init_scale: Float[Array, ""] | float
    """The state at node 0 is this times unit noise; ``alpha[0] image + sigma[0] noise`` of the table otherwise."""
    timesteps: Float[Array, " N"]
    """The network's time in every row."""
    sigma_data: Float[Array, ""] | float
    """Standard deviation of the data, of kind "edm"."""
    limit: Callable[..., Any] | None
    """``limit(D, eps, x, t) -> (D, eps)``: clipping or thresholding as configured; `denoiser` applies it; or None."""


def _node_time(knots, values, t, *, log):
    """Interpolation between knots, in log rho or rho; exact at a knot in any precision."""
    xp = namespace(knots, t)
    knots, values = xp.asarray(knots), xp.asarray(values)
    t = xp.clip(xp.asarray(t), knots[0], knots[-1])
    i = xp.clip(xp.searchsorted(knots, t, side="right") - 1, 0, knots.shape[0] - 2)
    low, high = knots[i], knots[i + 1]
    if log:
        ratio = xp.where(high > low, high / low, 2.0)
        share = xp.log(t / low) / xp.log(ratio)
    else:
        share = (t - low) / xp.where(high > low, high - low, 1.0)
    return values[i] + share * (values[i + 1] - values[i])


def _knots(chain, nodes):
    """The trained chain (levels, times), with each node (level, time), both rising, in place of the nearest knot.

    So the number of knots is that of the chain, whatever the steps are, and programs are shared.
    """
    (levels, times), (mine, of_network) = (tuple(np.array(a, np.float64) for a in pair) for pair in (chain, nodes))
    size, num = len(levels), len(mine)
    if num > size:
        return mine, of_network
    log = np.log(levels)
    right = np.clip(np.searchsorted(log, np.log(mine)), 1, size - 1)
    nearest = right - (np.log(mine) - log[right - 1] < log[right] - np.log(mine))
    ramp = np.arange(num)  # one knot each: pushed up where they crowd, and down from the end
    index = np.minimum(np.maximum.accumulate(nearest - ramp), size - num) + ramp
    levels[index], times[index] = mine, of_network
    return levels, times


def _grid(law, levels, steps, chain, further=()):
    """Nodes at given levels, and a schedule that knows the network's times: there, at `further` and of the chain."""
    ve, values = schedules.ve(), np.asarray(levels, np.float64)
    base = {"vp": schedules.vp_linear(), "ve": ve, "flow": schedules.flow()}[law]
    if law == "vp":  # the level is the time, whatever the chain: exact also in float32
        base = base._replace(lam=ve.lam, t_of_lam=ve.t_of_lam)
    with np.errstate(divide="ignore"):
        lam = np.array(base.lam(values))
    if np.isfinite(lam[-2:]).all() and abs(lam[-1] - lam[-2]) < 1e-6:  # below what single precision tells apart
        lam[-1] = lam[-2]
    falls = np.diff(lam) > 0
    falls[-1] |= lam[-1] == lam[-2]  # a last step of length zero is the identity
    if not falls.all():
        i = int(np.flatnonzero(~falls)[0])
        raise ValueError(
            f"interop.from_diffusers: noise levels must fall, but node {i + 1} does not: {values[i]:.6g} then "
            f"{values[i + 1]:.6g}; are time steps repeated? Use fewer steps or another spacing"
        )
    nodes = sorted([*zip(np.minimum(values[:-1], _FAR), steps), *further])
    knots = _knots(chain, tuple(zip(*nodes)))
    alpha, sigma = base.alpha_sigma(lam)
    schedule = base._replace(
        model_time=Partial(bind(_node_time, log=law != "flow"), *knots), t_min=values[values > 0].min(), t_max=values[0]
    )
    return TimeGrid(values, lam, alpha, sigma, schedule)


def _limit(schedule, first, second, data, noise, x, t, *, dynamic, again):
    """Clip or threshold D; eps follows unless the class keeps the network's own."""
    if dynamic:
        data = predictions.dynamic_threshold(data, first, max_value=second)
    else:
        data = predictions.clip(data, jnp.asarray(first, data.dtype))
    if not again:
        return data, noise
    alpha, sigma = (jnp.asarray(v, x.dtype) for v in schedule.alpha_sigma(schedule.lam(t)))
    return data, (x - alpha * data) / sigma


def from_diffusers(
    config: dict,
    num_steps: Size | None = None,
    *,
    timesteps: Any = None,
    sigmas: Any = None,
    begin: int = 0,
    eta: float = 0.0,
    mu: float | None = None,
    weights: str = "published",
) -> Imported:
    """The solver that a scheduler of the diffusers library is, from its configuration. A builder; nothing is imported.

    Args:
        config: as in ``scheduler_config.json``; ``_class_name`` picks the class, missing options have the library's
            defaults, options of other known classes are passed over as the library does.
        num_steps: number of inference steps (built), without `timesteps` and `sigmas`; the classes with two stages
            make 2 num_steps - 1 calls.
        timesteps: steps of the chain instead, falling; or those that belong to `sigmas`.
        sigmas: levels sigma/alpha instead (sigma for flows), falling, the last node included; they are kept as given.
        begin: leave out the first steps, to start from a noisy image; the history starts there.
        eta: noise of DDIM, 0 to 1.
        mu: shift of the configurations with ``use_dynamic_shifting``; not with `sigmas`, which are shifted already.
        weights: "published": third-order rows of DPM-Solver as the library has them, of order 2 only; "exact".

    Returns:
        `Imported`; sample by ``diffusion.sample(key, interop.denoiser(it, model), it.table, it.init_scale * noise)``.

    Raises:
        TypeError: a traced argument, or a config that is no dict.
        Unsupported: an option without exact counterpart, by name; a `ValueError`.
        ValueError: steps or levels out of order.

    Example:
        >>> from jaxsci.diffusion import interop
        >>> config = {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "scaled_linear",
        ...           "beta_start": 0.00085, "beta_end": 0.012, "use_karras_sigmas": True}
        >>> it = interop.from_diffusers(config, 5)
        >>> print(it.kind, it.timesteps, it.table.sigma.round(3))
        epsilon [999. 786. 427.  59.   0.] [0.998 0.979 0.787 0.241 0.029 0.   ]

    References: module docstring.
    """
    concrete("interop.from_diffusers", "build the table outside and pass it in", num_steps, timesteps, sigmas, eta, mu)
    if weights not in ("published", "exact"):
        raise ValueError(f"interop.from_diffusers: weights must be 'published' or 'exact', got {weights!r}")
    name, options = _diffusers.read(config)
    if eta and name != "DDIMScheduler":
        raise refuse(f"eta={eta}", f"{name} has no such argument")
    if not 0 <= eta <= 1:
        raise ValueError(f"interop.from_diffusers: eta must be in [0, 1], got {eta}")
    for given, value in (("sigmas", sigmas), ("timesteps", timesteps)):
        if num_steps is not None and value is not None:
            raise refuse(f"num_steps={num_steps}", f"the argument {given} says how many steps there are")
    law, (values, steps) = _diffusers.levels(name, options, num_steps, timesteps, sigmas, mu)
    if not 0 <= begin < len(steps):
        raise ValueError(f"interop.from_diffusers: begin must be in [0, {len(steps) - 1}], got {begin}")
    kind, rule = CLASSES[name](options, Wanted(len(steps), begin, weights, float(eta), bool(steps[-1] > 0)))
    values, steps, further = values[begin:], steps[begin:], ()
    if kind == "epsilon" and (values[0] == 1 if law == "flow" else np.isinf(values[0])):
        raise refuse("prediction_type='epsilon'", "the network's output says nothing about data at pure noise")
    if rule is solvers.dpm_singlestep:
        middle = np.sqrt(values[:-2] * values[1:-1])
        further = tuple(zip(middle, _diffusers.steps_of(middle, _diffusers.chain(options))))
    grid = _grid(law, values, steps, _diffusers.times_of_chain(law, options), further)
    staged = rule in (solvers.heun, solvers.dpm_singlestep)
    table = rule(grid) if staged else tabulate(rule, grid)
    return Imported(
        grid.schedule, kind, table, np.float64(_init_scale(name, options, grid)),
        np.asarray(grid.schedule.model_time(table.t[:-1])) if staged else steps,
        np.float64(options.get("sigma_data", 0.5)), _limit_of(name, options, grid.schedule),
    )  # fmt: skip


def _init_scale(name, options, grid):
    if name.startswith("EDM"):
        return math.hypot(options["sigma_max"], 1.0)
    in_rho = "Euler" in name or name.startswith(("Heun", "KDPM2", "LMS"))
    if in_rho and not name.startswith("Flow") and options["timestep_spacing"] != "leading":
        return grid.sigma[0]
    return 1.0


def _limit_of(name, options, schedule):
    again = name != "DDIMScheduler"
    if options.get("thresholding"):
        first, second = options["dynamic_thresholding_ratio"], options["sample_max_value"]
        return Partial(bind(_limit, dynamic=True, again=again), schedule, np.float64(first), np.float64(second))
    if options.get("clip_sample"):
        radius = np.float64(options["clip_sample_range"])
        return Partial(bind(_limit, dynamic=False, again=again), schedule, radius, None)
    return None


def _limited(inner, limit, x, t, cond, w):
    return limit(*inner(x, t, cond, w), x, t)


def denoiser(
    imported: Imported,
    model: Callable[..., Any],
    *,
    guidance: str | None = None,
    null: PyTree = None,
    classifier: Callable[..., Any] | None = None,
    batched: bool = False,
) -> Partial:
    """`predictions.denoiser` of an imported scheduler, with the clipping or thresholding that it asks for.

    Args:
        imported: from `from_diffusers`.
        model: ``model(x, t, cond) -> output``, t one of the network's own time steps.
        guidance, null, classifier, batched: as in `predictions.denoiser`.

    Returns:
        The denoiser ``(x, t, cond, w) -> (D, eps)``.

    Raises:
        ValueError: see `predictions.denoiser`.
    """
    inner = predictions.denoiser(
        model, imported.schedule, imported.kind, guidance=guidance, null=null, classifier=classifier,
        sigma_data=imported.sigma_data, batched=batched,
    )  # fmt: skip
    return inner if imported.limit is None else Partial(_limited, inner, imported.limit)


# --- plain Python -------------------------------------------------------------------------------------------


def run_plain(
    denoiser: Callable[..., tuple[Any, Any]], table: SolverTable, x: Any, *, noise: Callable[[int], Any] | None = None,
    convert: Callable[[np.ndarray], Any] = lambda coefficients: coefficients,
) -> Any:  # fmt: skip
    """`diffusion.sample` as a Python loop over the rows, for arrays of any library that know + and *.

    Args:
        denoiser: ``denoiser(x, t, alpha, sigma) -> (D, eps)`` of the arrays' own library, the others floats;
            `plain_denoiser` makes it from a network.
        table: a host table.
        x: the state at node 0, batched or not; its dtype is kept.
        noise: ``noise(i)``: unit noise like `x` for row i, of a table that draws.
        convert: makes coefficients of the data's shape (`v3`) into the library's arrays, e.g. ``torch.as_tensor``.

    Returns:
        The state at the last node.

    Raises:
        ValueError: a table that draws noise, and none given.

    Example:
        >>> import numpy as np
        >>> from jaxsci.diffusion import grids, interop, schedules, solvers
        >>> vp = schedules.vp_linear()
        >>> def network(x, t):  # the exact noise prediction for data at 3
        ...     alpha, sigma = vp.alpha_sigma(vp.lam(t))
        ...     return (x - 3 * alpha) / sigma
        >>> denoiser = interop.plain_denoiser(network, vp, "epsilon")
        >>> print(interop.run_plain(denoiser, solvers.unipc(grids.logsnr(vp, 10)), np.zeros(2)).round(2))
        [3. 3.]
    """

    def combine(rows, i, *histories):
        terms = [
            (float(c) if np.ndim(c) == 0 else convert(c)) * value
            for coefficients, history in zip(rows[:3], histories)
            for c, value in zip(np.asarray(coefficients[i]), history)
            if np.any(c)
        ]
        total = sum(terms[1:], terms[0]) if terms else 0.0 * histories[0][0]
        return total if rows.shift is None else total + convert(np.asarray(rows.shift[i]))

    xs, datas, noises = [], [], []
    for i in range(num_rows(table)):
        if table.active is not None and not table.active[i]:
            continue
        t, alpha, sigma = (float(column[i]) for column in (table.t, table.alpha, table.sigma))
        if table.evaluate is None or table.evaluate[i]:
            data, eps = denoiser(x, t, alpha, sigma)
        else:
            data = 0.0 * x + convert(np.asarray(table.analytic))
            eps = (x + -alpha * data) * (1 / sigma)
        datas, noises = [data, *datas], [eps, *noises]
        if table.corrected is not None and table.corrected[i]:
            x = combine(table.corrector, i, [x, *xs], datas, noises)
        xs = [x, *xs]
        x = combine(table.predictor, i, xs, datas, noises)
        if table.predictor.std is not None and table.predictor.std[i] != 0:
            if noise is None:
                raise ValueError("interop.run_plain: this table draws noise; pass noise(i), unit noise like x")
            x = x + float(table.predictor.std[i]) * noise(i)
    return x


def plain_denoiser(
    model: Callable[..., Any], schedule: NoiseSchedule, kind: str, *, sigma_data: float = 0.5
) -> Callable[..., tuple[Any, Any]]:
    """What `run_plain` takes, from a network of any array library; the table of kinds is in `predictions`.

    Args:
        model: ``model(x, t) -> output``; t is a float, ``schedule.model_time`` of the node.
        schedule: a host schedule.
        kind: one of `predictions.KINDS`.
        sigma_data: of kind "edm".

    Returns:
        ``(x, t, alpha, sigma) -> (D, eps)``.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in predictions.KINDS:
        raise ValueError(f"interop.plain_denoiser: kind must be one of {predictions.KINDS}, got {kind!r}")

    def denoise(x, t, alpha, sigma):
        scale, time = 1.0, None
        if kind == "edm":
            ratio = sigma / alpha
            root = math.hypot(ratio, sigma_data)
            scale, time = 1 / (alpha * root), math.log(ratio) / 4
            skip, out = sigma_data**2 / (root**2 * alpha), ratio * sigma_data / root
            of_data, of_noise = (skip, out), ((1 - alpha * skip) / sigma, -alpha * out / sigma)
        else:
            time = float(schedule.model_time(t))
            of_data, of_noise = _LINEAR[kind](alpha, sigma)
        output = model(x if scale == 1.0 else scale * x, time)
        return of_data[0] * x + of_data[1] * output, of_noise[0] * x + of_noise[1] * output

    return denoise


# Data and noise prediction as linear forms of the state and the network's output.
_LINEAR = {
    "epsilon": lambda a, s: ((1 / a, -s / a), (0.0, 1.0)),
    "sample": lambda a, s: ((0.0, 1.0), (1 / s, -a / s)),
    "v_prediction": lambda a, s: tuple((p / (a * a + s * s), q / (a * a + s * s)) for p, q in ((a, -s), (s, a))),
    "score": lambda a, s: ((1 / a, s * s / a), (0.0, -s)),
    "flow_prediction": lambda a, s: ((1 / (a + s), -s / (a + s)), (1 / (a + s), a / (a + s))),
}


__all__ = ["Imported", "Unsupported", "denoiser", "from_diffusers", "plain_denoiser", "run_plain"]
