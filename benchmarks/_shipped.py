"""Scheduler files of published models, with the number of steps and the arguments that their pipelines use.

Where each comes from: "scripts/..." and "loaders/..." are files of the diffusers repository (August 2026), which make
or describe the published file; "known" is what the published ``scheduler_config.json`` holds as far as we remember it,
not looked up again.
"""

_SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_LATENT = _SD | {"set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "timestep_spacing": "leading"}
_FLOW = "FlowMatchEulerDiscreteScheduler"
_FLOW_DPM = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}

SHIPPED = {
    "SD 1.5": ("PNDMScheduler", _LATENT, 50, {}, "loaders/single_file_utils.py"),
    "SD 2.1-v": ("DDIMScheduler", _LATENT | {"prediction_type": "v_prediction", "clip_sample": False}, 50, {}, "known"),
    "SDXL": ("EulerDiscreteScheduler", _LATENT | {"interpolation_type": "linear"}, 50, {}, "known"),
    "Turbo": (
        "EulerAncestralDiscreteScheduler", _LATENT | {"timestep_spacing": "trailing"}, 4, {}, "known"),
    "LCM": ("LCMScheduler", _LATENT | {"original_inference_steps": 50}, 4, {}, "known"),
    "SVD": (
        "EulerDiscreteScheduler",
        _LATENT | {"use_karras_sigmas": True, "sigma_min": 0.002, "sigma_max": 700.0, "timestep_type": "continuous",
                   "prediction_type": "v_prediction"}, 25, {}, "known"),
    "SD3": (_FLOW, {"shift": 3.0}, 28, {}, "known"),
    "Flux": (
        _FLOW, {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15}, 20, {"mu": 1.15},
        "known"),
    "Qwen-Image": (
        _FLOW, {"shift": 1.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 0.9,
                "max_image_seq_len": 8192, "shift_terminal": 0.02}, 50, {"mu": 0.7}, "known"),
    "LTX": (
        _FLOW, {"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024,
                "max_image_seq_len": 4096, "shift_terminal": 0.1}, 50, {"mu": 1.5},
        "scripts/convert_ltx_to_diffusers.py"),
    "Wan": ("UniPCMultistepScheduler", _FLOW_DPM | {"flow_shift": 3.0}, 50, {}, "scripts/convert_wan_to_diffusers.py"),
    "Sana": (
        "DPMSolverMultistepScheduler", _FLOW_DPM | {"flow_shift": 3.0}, 20, {}, "scripts/convert_sana_to_diffusers.py"),
    "PixArt": ("DPMSolverMultistepScheduler", {}, 20, {}, "scripts/convert_pixart_alpha_to_diffusers.py"),
    "Playground": ("EDMDPMSolverMultistepScheduler", _EDM, 50, {}, "known"),
    "Cosmos": ("EDMEulerScheduler", _EDM | {"final_sigmas_type": "sigma_min"}, 35, {},
               "scripts/convert_cosmos_to_diffusers.py"),
    "Cosmos 2.5": (
        "UniPCMultistepScheduler", _FLOW_DPM | {"use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}, 35,
        {},
        "scripts/convert_cosmos_to_diffusers.py"),
    "HunyuanDiT": (
        "DDPMScheduler",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.03, "steps_offset": 1,
         "prediction_type": "v_prediction", "clip_sample": False}, 50, {}, "known"),
}  # fmt: skip
"""Class, options, steps, arguments and source by model."""
