"""diffusers' schedulers on random configurations; what both sides share needs NumPy alone."""

import json
import warnings

import numpy as np

SHAPE = (2, 8)


def network(x, t):
    """What both sides take for the trained network: smooth, of size one, and different at every time."""
    return 0.6 * np.sin(1.3 * x + 0.4) + 0.3 * np.cos(t / 150) * x


def noises(seed, i):
    """Unit noise of step i; i = -1 is what the start is made of, -2 the image."""
    return np.random.default_rng([seed, i + 2]).standard_normal(SHAPE).astype(np.float32)


def run(cases):
    """Final states of random configurations, those of the same in double precision, and what failed."""
    import torch

    torch.set_num_threads(1)
    cases = json.loads(cases)

    def call():
        finals, errors = np.full((2, len(cases), *SHAPE), np.nan), []
        for n, case in enumerate(cases):
            try:
                with warnings.catch_warnings(), torch.no_grad():
                    warnings.simplefilter("ignore")
                    finals[0, n] = _final(case)
                    errors.append("")
                    finals[1, n] = _final(case, double=True)
            except Exception as error:  # whatever the library does not take
                errors[n:] = errors[n:] or [f"{type(error).__name__}: {error}"[:120]]
        return {"final": finals[0], "double": finals[1], "error": np.asarray(errors)}

    return call


def _shift(config, image_seq_len):
    """What pipelines compute mu by; they are not imported, since they need more packages than the schedulers."""
    slope = (config.max_shift - config.base_shift) / (config.max_image_seq_len - config.base_image_seq_len)
    return image_seq_len * slope + config.base_shift - slope * config.base_image_seq_len


def _final(case, double=False):
    """The final state; `double`: of states, levels and model outputs in double precision, as far as steps keep it."""
    import diffusers
    import torch

    config, seed, begin = case["config"], case["seed"], case["begin"]
    arguments = dict(case["arguments"])
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    scheduler = getattr(diffusers, config["_class_name"]).from_config(options)  # which passes over options of others
    given = {key: arguments.pop(key) for key in ("mu", "sigmas") if key in arguments}
    if "image_seq_len" in arguments:
        given["mu"] = _shift(scheduler.config, arguments.pop("image_seq_len"))
    scheduler.set_timesteps(**given if "sigmas" in given else given | {"num_inference_steps": case["num"]})
    dtype = torch.float64 if double else torch.float32
    if double:
        for name, value in vars(scheduler).items():
            if torch.is_tensor(value) and value.is_floating_point() and name != "timesteps":
                setattr(scheduler, name, value.double())
    noise, image = (torch.from_numpy(noises(seed, i))[None].to(dtype) for i in (-1, -2))
    step = [0]
    given = lambda *_, **__: torch.from_numpy(noises(seed, step[0]))[None].to(dtype)  # noqa: E731
    times = scheduler.timesteps
    if begin:
        first = begin * getattr(scheduler, "order", 1)
        times = times[first:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        if hasattr(scheduler, "add_noise"):
            x = scheduler.add_noise(image, noise, times[:1])
        else:
            x = scheduler.scale_noise(image, times[:1], noise)
    else:
        x = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
    kept = torch.randn, torch.randn_like
    torch.randn = torch.randn_like = given
    try:
        for step[0], t in enumerate(times):
            scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
            output = torch.from_numpy(network(scaled.double().numpy(), float(t))).to(dtype)
            x = scheduler.step(output, t, x, return_dict=False, **arguments)[0]
    finally:
        torch.randn, torch.randn_like = kept
    return x.numpy()[0]
