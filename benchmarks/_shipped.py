"""Scheduler files of published models, with the number of steps and the arguments that their pipelines use.

Each entry has every key of the file but ``_diffusers_version``; keys of other classes among them, which files carry
along. Where each comes from is its last field:

* ``owner/repository:path``: a public copy of the file on GitHub, or the file quoted in source text there;
* ``scripts/...`` and ``loaders/...``: files of the diffusers repository (August 2026) which make the published file,
  whose remaining keys are the defaults of its class.

Steps are the defaults of the pipelines' ``__call__`` in diffusers 0.42.1 (for Turbo, the most that its card speaks of),
and so are the sizes from which ``image_seq_len`` follows: 1024 x 1024 pixels make 4096 tokens for Flux and Qwen-Image,
161 frames of 512 x 704 make 21 * 16 * 22 = 7392 for LTX. These three pipelines pass ``sigmas`` from 1 to 1/N as well.
"""

import numpy as np

_CHAIN = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "trained_betas": None,
}  # fmt: skip
_LATENT = _CHAIN | {"set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1}
_XL = _LATENT | {
    "clip_sample": False, "interpolation_type": "linear", "prediction_type": "epsilon", "sample_max_value": 1.0,
}  # fmt: skip
_LINEAR = {
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": None,
}  # fmt: skip
_NO_LIMIT = {"thresholding": False, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1.0}
_NO_CURVE = {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False}
_EDM = {
    "num_train_timesteps": 1000, "prediction_type": "epsilon", "sigma_min": 0.002, "sigma_max": 80.0,
    "sigma_data": 0.5, "rho": 7.0,
}  # fmt: skip
_FLOW = "FlowMatchEulerDiscreteScheduler"
_IN_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
_SHIFTED = {
    "num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": True, "invert_sigmas": False,
    "stochastic_sampling": False, "time_shift_type": "exponential",
} | _NO_CURVE  # fmt: skip
_UNIPC = _LINEAR | _NO_LIMIT | _IN_FLOW | {
    "disable_corrector": [], "final_sigmas_type": "zero", "lower_order_final": True, "predict_x0": True,
    "rescale_betas_zero_snr": False, "solver_order": 2, "solver_p": None, "solver_type": "bh2", "steps_offset": 0,
    "timestep_spacing": "linspace", "use_exponential_sigmas": False, "use_beta_sigmas": False,
}  # fmt: skip
_DPM = _LINEAR | _NO_LIMIT | {
    "algorithm_type": "dpmsolver++", "euler_at_final": False, "lambda_min_clipped": -np.inf, "lower_order_final": True,
    "solver_order": 2, "solver_type": "midpoint", "steps_offset": 0, "timestep_spacing": "linspace",
    "use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None,
}  # fmt: skip


def _as_passed(num, image_seq_len):
    return {"sigmas": np.linspace(1, 1 / num, num).tolist(), "image_seq_len": image_seq_len}


SHIPPED = {
    "SD 1.5": (
        "PNDMScheduler",
        _LATENT | _NO_LIMIT | {"clip_sample": False, "clip_sample_range": 1.0, "prediction_type": "epsilon"}, 50, {},
        "HDRJ-One/runwayml-stable-diffusion-v1-5:scheduler/scheduler_config.json"),
    "SD 2.1-v": (  # the copy is of the Flax branch, whose class name has Flax before it
        "DDIMScheduler", _LATENT | {"clip_sample": False, "prediction_type": "v_prediction"}, 50, {},
        "Vikas-2025/Hugging_face_sta_dif_2.1:scheduler/scheduler_config.json"),
    "SDXL": (
        "EulerDiscreteScheduler", _XL | {"timestep_spacing": "leading", "use_karras_sigmas": False}, 50, {},
        "PRITHIVSAKTHIUR/AI-Art-Generator-SDXL:scheduler/scheduler_config.json"),
    "Turbo": (
        "EulerAncestralDiscreteScheduler", _XL | {"timestep_spacing": "trailing"}, 4, {},
        "ostris/ai-toolkit:toolkit/sampler.py (sd_config, with the spacing and offset it comments out)"),
    "LCM": (
        "LCMScheduler",
        _XL | _NO_LIMIT | {
            "clip_sample_range": 1.0, "original_inference_steps": 50, "rescale_betas_zero_snr": False,
            "timestep_scaling": 10.0, "timestep_spacing": "leading", "use_karras_sigmas": False}, 4, {},
        "rafaelsf80/genai-sdxl-latent-consistency-lora-tpu:README.md"),
    "SVD": (
        "EulerDiscreteScheduler",
        _LATENT | {
            "clip_sample": False, "interpolation_type": "linear", "prediction_type": "v_prediction",
            "sigma_max": 700.0, "sigma_min": 0.002, "timestep_spacing": "leading", "timestep_type": "continuous",
            "use_karras_sigmas": True}, 25, {},
        "kijai/ComfyUI-MimicMotionWrapper:nodes.py"),
    "SD3": (
        _FLOW, {"num_train_timesteps": 1000, "shift": 3.0}, 28, {},
        "RevL-Lambda-DevRel/Stable-Diffusion-3.5-Large:scheduler_config.json"),
    "Flux": (
        _FLOW,
        {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 4096, "max_shift": 1.15,
         "num_train_timesteps": 1000, "shift": 3.0, "use_dynamic_shifting": True}, 28, _as_passed(28, 4096),
        "ostris/ai-toolkit:toolkit/sampler.py (flux_config)"),
    "Qwen-Image": (
        _FLOW,
        _SHIFTED | {"base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 8192, "max_shift": 0.9,
                    "shift_terminal": 0.02}, 50, _as_passed(50, 4096),
        "ostris/ai-toolkit:extensions_built_in/diffusion_models/qwen_image/qwen_image.py"),
    "LTX": (
        _FLOW,
        _SHIFTED | {"base_image_seq_len": 1024, "base_shift": 0.95, "max_image_seq_len": 4096, "max_shift": 2.05,
                    "shift_terminal": 0.1}, 50, _as_passed(50, 7392),
        "scripts/convert_ltx_to_diffusers.py"),
    "Wan": (
        "UniPCMultistepScheduler", _UNIPC | {"flow_shift": 3.0, "use_karras_sigmas": False}, 50, {},
        "scripts/convert_wan_to_diffusers.py; ostris/ai-toolkit:toolkit/models/wan21/wan21.py"),
    "Sana": (
        "DPMSolverMultistepScheduler", _DPM | _IN_FLOW | {"flow_shift": 3.0}, 20, {},
        "scripts/convert_sana_to_diffusers.py"),
    "PixArt": (
        "DPMSolverMultistepScheduler", _DPM | {"prediction_type": "epsilon"}, 20, {},
        "ostris/ai-toolkit:toolkit/sampler.py (pixart_config)"),
    "Playground": (
        "EDMDPMSolverMultistepScheduler",
        _EDM | _NO_LIMIT | {
            "algorithm_type": "dpmsolver++", "euler_at_final": False, "final_sigmas_type": "zero",
            "lower_order_final": True, "solver_order": 2, "solver_type": "midpoint"}, 50, {},
        "loaders/single_file_utils.py"),
    "Cosmos": (
        "EDMEulerScheduler", _EDM | {"sigma_schedule": "karras", "final_sigmas_type": "sigma_min"}, 36, {},
        "scripts/convert_cosmos_to_diffusers.py"),
    "Cosmos 2.5": (
        "UniPCMultistepScheduler", _UNIPC | {"use_karras_sigmas": True, "sigma_max": 200.0, "sigma_min": 0.01}, 36, {},
        "scripts/convert_cosmos_to_diffusers.py"),
    "HunyuanDiT": (
        "DDPMScheduler",
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.03, "steps_offset": 1,
         "prediction_type": "v_prediction", "clip_sample": False, "clip_sample_range": 1.0}, 50, {},
        "donggangj/HunyuanDiT:hydit/constants.py (SAMPLER_FACTORY of the first release)"),
}  # fmt: skip
"""Class, options, steps, arguments and source by model."""
