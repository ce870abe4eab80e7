r"""Options of the scheduler classes of the diffusers library, and the noise levels and time steps that they stand for.

A configuration is a plain dict, as in ``scheduler_config.json``. Levels are $\rho = \sigma/\alpha$ of the trained chain
(sigma itself for flows), falling, one more than there are time steps; everything is float64.

References: the documentation of diffusers 0.42 (behaviour, checked against trajectories of its schedulers);
S. Lin et al. 2024, table 2 (spacings); T. Karras et al. 2022, equation 5; T. Lee et al. 2024 (beta levels).
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from jaxsci.diffusion import grids, schedules

# --- options and their defaults -----------------------------------------------------------------------------

_CHAIN = {
    "num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None, "prediction_type": "epsilon",
}  # fmt: skip
_CURVES = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_SPACING = {"timestep_spacing": "linspace", "steps_offset": 0}
_RESCALE = {"rescale_betas_zero_snr": False}
_THRESHOLD = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
_FINAL = {"final_sigmas_type": "zero"}
_FLOW = {
    "use_flow_sigmas": False, "flow_shift": 1.0, "use_dynamic_shifting": False, "time_shift_type": "exponential",
}  # fmt: skip
_RANGE = {"sigma_min": None, "sigma_max": None}
_DPM = {"solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "variance_type": None}
_EDM = {
    "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "sigma_schedule": "karras", "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "rho": 7.0,
}  # fmt: skip
_OLD_ENDS = {"beta_start": 0.00085, "beta_end": 0.012}

OPTIONS = {
    "DPMSolverMultistepScheduler": {
        **_CHAIN, **_CURVES, **_SPACING, **_RESCALE, **_THRESHOLD, **_FINAL, **_FLOW, **_DPM, "lower_order_final": True,
        "euler_at_final": False, "use_lu_lambdas": False, "lambda_min_clipped": -np.inf,
    },
    "DPMSolverSinglestepScheduler": {
        **_CHAIN, **_CURVES, **_THRESHOLD, **_FINAL, **_FLOW, **_DPM, "lower_order_final": False,
        "lambda_min_clipped": -np.inf,
    },
    "UniPCMultistepScheduler": {
        **_CHAIN, **_CURVES, **_SPACING, **_RESCALE, **_THRESHOLD, **_FINAL, **_FLOW, **_RANGE, "solver_order": 2,
        "predict_x0": True, "solver_type": "bh2", "lower_order_final": True, "disable_corrector": (), "solver_p": None,
        "shift_terminal": None,
    },
    "DEISMultistepScheduler": {
        **_CHAIN, **_CURVES, **_SPACING, **_THRESHOLD, **_FLOW, "solver_order": 2, "algorithm_type": "deis",
        "solver_type": "logrho", "lower_order_final": True,
    },
    "EulerDiscreteScheduler": {
        **_CHAIN, **_CURVES, **_SPACING, **_RESCALE, **_FINAL, **_RANGE, "interpolation_type": "linear",
        "timestep_type": "discrete",
    },
    "EulerAncestralDiscreteScheduler": {**_CHAIN, **_SPACING, **_RESCALE},
    "HeunDiscreteScheduler": {**_CHAIN, **_OLD_ENDS, **_CURVES, **_SPACING, **_CLIP, "clip_sample": False},
    "KDPM2DiscreteScheduler": {**_CHAIN, **_OLD_ENDS, **_CURVES, **_SPACING},
    "LMSDiscreteScheduler": {**_CHAIN, **_CURVES, **_SPACING},
    "DDIMScheduler": {
        **_CHAIN, **_SPACING, **_RESCALE, **_CLIP, **_THRESHOLD, "timestep_spacing": "leading",
        "set_alpha_to_one": True,
    },
    "DDPMScheduler": {
        **_CHAIN, **_SPACING, **_RESCALE, **_CLIP, **_THRESHOLD, "timestep_spacing": "leading",
        "variance_type": "fixed_small",
    },
    "FlowMatchEulerDiscreteScheduler": {
        **_CURVES, "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False, "base_shift": 0.5,
        "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096, "invert_sigmas": False,
        "shift_terminal": None, "time_shift_type": "exponential", "stochastic_sampling": False,
    },
    "EDMDPMSolverMultistepScheduler": {
        **_EDM, **_THRESHOLD, **_FINAL, "solver_order": 2, "algorithm_type": "dpmsolver++", "solver_type": "midpoint",
        "lower_order_final": True, "euler_at_final": False,
    },
    "EDMEulerScheduler": {**_EDM, **_FINAL},
}  # fmt: skip
"""Options of every class that `interop.from_diffusers` knows, with their defaults."""

NAMES = {
    "final_sigmas_type": ("zero", "sigma_min"), "timestep_spacing": ("linspace", "leading", "trailing"),
    "interpolation_type": ("linear", "log_linear"), "timestep_type": ("discrete", "continuous"),
    "sigma_schedule": ("karras", "exponential"), "time_shift_type": ("exponential", "linear"),
}  # fmt: skip
"""What the options of names may be: checked whether or not this call uses them."""

# Options that files carry over from a class they were written for; the library passes over them as well.
_FOREIGN = {"skip_prk_steps"}.union(*OPTIONS.values())


class Unsupported(ValueError):
    """An option, or a combination of options, that has no exact counterpart here."""


def refuse(option: str, why: str) -> Unsupported:
    """The error for one option, to be raised."""
    return Unsupported(f"interop.from_diffusers: {option} is not supported: {why}")


def read(config) -> tuple[str, dict]:
    """Class name and all its options, the given ones over the defaults; what no class knows is an error."""
    if not isinstance(config, dict) and not hasattr(config, "items"):
        got = type(config).__name__
        raise TypeError(f"interop.from_diffusers: config must be a dict, got {got}; pass dict(scheduler.config)")
    config = dict(config)
    name = config.get("_class_name")
    if name not in OPTIONS:
        raise refuse(f"_class_name={name!r}", f"known are {sorted(OPTIONS)}")
    unknown = sorted(key for key in config if not key.startswith("_") and key not in _FOREIGN)
    if unknown:
        raise refuse(f"{unknown[0]}={config[unknown[0]]!r}", "no scheduler has this option; is it misspelt?")
    options = {key: config.get(key, default) for key, default in OPTIONS[name].items()}
    for option in [option for option in NAMES if option in options]:
        one_of(options, option, NAMES[option])
    return name, options


def one_of(options, name: str, allowed) -> str:
    """The value of an option that must be one of some names."""
    if options[name] not in allowed:
        raise refuse(f"{name}={options[name]!r}", f"it must be one of {sorted(map(str, allowed))}")
    return options[name]


# --- levels and time steps ----------------------------------------------------------------------------------


class Levels(NamedTuple):
    """Where a sampler stands: noise levels of N + 1 nodes, and what the network takes for time at the first N."""

    values: np.ndarray
    steps: np.ndarray


def chain(options: dict, *, exact_zero: bool = False) -> np.ndarray:
    """rho of the trained chain, rising; with zero terminal SNR the last one is finite unless `exact_zero`."""
    size, rescale = options["num_train_timesteps"], options.get("rescale_betas_zero_snr", False)
    if options["trained_betas"] is not None:
        betas = np.asarray(options["trained_betas"], np.float64)
        if betas.shape != (size,):
            raise refuse("trained_betas", f"it has shape {betas.shape}, num_train_timesteps is {size}")
    else:
        law = one_of(options, "beta_schedule", ("linear", "scaled_linear", "squaredcos_cap_v2"))
        ends = {} if law == "squaredcos_cap_v2" else {k: options[k] for k in ("beta_start", "beta_end")}
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


def curve_name(options: dict) -> str | None:
    """Which curve replaces the levels of the spacing: "karras", "exponential", "beta", "lu" or none."""
    names = ("karras_sigmas", "exponential_sigmas", "beta_sigmas", "lu_lambdas")
    wanted = [name for name in names if options.get(f"use_{name}")]
    if len(wanted) > 1:
        raise refuse(f"use_{wanted[1]}=True", f"use_{wanted[0]} is set as well")
    return wanted[0].rsplit("_", 1)[0] if wanted else None


def curve(name: str, first: float, last: float, num: int, *, power: float = 7.0) -> np.ndarray:
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


def shift_of(options: dict, mu: float | None, static: str) -> float:
    """k of the shift of flow levels, k s / (1 + (k - 1) s)."""
    if not options["use_dynamic_shifting"]:
        if mu is not None:
            raise refuse(f"mu={mu}", "the configuration has use_dynamic_shifting=False")
        return float(options[static])
    if mu is None:
        raise refuse("use_dynamic_shifting=True", "it needs the argument mu")
    return float(np.exp(mu)) if options["time_shift_type"] == "exponential" else mu


def _stretch(values, terminal):
    """Flow levels stretched so that the last one is `terminal`; None leaves them."""
    return values if not terminal else 1 - (1 - values) * (1 - terminal) / (1 - values[-1])


def _last(options, rho, values, repeated):
    """The level of the last node: 0, the least of the chain, or the one before once more."""
    if options["final_sigmas_type"] == "zero":
        return 0.0
    return values[-1] if repeated else rho[0]


def _given_steps(timesteps, size):
    steps = np.asarray(timesteps, np.float64)
    if steps.ndim != 1 or not steps.size or np.any(np.diff(steps) >= 0) or steps[0] > size - 1 or steps[-1] < 0:
        raise ValueError(
            f"interop.from_diffusers: timesteps must fall strictly within [0, {size - 1}], got {steps.tolist()}"
        )
    return steps


def _in_chain(steps, size, options):
    if steps[0] > size - 1:
        raise refuse(
            f"steps_offset={options['steps_offset']}", f"it leads to step {steps[0]:g} of a chain of {size} steps"
        )
    return steps


def multistep_levels(name: str, options: dict, num_steps, timesteps, mu) -> Levels:
    """For the multistep and singlestep classes: spacings over the whole chain, integer time steps."""
    rho, which, flow = chain(options), curve_name(options), options["use_flow_sigmas"]
    size = len(rho)
    if which and flow:
        raise refuse("use_flow_sigmas=True", f"use_{which} levels are set as well")
    deis, unipc = name.startswith("DEIS"), name.startswith("UniPC")
    if options.get("shift_terminal") is not None and not flow:
        raise refuse(f"shift_terminal={options['shift_terminal']}", "it needs use_flow_sigmas=True")
    if which or flow:
        if timesteps is not None:
            raise refuse("timesteps", "the configuration computes the levels itself")
        if which:
            low, high = options.get("sigma_min"), options.get("sigma_max")
            values = curve(which, rho[-1] if high is None else high, rho[0] if low is None else low, num_steps)
            steps = steps_of(values, rho)
            cosine = name == "DPMSolverMultistepScheduler" and options["beta_schedule"] == "squaredcos_cap_v2"
            if which in ("karras", "lu") and not cosine:
                steps = np.round(steps)
        else:
            ramp = np.linspace(1, 1 / size, num_steps + 1)
            values = ramp[:-1] if unipc else (1 - ramp)[::-1][:-1]
            k = shift_of(options, mu, "flow_shift")
            values = _stretch(k * values / (1 + (k - 1) * values), options.get("shift_terminal"))
            if unipc and abs(values[0] - 1) < 1e-6:  # the library starts just below pure noise
                values = np.append(values[0] - 1e-6, values[1:])
            steps = values * size
        steps = np.trunc(steps + 1e-9)  # the library stores integers
        last = values[-1] if deis else _last(options, rho, values, unipc)
        return Levels(np.append(values, last), steps)
    if timesteps is not None:
        steps = _given_steps(timesteps, size)
    else:
        used = size - int(np.sum(-np.log(rho) < options.get("lambda_min_clipped", -np.inf)))
        kind, offset = "linspace", options.get("steps_offset", 0)
        if "timestep_spacing" in options:
            kind = options["timestep_spacing"]
        steps = _in_chain(grids.spacing(kind, num_steps, num_train=size, offset=offset, num_used=used), size, options)
    values = np.interp(steps, np.arange(size), rho)
    return Levels(np.append(values, rho[0] if deis else _last(options, rho, values, False)), steps.astype(np.float64))


def spaced_steps(options: dict, size: int, num_steps: int, *, rounded: bool) -> np.ndarray:
    """The spacings of the classes that count N steps and not N + 1."""
    kind = options["timestep_spacing"]
    if not 1 <= num_steps <= size:
        raise ValueError(f"interop.from_diffusers: num_steps must be in [1, {size}], got {num_steps}")
    if kind == "linspace":
        steps = np.linspace(0, size - 1, num_steps)[::-1]
        return np.round(steps) if rounded else steps
    if kind == "leading":
        steps = (np.arange(num_steps) * (size // num_steps))[::-1] + options["steps_offset"]
    else:
        steps = np.round(np.arange(size, 0, -size / num_steps))[:num_steps] - 1
    return _in_chain(steps.astype(np.float64), size, options)


def _continuous(options):
    return options.get("timestep_type") == "continuous" and options["prediction_type"] == "v_prediction"


def times_of_chain(law: str, options: dict) -> tuple[np.ndarray, np.ndarray]:
    """Levels, rising, and what the network takes for time there: of the whole trained chain."""
    if law == "flow":
        steps = np.arange(1.0, options["num_train_timesteps"] + 1)
        return steps / len(steps), steps
    rho = np.geomspace(1e-4, 1e4, options["num_train_timesteps"]) if law == "ve" else chain(options)
    return rho, np.log(rho) / 4 if law == "ve" or _continuous(options) else np.arange(float(len(rho)))


def sigma_levels(name: str, options: dict, num_steps, timesteps) -> Levels:
    """For the classes that work in rho: Euler, Heun, LMS and the second-order DPM of k-diffusion."""
    rho, which = chain(options), curve_name(options)
    size = len(rho)
    if which and timesteps is not None:
        raise refuse("timesteps", f"the configuration computes the levels itself ({which})")
    if timesteps is not None:
        steps = _given_steps(timesteps, size)
    else:
        steps = spaced_steps(options, size, num_steps, rounded=False)
    values = np.interp(steps, np.arange(size), rho)
    if options.get("interpolation_type", "linear") != "linear":
        if which:
            raise refuse("interpolation_type='log_linear'", f"use_{which} levels are set as well")
        return Levels(np.exp(np.linspace(np.log(rho[-1]), np.log(rho[0]), num_steps + 1)), steps)
    if which:
        low, high = options.get("sigma_min"), options.get("sigma_max")
        values = curve(which, values[0] if high is None else high, values[-1] if low is None else low, num_steps)
        steps = steps_of(values, rho)
        if name.startswith("KDPM2") and which == "karras":
            steps = np.round(steps)
    last = _last(options, rho, values, False) if "final_sigmas_type" in options else 0.0
    if _continuous(options):
        steps = np.log(values) / 4
    return Levels(np.append(values, last), steps)


def flow_levels(options: dict, num_steps, timesteps, mu) -> Levels:
    """Flow matching: sigma in (0, 1], time is sigma times the length of the chain."""
    size, which = options["num_train_timesteps"], curve_name(options)
    if options["invert_sigmas"]:
        raise refuse("invert_sigmas=True", "levels would rise; invert the model's time instead")
    if timesteps is not None:
        raise refuse("timesteps", "flow matching takes sigmas")
    static, k = float(options["shift"]), shift_of(options, mu, "shift")
    # The library shifts the least level of the chain when it is made, and all levels again for sampling.
    ends = (1.0, 1 / size) if options["use_dynamic_shifting"] else (1.0, static / size / (1 + (static - 1) / size))
    values = np.linspace(*ends, num_steps)
    values = _stretch(k * values / (1 + (k - 1) * values), options["shift_terminal"])
    if which:
        values = curve(which, values[0], values[-1], num_steps)
    return Levels(np.append(values, 0.0), values * size)


def edm_levels(options: dict, num_steps) -> Levels:
    """Karras or exponential levels between two given ends; time is log(sigma)/4."""
    values = curve(
        options["sigma_schedule"], options["sigma_max"], options["sigma_min"], num_steps, power=options["rho"]
    )
    return Levels(np.append(values, _last(options, None, values, True)), np.log(values) / 4)


def chain_levels(name: str, options: dict, num_steps, timesteps) -> Levels:
    """DDIM and DDPM: integer steps of the chain; the last node is free of noise or the chain's first."""
    rho = chain(options, exact_zero=True)
    size, ddim = len(rho), name == "DDIMScheduler"
    if timesteps is not None:
        steps, last = _given_steps(timesteps, size), -1.0
    else:
        steps = spaced_steps(options, size, num_steps, rounded=True)
        last = steps[-1] - size // num_steps if ddim else -1.0
        if ddim and np.any(np.diff(steps) != -(size // num_steps)):
            raise refuse(
                f"timestep_spacing={options['timestep_spacing']!r} with {num_steps} steps",
                f"the library steps to t - {size // num_steps}, which is not the next time step; "
                "use 'leading', a divisor of the chain's length with 'trailing', or the argument timesteps",
            )
    values = np.interp(steps, np.arange(size), rho)
    clean = options.get("set_alpha_to_one", True)
    return Levels(np.append(values, rho[int(last)] if last >= 0 else 0.0 if clean else rho[0]), steps)


def given_levels(options: dict, law: str, sigmas, timesteps) -> Levels:
    """Levels that the caller gives, the last node included; times from them unless given as well."""
    values = np.asarray(sigmas, np.float64)
    if values.ndim != 1 or values.size < 2 or not np.all(values >= 0):
        raise ValueError(f"interop.from_diffusers: sigmas must be at least two numbers >= 0, got {values.tolist()}")
    if timesteps is not None:
        steps = np.asarray(timesteps, np.float64)
        if steps.shape != (values.size - 1,):
            need = values.size - 1
            raise ValueError(f"interop.from_diffusers: {need} timesteps belong to these sigmas, got {steps.shape}")
    elif law == "flow":
        steps = values[:-1] * options["num_train_timesteps"]
    elif law == "ve":
        steps = np.log(values[:-1]) / 4
    else:
        steps = steps_of(values[:-1], chain(options))
    return Levels(values, steps)


def levels(name: str, options: dict, num_steps, timesteps, sigmas, mu) -> tuple[str, Levels]:
    """The law, "vp", "ve" or "flow", and the levels of a class."""
    flow, edm = name.startswith("FlowMatch"), name.startswith("EDM")
    law = "flow" if flow or options.get("use_flow_sigmas") else "ve" if edm else "vp"
    if mu is not None and law != "flow":
        raise refuse(f"mu={mu}", "it shifts flow levels only")
    if sigmas is not None:
        if mu is not None:
            raise refuse(f"mu={mu}", "sigmas are kept as given; shift them before")
        return law, given_levels(options, law, sigmas, timesteps)
    if num_steps is None and timesteps is not None:
        num_steps = len(timesteps)
    if not isinstance(num_steps, (int, np.integer)) or num_steps < 1:
        raise ValueError(f"interop.from_diffusers: num_steps must be an integer >= 1, got {num_steps!r}")
    if edm:
        if timesteps is not None:
            raise refuse("timesteps", "this class takes sigmas")
        return law, edm_levels(options, num_steps)
    if flow:
        return law, flow_levels(options, num_steps, timesteps, mu)
    if name in ("DDIMScheduler", "DDPMScheduler"):
        return law, chain_levels(name, options, num_steps, timesteps)
    if "interpolation_type" in options or not {"solver_order"} & set(options):
        return law, sigma_levels(name, options, num_steps, timesteps)
    return law, multistep_levels(name, options, num_steps, timesteps, mu)
