"""Trajectories of the diffusers library's schedulers on a Gaussian mixture: ``trajectories.npz`` beside this file.

Run with an interpreter that has diffusers and torch; jaxsci is not needed:

    python tests/diffusion/golden/make.py

Protocol: the network is the exact prediction of the mixture at the scheduler's own noise level, in double precision,
handed over in single precision; what the network is shown at every step is recorded, in the scheduler's own state.
"""

import pathlib
import warnings

import numpy as np

FILE = pathlib.Path(__file__).with_name("trajectories.npz")
PARTICLES = 4

WEIGHTS = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
MEANS = np.array([(1.5, 0), (-1, 1.2), (-0.8, -1.4), (0.6, 1.6), (1.2, -1.5)])
WIDTHS = np.array([0.3, 0.25, 0.35, 0.2, 0.4])

_M, _S, _U, _D = (f"{name}Scheduler" for name in (
    "DPMSolverMultistep", "DPMSolverSinglestep", "UniPCMultistep", "DEISMultistep"))  # fmt: skip
_MIN = {"final_sigmas_type": "sigma_min"}
_SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_NOISE = {"algorithm_type": "dpmsolver", **_MIN}
_VP = {"prediction_type": "v_prediction"}


def _case(name, steps, kwargs=None, *, tol, **options):
    return {"config": {"_class_name": name, **options}, "steps": steps, "kwargs": kwargs or {}, "tol": tol}


# tol: bound of the final difference. The peer works in single precision: 1e-5, noise prediction 1e-4, or the
# smaller figure measured for the family in advance.
CASES = {
    "dpm 2M midpoint": _case(_M, 10, tol=1.2e-6, **_MIN),
    "dpm 2M heun": _case(_M, 10, tol=1.2e-6, solver_type="heun", timestep_spacing="trailing", **_MIN),
    "dpm 2M zero": _case(_M, 12, tol=1e-5, **_SD, timestep_spacing="leading", steps_offset=1),
    "dpm 2M karras 20": _case(_M, 20, tol=1e-5, **_SD, use_karras_sigmas=True),
    "dpm 2M exponential": _case(_M, 9, tol=1e-5, use_exponential_sigmas=True),
    "dpm 2M beta": _case(_M, 9, tol=1e-5, use_beta_sigmas=True),
    "dpm 2M lu": _case(_M, 9, tol=1e-5, use_lu_lambdas=True),
    "dpm 2M cosine clipped": _case(_M, 10, tol=1e-5, beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1, **_VP),
    "dpm 2M euler at final": _case(_M, 18, tol=1e-5, euler_at_final=True, **_MIN),
    "dpm 2M zero snr": _case(_M, 10, tol=1e-5, rescale_betas_zero_snr=True, timestep_spacing="trailing", **_VP),
    "dpm 2M sample": _case(_M, 10, tol=1e-5, prediction_type="sample", **_MIN),
    "dpm 2M thresholding": _case(_M, 10, tol=1e-5, thresholding=True, sample_max_value=1.3, **_SD),
    "dpm 2M flow": _case(_M, 10, tol=5.8e-7, use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
    "dpm 3M": _case(_M, 12, tol=1.8e-5, solver_order=3, **_MIN),
    "dpm 3M 20": _case(_M, 20, tol=1.8e-5, solver_order=3, **_SD),
    "dpm 3M noise": _case(_M, 12, tol=2.7e-6, solver_order=3, **_NOISE),
    "dpm 2M noise": _case(_M, 12, tol=2.7e-6, **_NOISE),
    "dpm 2M noise heun": _case(_M, 16, tol=1e-4, solver_type="heun", **_NOISE),
    "dpm noise thresholding": _case(_M, 12, tol=1e-4, thresholding=True, **_NOISE),
    "sde dpm 1": _case(_M, 10, tol=2.2e-6, algorithm_type="sde-dpmsolver++", solver_order=1),
    "sde dpm 2 midpoint": _case(_M, 10, tol=2.2e-6, algorithm_type="sde-dpmsolver++", **_SD),
    "sde dpm 2 heun": _case(_M, 10, tol=2.2e-6, algorithm_type="sde-dpmsolver++", solver_type="heun", **_MIN),
    "sde dpm noise": _case(_M, 20, tol=1e-4, algorithm_type="sde-dpmsolver", **_MIN),
    "unipc 2 bh1": _case(_U, 10, tol=7.2e-6, solver_type="bh1", **_MIN),
    "unipc 2 bh2": _case(_U, 10, tol=7.2e-6, **_SD),
    "unipc 3": _case(_U, 12, tol=7.2e-6, solver_order=3, **_MIN),
    "unipc 3 noise": _case(_U, 12, tol=7.2e-6, solver_order=3, predict_x0=False, **_MIN),
    "unipc 1": _case(_U, 9, tol=1e-5, solver_order=1),
    "unipc karras ends still": _case(_U, 10, tol=1e-5, use_karras_sigmas=True, **_SD, **_MIN),
    "unipc without corrector": _case(_U, 10, tol=1e-5, disable_corrector=[0, 1, 4], solver_order=3),
    "unipc flow": _case(_U, 10, tol=1e-5, use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"),
    "deis 1": _case(_D, 10, tol=1.6e-6, solver_order=1),
    "deis 2": _case(_D, 10, tol=3.5e-6),
    "deis 3": _case(_D, 12, tol=1.6e-5, solver_order=3),
    "deis 2 karras ends still": _case(_D, 10, tol=1e-5, use_karras_sigmas=True, **_SD),
    "single 2 midpoint": _case(_S, 12, tol=4.8e-5, lower_order_final=True),
    "single 2 heun": _case(_S, 12, tol=4.8e-5, solver_type="heun", **_MIN),
    "single 3 midpoint": _case(_S, 12, tol=4.8e-5, solver_order=3, lower_order_final=True),
    "single 3 heun": _case(_S, 11, tol=4.8e-5, solver_order=3, solver_type="heun", lower_order_final=True, **_MIN),
    "single 2 noise": _case(_S, 12, tol=4.8e-5, lower_order_final=True, **_NOISE),
    "single 2 noise heun": _case(_S, 12, tol=4.8e-5, solver_type="heun", **_NOISE),
    "single 3 noise": _case(_S, 10, tol=4.8e-5, solver_order=3, lower_order_final=True, **_NOISE),
    "single 3 noise heun": _case(_S, 12, tol=4.8e-5, solver_order=3, solver_type="heun", **_NOISE),
    "single 2 sde": _case(_S, 12, tol=1e-5, algorithm_type="sde-dpmsolver++", lower_order_final=True, **_SD),
    "euler": _case("EulerDiscreteScheduler", 12, tol=8e-7),
    "euler leading": _case(
        "EulerDiscreteScheduler", 12, tol=8e-7, timestep_spacing="leading", steps_offset=1, **_SD, **_MIN),
    "euler karras v": _case("EulerDiscreteScheduler", 12, tol=8e-7, use_karras_sigmas=True, **_SD, **_VP),
    "euler video": _case(
        "EulerDiscreteScheduler", 12, tol=1e-5, use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0,
        timestep_spacing="leading", timestep_type="continuous", **_SD, **_VP),
    "euler log linear": _case("EulerDiscreteScheduler", 12, tol=1e-5, interpolation_type="log_linear", **_SD),
    "euler ancestral": _case("EulerAncestralDiscreteScheduler", 12, tol=1e-5, **_SD),
    "heun": _case("HeunDiscreteScheduler", 9, tol=1.7e-6),
    "heun karras": _case("HeunDiscreteScheduler", 9, tol=1.7e-6, use_karras_sigmas=True, clip_sample=True, **_SD),
    "kdpm2": _case("KDPM2DiscreteScheduler", 9, tol=1e-5, **_SD),
    "kdpm2 karras": _case("KDPM2DiscreteScheduler", 9, tol=1e-5, use_karras_sigmas=True, **_SD),
    "lms": _case("LMSDiscreteScheduler", 12, tol=6e-7),
    "lms karras": _case("LMSDiscreteScheduler", 12, tol=1e-5, use_karras_sigmas=True, **_SD),
    "ddim leading": _case(
        "DDIMScheduler", 12, tol=1e-6, set_alpha_to_one=False, clip_sample=False, steps_offset=1, **_SD),
    "ddim trailing": _case("DDIMScheduler", 10, tol=1e-6, timestep_spacing="trailing", clip_sample=False),
    "ddim clipped": _case("DDIMScheduler", 10, tol=1e-5),
    "ddim eta": _case("DDIMScheduler", 10, {"eta": 0.6}, tol=1e-5, clip_sample=False),
    "ddim zero snr": _case(
        "DDIMScheduler", 10, tol=1e-5, timestep_spacing="trailing", rescale_betas_zero_snr=True, clip_sample=False,
        **_VP),
    "ddpm": _case("DDPMScheduler", 20, tol=1e-5, clip_sample=False),
    "ddpm large clipped": _case("DDPMScheduler", 20, tol=1e-5, variance_type="fixed_large", steps_offset=1),
    "flow euler": _case("FlowMatchEulerDiscreteScheduler", 12, tol=2.8e-7),
    "flow euler shift 3": _case("FlowMatchEulerDiscreteScheduler", 12, tol=2.8e-7, shift=3.0),
    "flow euler dynamic": _case(
        "FlowMatchEulerDiscreteScheduler", 12, {"mu": 0.8}, tol=1e-5, use_dynamic_shifting=True, shift_terminal=0.1),
    "flow euler stochastic": _case("FlowMatchEulerDiscreteScheduler", 12, tol=1e-5, stochastic_sampling=True),
    "edm dpm 2M": _case("EDMDPMSolverMultistepScheduler", 12, tol=1.6e-6),
    "edm dpm 2M sigma_min": _case("EDMDPMSolverMultistepScheduler", 12, tol=1e-5, sigma_schedule="exponential", **_MIN),
    "edm euler": _case("EDMEulerScheduler", 12, tol=1e-5),
    "ddim uneven": _case("DDIMScheduler", 30, {"eta": 0.3}, tol=1e-5, timestep_spacing="trailing", clip_sample=False),
    "pndm": _case("PNDMScheduler", 12, tol=1e-5, skip_prk_steps=True, steps_offset=1, **_SD),
    "pndm uneven v": _case(
        "PNDMScheduler", 12, tol=1e-5, skip_prk_steps=True, timestep_spacing="linspace", **_SD, **_VP),
    "lcm": _case("LCMScheduler", 4, tol=1e-5),
}  # fmt: skip


def data_prediction(x, alpha, sigma):
    """E[x_0 | x] of the mixture, x of shape (n, 2)."""
    v = alpha**2 * WIDTHS**2 + sigma**2
    gap = x[:, None] - alpha * MEANS
    logits = np.log(WEIGHTS) - np.log(v) - (gap**2).sum(-1) / (2 * v)
    r = np.exp(logits - logits.max(1, keepdims=True))
    r /= r.sum(1, keepdims=True)
    return (r[..., None] * (MEANS + (alpha * WIDTHS**2 / v)[:, None] * gap)).sum(1)


def network(kind, x, alpha, sigma):
    """What a perfect network of some kind returns at the state x."""
    data = data_prediction(x, alpha, sigma)
    if kind in ("sample", "original_sample"):
        return data
    if kind == "edm":
        skip, root = 0.25 / (sigma**2 + 0.25), np.sqrt(sigma**2 + 0.25)
        return (data - skip * x) * root / (0.5 * sigma)
    noise = (x - alpha * data) / sigma
    if kind == "epsilon":
        return noise
    return noise - data if kind == "flow_prediction" else alpha * noise - sigma * data


def initial_noise():
    """Unit noise that every case starts from, of the size of the first particles of the reproduction problem."""
    return np.random.default_rng(0).standard_normal((256, 2))[:PARTICLES]


def run(case) -> dict[str, np.ndarray]:
    """Levels, network times, what the network was shown, the final state, and the noise that was added."""
    import diffusers
    import torch

    config = dict(case["config"])
    name, steps, kwargs = config.pop("_class_name"), case["steps"], dict(case["kwargs"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = getattr(diffusers, name)(**config)
        scheduler.set_timesteps(steps, **({"mu": kwargs.pop("mu")} if "mu" in kwargs else {}))
        generator = torch.Generator().manual_seed(7)
        x = initial_noise() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        x = torch.from_numpy(x).float()[..., None]  # thresholding there asks for a third axis
        flow = name.startswith("Flow") or config.get("use_flow_sigmas", False)
        edm = name.startswith("EDM")
        chain = name in ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler", "LCMScheduler")
        kind = "flow_prediction" if name.startswith("Flow") else config.get("prediction_type", "epsilon")
        kind = "edm" if edm else kind
        scaled = hasattr(scheduler, "is_scale_input_called") or name.startswith(("Heun", "KDPM2"))
        shown, levels, noises = [], [], []
        parameters = scheduler.step.__code__.co_varnames[: scheduler.step.__code__.co_argcount]
        mid = getattr(scheduler, "sigmas_interpol", None)
        for i, t in enumerate(scheduler.timesteps):
            if chain:
                bar = float(scheduler.alphas_cumprod[t])
                level = np.sqrt((1 - bar) / bar) if bar else np.inf
            else:
                level = float((mid if mid is not None and i % 2 else scheduler.sigmas)[i])
            alpha, sigma = (1 - level, level) if flow else (1.0, level) if edm else _unit(level)
            state = x.double().numpy()[..., 0]
            inner = state if edm or flow or not scaled else state * alpha
            if scaled:
                scheduler.scale_model_input(x, t)
            output = torch.from_numpy(network(kind, inner, alpha, sigma)).float()[..., None]
            before, options = generator.get_state(), {}
            if "generator" in parameters:
                options["generator"] = generator
            shown.append(state)
            levels.append(level)
            x = scheduler.step(output, t, x, return_dict=False, **kwargs, **options)[0]
            if not torch.equal(before, generator.get_state()):
                again = torch.Generator()
                again.set_state(before)
                noises.append(torch.randn(x.shape, generator=again).numpy()[..., 0])
            else:
                noises.append(np.zeros(state.shape, np.float32))
    result = {
        "levels": np.asarray(levels), "steps": np.asarray([float(t) for t in scheduler.timesteps]),
        "shown": np.asarray(shown, np.float32), "final": x.numpy()[..., 0],
    }  # fmt: skip
    last = 0.0
    if name in ("DDIMScheduler", "PNDMScheduler") and not config.get("set_alpha_to_one", name == "DDIMScheduler"):
        last = np.sqrt(1 / float(scheduler.final_alpha_cumprod) - 1)
    result["sigmas"] = np.append(levels, last) if chain else scheduler.sigmas.numpy()
    if np.any(noises):
        result["noises"] = np.asarray(noises, np.float32)
    return result


def _unit(level):
    """alpha and sigma of unit power; the level may be infinite."""
    return (0.0, 1.0) if np.isinf(level) else (1 / np.hypot(1, level), level / np.hypot(1, level))


def main():
    """Run all cases and write the file."""
    import diffusers
    import torch

    arrays = {"versions": np.asarray(f"diffusers {diffusers.__version__}, torch {torch.__version__}")}
    for name, case in CASES.items():
        arrays |= {f"{name}/{field}": value for field, value in run(case).items()}
    np.savez_compressed(FILE, **arrays)
    print(f"{len(CASES)} cases, {FILE.stat().st_size / 1e3:.0f} kB, {arrays['versions']}")


if __name__ == "__main__":
    main()
