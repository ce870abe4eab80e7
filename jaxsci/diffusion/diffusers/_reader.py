r"""The reader: a scheduler configuration of the diffusers library becomes a schedule, a table and a prediction kind.

It merges the options of a configuration into the settings of its class (`_classes`), takes levels and time steps from
`_levels` and the row rule from `_rows`, and puts the rule on a grid whose schedule knows the network's times.

References: those of `_classes`, `_levels` and `_rows`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from jaxsci.core.host import namespace
from jaxsci.core.static import bind
from jaxsci.core.types import Size, concrete
from jaxsci.diffusion import hooks, predictions, schedules, solvers
from jaxsci.diffusion.diffusers._classes import FOREIGN, MISSING, NEUTRAL, SCHEDULERS
from jaxsci.diffusion.diffusers._levels import chain, levels, one_of, refuse, steps_of, times_of_chain
from jaxsci.diffusion.diffusers._rows import SOLVERS, STAGED
from jaxsci.diffusion.grids import TimeGrid
from jaxsci.diffusion.schedules import NoiseSchedule
from jaxsci.diffusion.tables import SolverTable, tabulate

_FAR = 1e30  # stands for the infinite level of pure noise among finite knots


class Imported(NamedTuple):
    """A scheduler of another library, in our terms.

    Attributes:
        schedule: the noise schedule; its time is sigma/alpha (sigma for flows). ``model_time`` is exact at the nodes
            and that of the trained chain elsewhere.
        kind: prediction kind, one of `predictions.KINDS`.
        table: the solver, with its N rows.
        init_scale: the state at node 0 is this times unit noise; to start from an image it is ``alpha[0] image +
            sigma[0] noise`` of the table.
        timesteps: the network's time in every row.
        sigma_data: standard deviation of the data, of kind "edm".
        limit: ``limit(D, eps, x, t) -> (D, eps)``: clipping or thresholding as configured, which `denoiser` applies;
            None limits nothing.
    """

    schedule: NoiseSchedule
    kind: str
    table: SolverTable
    init_scale: Float[Array, ""] | float
    timesteps: Float[Array, " N"]
    sigma_data: Float[Array, ""] | float
    limit: Callable[..., Any] | None


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


def _grid(law, levels, steps, chain, further=(), *, repeated=False):
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
    falls |= repeated & (np.diff(lam) == 0)
    if not falls.all():
        i = int(np.flatnonzero(~falls)[0])
        raise ValueError(
            f"interop.from_diffusers: noise levels must fall, but node {i + 1} does not: {values[i]:.6g} then "
            f"{values[i + 1]:.6g}; are time steps repeated? Use fewer steps or another spacing"
        )
    nodes = sorted({*zip(np.minimum(values[:-1], _FAR).tolist(), steps.tolist()), *further})
    knots = _knots(chain, tuple(zip(*nodes)))
    alpha, sigma = base.alpha_sigma(lam)
    schedule = base._replace(
        model_time=Partial(bind(_node_time, log=law != "flow"), *knots), t_min=values[values > 0].min(), t_max=values[0]
    )
    return TimeGrid(values, lam, alpha, sigma, schedule)


def _limit(schedule, hook, data, noise, x, t, *, again):
    """Clip or threshold D; eps follows unless the class keeps the network's own."""
    data = hook(data)
    if not again:
        return data, noise
    alpha, sigma = (jnp.asarray(v, x.dtype) for v in schedule.alpha_sigma(schedule.lam(t)))
    return predictions.convert("sample", data, x, alpha, sigma)


def _read(config, arguments):
    """The class of a configuration, and all its settings; what has no counterpart here is an error."""
    if not isinstance(config, dict) and not hasattr(config, "items"):
        got = type(config).__name__
        raise TypeError(f"interop.from_diffusers: config must be a dict, got {got}; pass dict(scheduler.config)")
    config = dict(config)
    name = config.get("_class_name")
    if name not in SCHEDULERS:
        why = f"it needs {MISSING[name]}; " if name in MISSING else ""
        raise refuse(f"_class_name={name!r}", f"{why}known are {sorted(SCHEDULERS)}")
    unknown = sorted(key for key in config if not key.startswith("_") and key not in FOREIGN)
    if unknown:
        raise refuse(f"{unknown[0]}={config[unknown[0]]!r}", "no scheduler has this option; is it misspelt?")
    scheduler = SCHEDULERS[name]
    o = NEUTRAL | arguments
    for key, default in scheduler.options.items():
        value = config.get(key, default)
        value = scheduler.translated.get(key, {}).get(value, value) if isinstance(value, str) else value
        o[key] = bool(value) if isinstance(default, bool) else value
    if "use_karras_sigmas" in scheduler.options:  # curves look for these though no class declares them
        o |= {key: config.get(key, o[key]) for key in ("sigma_min", "sigma_max")}
    o |= scheduler.fixed
    if o["use_flow_sigmas"]:
        o["law"] = "flow"
    if arguments["eta"] and not o["takes_eta"]:
        raise refuse(f"eta={arguments['eta']}", f"{name} has no such argument")
    for refusal in scheduler.refused:
        found, option = ((o[key], values) for key, values in refusal["when"].items()), refusal["option"]
        if all(value is not None if values == "given" else value in values for value, values in found):
            shown = f"{option}={o[option]!r}" if isinstance(o[option], (str, int, float)) else option
            raise refuse(shown, refusal["why"].format(**o))
    for option, allowed in scheduler.names.items():
        if option in scheduler.options:
            one_of(o, option, allowed)
    return scheduler, o


def from_diffusers(
    config: dict,
    num_steps: Size | None = None,
    *,
    timesteps: Any = None,
    sigmas: Any = None,
    begin: int = 0,
    eta: float = 0.0,
    mu: float | None = None,
    image_seq_len: int | None = None,
    weights: str = "published",
) -> Imported:
    """The solver that a scheduler of the diffusers library is, from its configuration. A builder; nothing is imported.

    Args:
        config: as in ``scheduler_config.json``; ``_class_name`` picks the class, missing options have the library's
            defaults, options of other known classes are passed over as the library does.
        num_steps: number of inference steps (built), without `timesteps` and `sigmas`; the classes with two stages
            make 2 num_steps - 1 calls, and PNDM, which calls its second step twice, num_steps + 1.
        timesteps: steps of the chain instead, falling; or those that belong to `sigmas`.
        sigmas: levels sigma/alpha instead (sigma for flows), falling, the last node included; they are kept as given.
            Of FlowMatchEulerDiscreteScheduler as its pipelines pass them: without the last node, and shifted here; one
            more than `timesteps` are kept as given.
        begin: leave out the first steps, to start from a noisy image; the history starts there.
        eta: noise of DDIM, 0 to 1.
        mu: shift of the configurations with ``use_dynamic_shifting``; flow matching passes over it without.
        image_seq_len: tokens of the image, from which pipelines compute mu: linear between the configuration's
            ``base_shift`` at ``base_image_seq_len`` and ``max_shift`` at ``max_image_seq_len``.
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
    numbers, names = (num_steps, timesteps, sigmas, eta, mu), "num_steps, timesteps, sigmas, eta and mu"
    concrete(numbers, "interop.from_diffusers", names, "build the table outside and pass it in")
    if weights not in ("published", "exact"):
        raise ValueError(f"interop.from_diffusers: weights must be 'published' or 'exact', got {weights!r}")
    if not 0 <= eta <= 1:
        raise ValueError(f"interop.from_diffusers: eta must be in [0, 1], got {eta}")
    arguments = {
        "num_steps": num_steps, "timesteps": timesteps, "sigmas": sigmas, "begin": begin, "eta": float(eta), "mu": mu,
        "weights": weights,
    }  # fmt: skip
    scheduler, o = _read(config, arguments)
    for given, value in (("sigmas", sigmas), ("timesteps", timesteps)):
        if num_steps is not None and value is not None and scheduler.levels != "flow":
            raise refuse(f"num_steps={num_steps}", f"the argument {given} says how many steps there are")
    if image_seq_len is not None:
        o["mu"] = _mu(o, mu, image_seq_len)
    values, steps, sources, targets = levels(scheduler.levels, o)
    if not 0 <= begin < len(steps):
        raise ValueError(f"interop.from_diffusers: begin must be in [0, {len(steps) - 1}], got {begin}")
    found = {"values": values, "steps": steps, "sources": sources, "targets": targets, "num_rows": len(steps)}
    rule = SOLVERS[scheduler.solver](o | found | {"noise_at_end": bool(steps[-1] > 0)})
    kind = o["kind"] or {"original_sample": "sample"}.get(o["prediction_type"], o["prediction_type"])
    values, steps, further = values[begin:], steps[begin:], ()
    if kind == "epsilon" and (values[0] == 1 if o["law"] == "flow" else np.isinf(values[0])):
        raise refuse("prediction_type='epsilon'", "the network's output says nothing about data at pure noise")
    if rule is solvers.dpm_singlestep:
        middle = np.sqrt(values[:-2] * values[1:-1])
        further = tuple(zip(middle, steps_of(middle, chain(o))))
    grid = _grid(o["law"], values, steps, times_of_chain(o), further, repeated=sources is not None)
    table = rule(grid) if rule in STAGED else tabulate(rule, grid)
    scale = 1.0
    if scheduler.levels == "edm":
        scale = math.hypot(o["sigma_max"], 1.0)
    elif scheduler.levels == "sigma" and o["timestep_spacing"] != "leading":
        scale = grid.sigma[0]
    return Imported(
        grid.schedule, kind, table, np.float64(scale),
        np.asarray(grid.schedule.model_time(table.t[:-1])) if rule in STAGED else steps,
        np.float64(o["sigma_data"]), _limit_of(o, grid.schedule),
    )  # fmt: skip


def _mu(o, mu, image_seq_len):
    if mu is not None or "base_shift" not in o:
        why = "mu is given as well" if mu is not None else "the class shifts its levels by no size of images"
        raise refuse(f"image_seq_len={image_seq_len}", why)
    low, high, first, last = (o[k] for k in ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift"))
    return first + (image_seq_len - low) * (last - first) / (high - low)


def _limit_of(o, schedule):
    if not o["thresholding"] and not o["clip_sample"]:
        return None
    if o["thresholding"]:
        hook = hooks.dynamic_threshold(o["dynamic_thresholding_ratio"], max_value=o["sample_max_value"])
    else:
        hook = hooks.clip(o["clip_sample_range"])
    return Partial(bind(_limit, again=not o["keeps_noise"]), schedule, hook)


def _limited(inner, limit, x, t, cond, w):
    return limit(*inner(x, t, cond, w), x, t)


def denoiser(imported: Imported, model: Callable[..., Any], **options) -> Partial:
    """`predictions.denoiser` of an imported scheduler, with the clipping or thresholding that it asks for.

    Args:
        imported: from `from_diffusers`.
        model: ``model(x, t, cond) -> output``, t one of the network's own time steps.
        **options: guidance, null, classifier and batched, as in `predictions.denoiser`.

    Returns:
        The denoiser ``(x, t, cond, w) -> (D, eps)``.

    Raises:
        ValueError: see `predictions.denoiser`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import diffusion
        >>> from jaxsci.diffusion import diffusers
        >>> it = diffusion.from_diffusers({"_class_name": "DDIMScheduler"}, 4)
        >>> denoise = diffusers.denoiser(it, lambda x, t, cond: jnp.zeros_like(x))
        >>> print(diffusion.sample(None, denoise, it.table, it.init_scale * jnp.ones(2)).value.shape)
        (2,)
    """
    options = {"sigma_data": imported.sigma_data} | options
    inner = predictions.denoiser(model, imported.schedule, imported.kind, **options)
    return inner if imported.limit is None else Partial(_limited, inner, imported.limit)
