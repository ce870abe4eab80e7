r"""Noise levels and time steps of the scheduler classes of the diffusers library, from the settings of `_classes`.

Levels are $\rho = \sigma/\alpha$ of the trained chain (sigma itself for flows), falling, one more than there are time
steps; everything is float64. Settings are one dict ``o``: options and fixed settings of the class, and the arguments
of `interop.from_diffusers`.

References: the documentation of diffusers 0.42; S. Lin et al. 2024, table 2 (spacings); T. Karras et al. 2022,
equation 5; T. Lee et al. 2024 (beta levels).
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxsci.core.static import check_size
from jaxsci.diffusion import grids, schedules


class Unsupported(ValueError):
    """An option, or a combination of options, that has no exact counterpart here."""


def refuse(option: str, why: str) -> Unsupported:
    """The error for one option, to be raised."""
    return Unsupported(f"interop.from_diffusers: {option} is not supported: {why}")


def one_of(o: dict, name: str, allowed) -> str:
    """The value of an option that must be one of some names."""
    if o[name] not in allowed:
        raise refuse(f"{name}={o[name]!r}", f"it must be one of {sorted(map(str, allowed))}")
    return o[name]


class Levels(NamedTuple):
    """Where a sampler stands.

    Attributes:
        values: noise levels of N + 1 nodes, falling.
        steps: what the network takes for its time at the first N nodes.
        sources: levels at which a class takes its N states to stand, where these need not be the nodes.
        targets: levels to which its N steps lead, where these need not be the next nodes.
    """

    values: np.ndarray
    steps: np.ndarray
    sources: np.ndarray | None = None
    targets: np.ndarray | None = None


# --- the trained chain --------------------------------------------------------------------------------------


def chain(o: dict, *, exact_zero: bool = False) -> np.ndarray:
    """rho of the trained chain, rising; with zero terminal SNR the last one is finite unless `exact_zero`."""
    size, rescale = o["num_train_timesteps"], o["rescale_betas_zero_snr"]
    if o["trained_betas"] is not None:
        betas = np.asarray(o["trained_betas"], np.float64)
        if betas.shape != (size,):
            raise refuse("trained_betas", f"it has shape {betas.shape}, num_train_timesteps is {size}")
    else:
        law = one_of(o, "beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2"))
        ends = {} if law == "squaredcos_cap_v2" else {k: o[k] for k in ("beta_start", "beta_end")}
        betas = schedules.betas(law, size, **ends)
    schedule = schedules.vp_discrete(betas, zero_terminal_snr=rescale)
    rho = np.exp(-schedule.lam(np.arange(1, len(betas) + 1) / len(betas)))
    if rescale and exact_zero:
        rho[-1] = np.inf
    return rho


def steps_of(values, rho) -> np.ndarray:
    """Positions in the chain: linear in log rho between its steps, held at its ends."""
    with np.errstate(divide="ignore"):
        return np.interp(np.log(values), np.log(rho), np.arange(len(rho), dtype=np.float64))


def _continuous(o):
    return o["timestep_type"] == "continuous" and o["prediction_type"] == "v_prediction"


def times_of_chain(o: dict) -> tuple[np.ndarray, np.ndarray]:
    """Levels, rising, and what the network takes for time there: of the whole trained chain."""
    if o["law"] == "flow":
        steps = np.arange(1.0, o["num_train_timesteps"] + 1)
        return steps / len(steps), steps
    rho = np.geomspace(1e-4, 1e4, o["num_train_timesteps"]) if o["law"] == "ve" else chain(o)
    return rho, np.log(rho) / 4 if o["law"] == "ve" or _continuous(o) else np.arange(float(len(rho)))


# --- pieces -------------------------------------------------------------------------------------------------


def _curve_name(o):
    """Which curve replaces the levels of the spacing: "karras", "exponential", "beta", "lu" or none."""
    names = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
    wanted = [name for name in names if o[f"use_{name}"]]
    if len(wanted) > 1:
        raise refuse(f"use_{wanted[1]}=True", f"use_{wanted[0]} is set as well")
    return wanted[0].rsplit("_", 1)[0] if wanted else None


def _curve(name, first, last, num, *, power=7.0):
    """`num` levels from `first` down to `last`."""
    ramp = np.linspace(0, 1, num)
    if name == "karras":
        values = (first ** (1 / power) + ramp * (last ** (1 / power) - first ** (1 / power))) ** power
    elif name in ("exponential", "lu"):
        values = np.exp(np.log(first) + ramp * (np.log(last) - np.log(first)))
    else:
        values = last + (first - last) * scipy.stats.beta.ppf(1 - ramp, 0.6, 0.6)
    values[0] = first
    if num > 1:
        values[-1] = last
    return values


def _range(o, which):
    """(sigma_min, sigma_max) of the configuration where a curve looks for them, else None."""
    blind = which == "lu" or which == "karras" and not o["karras_in_range"]
    return (None, None) if blind else (o["sigma_min"], o["sigma_max"])


def _on_curve(o, which, rho, first, last):
    """Levels of a curve between two levels, or between those of the configuration, and their time steps."""
    low, high = _range(o, which)
    values = _curve(which, first if high is None else high, last if low is None else low, o["num_steps"])
    steps = steps_of(values, rho)
    round_them = which in o["rounded_curves"] and o["beta_schedule"] not in o["unrounded_betas"]
    return values, np.round(steps) if round_them else steps


def _shifted(o, values, shift):
    """Flow levels s as k s / (1 + (k - 1) s), then stretched so that the last one is `shift_terminal`, if wished."""
    mu, k = o["mu"], float(shift)
    if o["use_dynamic_shifting"]:
        if mu is None:
            raise refuse("use_dynamic_shifting=True", "it needs the argument mu")
        k = float(np.exp(mu)) if o["time_shift_type"] == "exponential" else mu
    elif mu is not None and not o["mu_is_inert"]:
        raise refuse(f"mu={mu}", "the configuration has use_dynamic_shifting=False")
    values, terminal = k * values / (1 + (k - 1) * values), o["shift_terminal"]
    return values if not terminal else 1 - (1 - values) * (1 - terminal) / (1 - values[-1])


def _last(o, rho, values, repeated=False):
    """The level of the last node: 0, the least of the chain, or the one before once more."""
    if o["final_sigmas_type"] == "zero":
        return 0.0
    return values[-1] if repeated else rho[0]


def _in_chain(o, rho, **options):
    """Levels and time steps in the chain: those given, or `grids.spacing` with the `options` of a family of classes."""
    size = len(rho)
    if o["timesteps"] is not None:
        steps = np.asarray(o["timesteps"], np.float64)
        if steps.ndim != 1 or not steps.size or np.any(np.diff(steps) >= 0) or steps[0] > size - 1 or steps[-1] < 0:
            raise ValueError(
                f"interop.from_diffusers: timesteps must fall strictly within [0, {size - 1}], got {steps.tolist()}"
            )
    else:
        options = {"num_train": size, "offset": o["steps_offset"], "left_out": 0} | options
        steps = grids.spacing(o["timestep_spacing"], o["num_steps"], **options).astype(np.float64)
        if steps[0] > size - 1:
            why = f"it leads to step {steps[0]:g} of a chain of {size} steps"
            raise refuse(f"steps_offset={o['steps_offset']}", why)
    return np.interp(steps, np.arange(size), rho), steps


# --- levels by the family of classes ------------------------------------------------------------------------


def _multistep(o):
    """The multistep and singlestep classes: spacings over the whole chain, integer time steps."""
    rho, which, flow, num_steps = chain(o), _curve_name(o), o["use_flow_sigmas"], o["num_steps"]
    size = len(rho)
    if which and flow and not (which == "karras" and o["karras_in_flow"]):
        raise refuse("use_flow_sigmas=True", f"use_{which} levels are set as well")
    if o["shift_terminal"] is not None and not flow:
        raise refuse(f"shift_terminal={o['shift_terminal']}", "it needs use_flow_sigmas=True")
    if not which and not flow:
        used = size - int(np.sum(-np.log(rho) < o["lambda_min_clipped"]))
        values, steps = _in_chain(o, rho, num_used=used, left_out=1)
        return Levels(np.append(values, _last(o, rho, values)), steps)
    if o["timesteps"] is not None:
        raise refuse("timesteps", "the configuration computes the levels itself")
    if which:
        values, steps = _on_curve(o, which, rho, rho[-1], rho[0])
        if flow:
            values = values / (1 + values)
            steps = values * size
    else:
        ramp = np.linspace(1, 1 / size, num_steps + 1)
        values = _shifted(o, ramp[:-1] if o["flow_from_one"] else (1 - ramp)[::-1][:-1], o["flow_shift"])
        if o["flow_from_one"] and abs(values[0] - 1) < 1e-6:
            values = np.append(values[0] - 1e-6, values[1:])
        steps = values * size
    steps = np.trunc(steps + 1e-9)  # the library stores integers
    return Levels(np.append(values, _last(o, rho, values, o["ends_still"])), steps)


def _sigma(o):
    """The classes that work in rho: Euler, Heun, LMS and the second-order DPM of k-diffusion."""
    rho, which = chain(o), _curve_name(o)
    if which and o["timesteps"] is not None:
        raise refuse("timesteps", f"the configuration computes the levels itself ({which})")
    values, steps = _in_chain(o, rho, rounded=False)
    if o["interpolation_type"] != "linear":
        if which:
            raise refuse("interpolation_type='log_linear'", f"use_{which} levels are set as well")
        values = np.exp(np.linspace(np.log(rho[-1]), np.log(rho[0]), o["num_steps"] + 1))
        if _continuous(o):  # every level has a time step then, and the library takes one step more, to the last node
            return Levels(np.append(values, _last(o, rho, values)), np.log(values) / 4)
        return Levels(values, steps)
    if which:
        values, steps = _on_curve(o, which, rho, values[0], values[-1])
    return Levels(np.append(values, _last(o, rho, values)), np.log(values) / 4 if _continuous(o) else steps)


def _flow(o):
    """Flow matching: sigma in (0, 1], time is sigma times the length of the chain."""
    size, which, static = o["num_train_timesteps"], _curve_name(o), float(o["shift"])
    if o["invert_sigmas"]:
        raise refuse("invert_sigmas=True", "levels would rise; invert the model's time instead")
    steps = None if o["timesteps"] is None else np.asarray(o["timesteps"], np.float64)
    if o["sigmas"] is not None:
        values = np.asarray(o["sigmas"], np.float64)
    elif steps is not None:
        values = steps / size
    else:
        # The library shifts the least level of the chain when it is made, and all levels again for sampling.
        ends = (1.0, 1 / size) if o["use_dynamic_shifting"] else (1.0, static / size / (1 + (static - 1) / size))
        values = np.linspace(*ends, o["num_steps"])
    if values.shape != (o["num_steps"],) or not np.all((values > 0) & (values <= 1)):
        raise ValueError(
            "interop.from_diffusers: sigmas of flow matching must lie in (0, 1], and its timesteps in (0, "
            f"{size}], without the last node, which the class appends; got {values.tolist()} for {o['num_steps']} steps"
        )
    values = _shifted(o, values, static)
    if which:
        low, high = _range(o, which)
        first, last = values[0] if high is None else high, values[-1] if low is None else low
        values = _curve(which, first, last, o["num_steps"])
    return Levels(np.append(values, 0.0), values * size if steps is None else steps)


def _edm(o):
    """Karras or exponential levels between two given ends; time is log(sigma)/4."""
    if o["timesteps"] is not None:
        raise refuse("timesteps", "this class takes sigmas")
    values = _curve(o["sigma_schedule"], o["sigma_max"], o["sigma_min"], o["num_steps"], power=o["rho"])
    return Levels(np.append(values, _last(o, [o["sigma_min"]], values, o["ends_still"])), np.log(values) / 4)


def _chain_steps(o):
    """DDIM and DDPM: integer steps of the chain; the last node is free of noise or the chain's first.

    DDIM steps by T/N, rounded down, wherever its next time step is.
    """
    rho, targets = chain(o, exact_zero=True), None
    values, steps = _in_chain(o, rho)
    clean = 0.0 if o["set_alpha_to_one"] else rho[0]
    if o["timesteps"] is None and o["even_strides"]:
        targets = _strides(steps - len(rho) // o["num_steps"], rho, clean)
    return Levels(np.append(values, clean if targets is None else targets[-1]), steps, None, targets)


def _strides(steps, rho, clean):
    """Levels of integer steps; before the chain it is `clean`."""
    steps = steps.astype(int)
    return np.where(steps >= 0, rho[np.maximum(steps, 0)], clean)


def _twice(o):
    """PNDM: the second time step is called twice, the second time from where the first one started."""
    if o["timesteps"] is not None:
        raise refuse("timesteps", "this class computes them itself")
    rho = chain(o)
    steps, stride = _in_chain(o, rho)[1], len(rho) // o["num_steps"]
    steps = np.concatenate([steps[:2], steps[1:]])
    from_here, to = steps.copy(), steps - stride
    if o["begin"] + 1 < len(steps):  # the second call, even if the first steps are left out
        again = o["begin"] + 1
        from_here[again], to[again] = steps[again] + stride, steps[again]
    if from_here.max() >= len(rho):
        raise refuse(f"{o['num_steps']} steps", f"the library's second call starts behind the chain of {len(rho)}")
    targets = _strides(to, rho, 0.0 if o["set_alpha_to_one"] else rho[0])
    return Levels(np.append(rho[steps.astype(int)], targets[-1]), steps, rho[from_here.astype(int)], targets)


def _distilled(o):
    """LCM: some of the time steps of the distillation, from the last one on."""
    rho, size = chain(o, exact_zero=True), o["original_inference_steps"]
    if o["timesteps"] is not None:
        values, steps = _in_chain(o, rho)
        return Levels(np.append(values, 0.0), steps)
    if not o["num_steps"] <= size <= len(rho):
        raise refuse(
            f"original_inference_steps={size}", f"it must lie between {o['num_steps']} steps and the chain's {len(rho)}"
        )
    known = np.arange(size, 0, -1) * (len(rho) // size) - 1
    steps = known[np.floor(np.linspace(0, size, o["num_steps"], endpoint=False)).astype(int)]
    return Levels(np.append(rho[steps], 0.0), steps.astype(np.float64))


SPACINGS = {
    "multistep": _multistep, "sigma": _sigma, "flow": _flow, "edm": _edm, "chain": _chain_steps, "twice": _twice,
    "distilled": _distilled,
}  # fmt: skip


def _given(o):
    """Levels that the caller gives, the last node included; times from them unless given as well."""
    values = np.asarray(o["sigmas"], np.float64)
    if values.ndim != 1 or values.size < 2 or not np.all(values >= 0):
        raise ValueError(f"interop.from_diffusers: sigmas must be at least two numbers >= 0, got {values.tolist()}")
    if o["timesteps"] is not None:
        steps = np.asarray(o["timesteps"], np.float64)
        if steps.shape != (values.size - 1,):
            need = values.size - 1
            raise ValueError(f"interop.from_diffusers: {need} timesteps belong to these sigmas, got {steps.shape}")
    elif o["law"] == "flow":
        steps = values[:-1] * o["num_train_timesteps"]
    elif o["law"] == "ve":
        steps = np.log(values[:-1]) / 4
    else:
        steps = steps_of(values[:-1], chain(o))
    return Levels(values, steps)


def levels(spacing: str, o: dict) -> Levels:
    """Levels and time steps of a class whose spacing is a key of `SPACINGS`, or those that the caller gives."""
    mu, num_steps = o["mu"], o["num_steps"]
    if o["sigmas"] is not None and spacing in ("twice", "distilled"):
        raise refuse("sigmas", "the steps of this class belong to time steps of the chain")
    if mu is not None and o["law"] != "flow":
        raise refuse(f"mu={mu}", "it shifts flow levels only")
    lengths = {given: len(o[given]) for given in ("sigmas", "timesteps") if o[given] is not None}
    # Flow pipelines pass levels without the last node, to be shifted; N + 1 levels beside N time steps are complete.
    as_passed = spacing == "flow" and not ("timesteps" in lengths and lengths.get("sigmas") == lengths["timesteps"] + 1)
    if o["sigmas"] is not None and not as_passed:
        if mu is not None:
            raise refuse(f"mu={mu}", "sigmas are kept as given; shift them before")
        return _given(o)
    for given, length in lengths.items():
        if as_passed and num_steps not in (None, length):
            raise refuse(f"num_steps={num_steps}", f"there are {length} {given}")
        num_steps = length
    num_steps = check_size("interop.from_diffusers", "num_steps", num_steps)
    return SPACINGS[spacing](o | {"num_steps": num_steps})
