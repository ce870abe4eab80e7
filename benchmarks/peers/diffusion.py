"""diffusers' schedulers: recorded protocol, bare steps, and a loop over numbers of calls."""

import importlib.util
import json
import pathlib

import diffusers
import numpy as np
import torch

torch.set_num_threads(1)


def _scheduler(config):
    options = {key: value for key, value in config.items() if not key.startswith("_")}
    return getattr(diffusers, config["_class_name"])(**options)


def trajectory(case):
    """A case of the parity tests: noise levels, times, what the network was shown, the final state, the noise added."""
    path = pathlib.Path(__file__).parents[2] / "tests" / "diffusion" / "golden" / "make.py"
    spec = importlib.util.spec_from_file_location("golden_make", path)
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
    return lambda: golden.run(golden.CASES[case])


def steps(config, num):
    """The scheduler's arithmetic on 64 x 64 ones, from a fresh state, with a model that scales by .1."""
    scheduler = _scheduler(json.loads(config))
    scheduler.set_timesteps(num)
    start, order = torch.ones(64, 64), scheduler.config.solver_order

    @torch.no_grad()
    def run():
        scheduler._step_index, scheduler.lower_order_nums, scheduler.last_sample = None, 0, None
        scheduler.model_outputs = [None] * order
        x = start
        for t in scheduler.timesteps:
            x = scheduler.step(0.1 * x, t, x, return_dict=False)[0]
        return x.numpy()

    return run


def sweep(config, nfes, noise, weights, means, widths):
    """Samples (num NFE, seeds, 2) of a mixture in the plane, one loop for each number of model calls."""
    config, start = json.loads(config), torch.from_numpy(noise)[..., None]
    weights, means, widths = (torch.from_numpy(np.asarray(a, np.float32)) for a in (weights, means, widths))

    @torch.no_grad()
    def run():
        last = []
        for n in nfes:
            scheduler, x = _scheduler(config), start
            scheduler.set_timesteps(int(n))
            for i, t in enumerate(scheduler.timesteps):
                rho = float(scheduler.sigmas[i])
                alpha, sigma = 1 / np.hypot(1, rho), rho / np.hypot(1, rho)
                v = alpha**2 * widths**2 + sigma**2
                gap = x[:, None, :, 0] - alpha * means
                r = torch.softmax(torch.log(weights) - torch.log(v) - (gap**2).sum(-1) / (2 * v), -1)
                eps = (sigma * ((r / v)[..., None] * gap).sum(1))[..., None]
                x = scheduler.step(eps, t, x, return_dict=False)[0]
            last.append(x.numpy()[..., 0])
        return np.stack(last)

    return run
