"""Every key of every imported scheduler class: used, inert for a reason, or refused by name."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxsci.diffusion import interop
from jaxsci.diffusion.diffusers._classes import MISSING, SCHEDULERS

SIGNATURES = json.loads(pathlib.Path(__file__).with_name("golden").joinpath("signatures.json").read_text())
"""Keys and defaults of the classes of diffusers 0.42.1; made by inspecting their ``__init__``."""

VALUES = {
    "trained_betas": [np.linspace(1e-3, 0.02, 100).tolist()], "num_train_timesteps": [500], "beta_start": [0.002],
    "beta_end": [0.03], "beta_schedule": ["scaled_linear", "linear"], "prediction_type": ["sample", "v_prediction"],
    "timestep_spacing": ["linspace", "leading", "trailing"], "steps_offset": [1], "dynamic_thresholding_ratio": [0.5],
    "sample_max_value": [3.0], "clip_sample_range": [2.0], "final_sigmas_type": ["zero", "sigma_min"],
    "flow_shift": [2.0], "time_shift_type": ["linear"], "sigma_min": [0.01], "sigma_max": [0.8], "solver_order": [1, 3],
    "algorithm_type": ["dpmsolver++", "sde-dpmsolver++", "dpmsolver"], "solver_type": ["heun", "midpoint", "bh1"],
    "sigma_data": [0.7], "sigma_schedule": ["exponential"], "rho": [5.0], "lambda_min_clipped": [-2.0],
    "variance_type": ["fixed_large", "learned"], "interpolation_type": ["log_linear"], "timestep_type": ["continuous"],
    "disable_corrector": [[1]], "solver_p": [1], "shift_terminal": [0.1], "shift": [3.0], "base_shift": [0.1],
    "max_shift": [2.0], "base_image_seq_len": [100], "max_image_seq_len": [900], "original_inference_steps": [20],
    "timestep_scaling": [1.0],
}  # fmt: skip

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
AROUND = [
    {}, {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}, FLOW, FLOW | {"use_dynamic_shifting": True},
    {"thresholding": True}, {"clip_sample": True}, {"clip_sample": False}, {"use_dynamic_shifting": True},
    {"timestep_type": "continuous", "prediction_type": "v_prediction"}, {"lower_order_final": False},
    {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}, {"timestep_spacing": "leading"},
    {"solver_order": 3},
]  # fmt: skip


@functools.cache
def _read(text, arguments):
    try:
        it = interop.from_diffusers(json.loads(text), 8, **dict(arguments))
    except ValueError as error:
        return str(error)
    limit = it.limit and it.limit.args
    arrays = jax.tree.leaves((it.table, it.init_scale, it.timesteps, it.sigma_data, limit))
    return it.kind, tuple((np.shape(a), np.asarray(a).tobytes()) for a in arrays)


def _around(name):
    """Configurations around which a key is tried: most matter only beside another one."""
    options = SCHEDULERS[name].options
    base = {"_class_name": name}
    base |= {"skip_prk_steps": True} if "skip_prk_steps" in options else {}
    base |= {"final_sigmas_type": "sigma_min"} if "final_sigmas_type" in options else {}
    for extra in AROUND:
        if extra.keys() <= options.keys():
            yield base | extra, (("mu", 0.8),) if "use_dynamic_shifting" in extra else ()
            if "use_dynamic_shifting" in extra:
                yield base | extra, (("image_seq_len", 1000),)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_key_is_used_refused_or_inert_for_a_reason(name):
    scheduler, silent = SCHEDULERS[name], set()
    for key, default in scheduler.options.items():
        values = [not default, default] if isinstance(default, bool) else VALUES[key]
        size = {"num_train_timesteps": 100} if key == "trained_betas" else {}
        used = any(
            _read(json.dumps(config | size), arguments) != _read(json.dumps(config | size | {key: value}), arguments)
            for config, arguments in _around(name)
            for value in values
            if config.get(key, default) != value
        )
        silent |= set() if used else {key}
    assert silent == set(scheduler.inert)
    assert all(len(why.split()) > 1 for why in scheduler.inert.values())


def test_the_table_has_every_key_of_the_library_with_its_default():
    assert SIGNATURES.keys() == SCHEDULERS.keys()
    for name, signature in SIGNATURES.items():
        known = {key: str(value) for key, value in SCHEDULERS[name].options.items()}
        found = {key: str(value).replace("-inf", str(-np.inf)) for key, value in signature.items()}
        assert known == found, name


def test_classes_that_are_not_read_are_refused_with_what_is_missing():
    for name, why in MISSING.items():
        with pytest.raises(interop.Unsupported, match="it needs " + why[:20]):
            interop.from_diffusers({"_class_name": name}, 4)
