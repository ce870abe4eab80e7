"""Random scheduler configurations run beside diffusers: the same network, the same noise, state against state.

``python -m benchmarks.diffusers_fuzz [--fast] [--cases N] [--seed S] [--verbose N]`` draws N configurations (1000; 120
with ``--fast``) of the classes that `interop.from_diffusers` reads, with 1 to 50 steps, a third of them begun in the
middle, and sorts every one of them: equal, refused by name, failing in the library, or different, which has to be
explained by a fault of the library that is listed here (`FAULTS`).
"""

import argparse
import collections
import json
import sys

import numpy as np

from benchmarks._harness import main, row
from benchmarks._peers import Failed, Missing, PeerError
from benchmarks._shipped import SHIPPED
from benchmarks.peers.diffusers_fuzz import network, noises
from jaxsci.diffusion import interop
from jaxsci.diffusion.diffusers import _levels
from jaxsci.diffusion.diffusers._classes import SCHEDULERS
from jaxsci.diffusion.diffusers._reader import _read

TOLERANCE = 2e-4
"""Of the final state relative to its largest entry: single precision there, whose chain begins 1e-4 off (1 - beta)."""

POOLS = {
    "num_train_timesteps": [1000, 1000, 500, 100], "beta_start": [1e-4, 8.5e-4, 1e-3], "beta_end": [0.02, 0.012],
    "beta_schedule": ["linear", "scaled_linear", "squaredcos_cap_v2"], "steps_offset": [0, 1],
    "solver_order": [1, 2, 3],
    "solver_type": ["midpoint", "heun", "logrho", "bh1", "bh2"], "sigma_min": [None, 0.002, 0.03, 0.1],
    "sigma_max": [None, 5.0, 14.6, 80.0], "flow_shift": [1.0, 3.0], "shift": [1.0, 3.0, 7.0],
    "lambda_min_clipped": [-np.inf, -5.1], "disable_corrector": [[], [0], [0, 2]], "rho": [7.0, 5.0],
    "sigma_data": [0.5, 1.0], "original_inference_steps": [50, 25], "timestep_scaling": [10.0, 1.0],
    "sample_max_value": [1.0, 1.5], "clip_sample_range": [1.0, 2.0], "dynamic_thresholding_ratio": [0.995, 0.9],
    "variance_type": ["fixed_small", "fixed_large"], "shift_terminal": [None, 0.1], "base_shift": [0.5],
    "algorithm_type": ["dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver", "deis"],
    "final_sigmas_type": ["zero", "sigma_min"], "timestep_spacing": ["linspace", "leading", "trailing"],
    "interpolation_type": ["linear", "log_linear"], "timestep_type": ["discrete", "continuous"],
    "sigma_schedule": ["karras", "exponential"], "time_shift_type": ["exponential", "linear"],
    "prediction_type": ["epsilon", "sample", "v_prediction", "flow_prediction"],
}  # fmt: skip

LIKELY = {"use_dynamic_shifting": 0.1, "stochastic_sampling": 0.2, "skip_prk_steps": 0.9, "lower_order_final": 0.7}


def draw(rng) -> dict:
    """One case: configuration, number of steps, first step, arguments."""
    name = str(rng.choice(sorted(SCHEDULERS)))
    config = {"_class_name": name}
    for key, default in SCHEDULERS[name].options.items():
        if isinstance(default, bool):
            if key == "skip_prk_steps" or rng.random() < 0.3:
                config[key] = bool(rng.random() < LIKELY.get(key, 0.3))
        elif key in POOLS and rng.random() < 0.3:
            pool = [value for value in POOLS[key] if value is not None or default is None]
            config[key] = pool[rng.integers(len(pool))]
    num = int(rng.choice([*range(1, 13), *rng.integers(13, 51, 6)]))
    begin = int(rng.integers(1, num)) if num > 1 and rng.random() < 1 / 3 else 0
    arguments = {"eta": float(rng.choice([0.0, 0.5, 1.0]))} if name == "DDIMScheduler" else {}
    if config.get("use_dynamic_shifting"):
        arguments["mu"] = 0.8
    return {"config": config, "num": num, "begin": begin, "arguments": arguments, "seed": int(rng.integers(1 << 30))}


def ours(case, table=None, first=None):
    """Our final state, in double precision, in the units of the class; from another table, or with another time for the
    network's first call, if one is given."""
    config, num = case["config"], case["num"]
    it = interop.from_diffusers(config, num, begin=case["begin"], **case["arguments"])
    it = it if table is None else it._replace(table=table)
    x = noises(case["seed"], -1).astype(float)
    if case["begin"]:
        x = float(it.table.alpha[0]) * noises(case["seed"], -2) + float(it.table.sigma[0]) * x
    else:
        x = float(it.init_scale) * x
    start = it.timesteps[0]
    model = network if first is None else lambda x, t: network(x, first if t == start else t)
    denoise = interop.plain_denoiser(model, it)
    with np.errstate(all="ignore"):
        found = interop.run_plain(denoise, it.table, x, noise=lambda i: noises(case["seed"], i))
    of_ratio = SCHEDULERS[config["_class_name"]].levels == "sigma"
    return np.asarray(found) / (float(it.table.alpha[-1]) if of_ratio else 1.0)


# --- faults of the library ----------------------------------------------------------------------------------


def _settings(case):
    arguments = {"eta": 0.0, "begin": 0, "mu": None, "timesteps": None, "sigmas": None, "weights": ""}
    return _read(case["config"], arguments | case["arguments"])[1]


def difference(case, theirs, table=None, first=None):
    """Of the final states, relative to the largest entry of the library's."""
    return np.abs(ours(case, table, first) - theirs).max() / max(1.0, np.abs(theirs).max())


def _chain_in_single_precision(case, theirs):
    """The library rounds beta, 1 - beta and their products: 1 - 1e-4 keeps three digits of the least noise level.

    A step from a high level to that one divides by it. Where this is the cause, our sampler on the rounded chain ends
    where the library does, twenty times closer than two equal states have to be.
    """
    o = _settings(case)
    if o["law"] != "vp" or o["rescale_betas_zero_snr"]:
        return False
    rho = _levels.chain(o)
    bar = 1 / (1 + rho**2)
    betas = np.float32(1 - bar / np.append(1, bar[:-1]))
    bar = np.cumprod(1 - betas, dtype=np.float32).astype(float)
    rounded = (1 - bar / np.append(1, bar[:-1])).tolist()
    return bool(difference(case | {"config": case["config"] | {"trained_betas": rounded}}, theirs) <= TOLERANCE / 20)


def _weights_of_four_points(case, theirs):
    """Begun in the middle, LMS has one output and multiplies it by the newest of four weights, and so on.

    Our rows of the whole run, less what they say about outputs before the beginning, end where the library does.
    """
    begin = case["begin"]
    if case["config"]["_class_name"] != "LMSDiscreteScheduler" or not begin:
        return False
    table = interop.from_diffusers(case["config"], case["num"], begin=begin).table
    rows = interop.from_diffusers(case["config"], case["num"]).table.predictor
    noise = rows.noise[begin:] * np.tri(len(rows.noise) - begin, rows.noise.shape[1])
    rows = rows._replace(x=rows.x[begin:], data=rows.data[begin:], noise=noise)
    return bool(difference(case, theirs, table._replace(predictor=rows)) <= TOLERANCE)


def _between_integers(case, theirs):
    """The library makes integers of time steps in single precision, and some step lies within .003 of an edge."""
    name = case["config"]["_class_name"]
    if SCHEDULERS[name].levels != "multistep":
        return False
    o = _settings(case)
    curve, table = _levels._curve_name(o), interop.from_diffusers(case["config"], case["num"]).table
    if curve is None and not o["use_flow_sigmas"]:
        return False
    if curve is None:
        steps = table.t[:-1] * o["num_train_timesteps"]
    else:
        steps = _levels.steps_of(table.sigma[:-1] / table.alpha[:-1], _levels.chain(o))
    steps = steps + 0.5 * (curve in o["rounded_curves"])
    return bool(np.abs(steps - np.round(steps)).min() < 0.003)


def _two_times_of_the_last_level(case, theirs):
    """A chain rescaled to end without signal passes its last level, 4096, before its last step as well, and a rounding
    of the curve's first level chooses between the two times. With the other time our sampler ends where the library
    does."""
    o = _settings(case)
    if not o["rescale_betas_zero_snr"] or _levels._curve_name(o) is None or case["begin"]:
        return False
    return bool(difference(case, theirs, first=o["num_train_timesteps"] - 1.0) <= TOLERANCE)


# Faults of diffusers 0.42.1 that make a difference: name -> whether it is this case's, given the library's final state.
FAULTS = {
    "the trained chain in single precision": _chain_in_single_precision,
    "LMS begun in the middle takes the weights of four points for the fewer that it has": _weights_of_four_points,
    "a rescaled chain has its last level twice, and a rounding chooses the time": _two_times_of_the_last_level,
    "time steps in single precision are cut to integers on the wrong side": _between_integers,
    "one step of exponential EDM levels starts at the least one, from noise of the largest": lambda case, theirs: (
        case["config"].get("sigma_schedule") == "exponential" and case["num"] == 1
    ),
}


SINGLE = "single precision: in double, the library ends where we do"
"""What is no entry of `FAULTS`, since it is shown by running the library again."""


def sort(case, theirs, error, double):
    """(what became of a case, why); `double` is where the library ends in double precision, or NaN."""
    try:
        mine = ours(case)
    except interop.Unsupported as refusal:
        return ("both refuse" if error else "refused"), str(refusal).split("from_diffusers: ")[-1]
    except ValueError as refusal:
        return ("both refuse" if error else "refused"), str(refusal).split(";")[0][:90]
    if error:
        return "the library fails", error
    if not np.isfinite(theirs).all():
        return "the library gives NaN", case["config"]["_class_name"]
    scale = max(1.0, float(np.abs(theirs).max()))
    away, left = np.abs(mine - theirs).max(), np.abs(mine - double).max()
    if away <= TOLERANCE * scale:
        return "equal", ""
    if left <= min(TOLERANCE * scale, away / 5):
        return "explained", SINGLE
    known = [name for name, holds in FAULTS.items() if holds(case, theirs)]
    return ("explained", known[0]) if known else ("unexplained", case["config"]["_class_name"])


def _shipped(peers):
    """The scheduler files of published models: largest difference of the final states."""
    cases = [
        {"config": {"_class_name": name} | options, "num": num, "begin": 0, "arguments": arguments, "seed": 7}
        for name, options, num, arguments, _ in SHIPPED.values()
    ]
    peer = peers.find(("diffusers", "torch", "scipy"), "diffusers_fuzz:run", cases=json.dumps(cases))
    try:
        found, trouble = (None, peer) if isinstance(peer, (Missing, Failed)) else (peer.call(), None)
    except PeerError as error:
        found, trouble = None, Failed(str(error))
    for n, (name, case) in enumerate(zip(SHIPPED, cases)):
        worst, note = None, f"{case['num']} steps; file from {SHIPPED[name][-1]}"
        if found is not None:
            theirs = found["final"][n].astype(float)
            try:
                worst = float(difference(case, theirs))
            except interop.Unsupported as refusal:
                note = f"{note}; refused: {str(refusal).split('from_diffusers: ')[-1]}; {found['error'][n]}"
        yield row(
            f"shipped: {name}", worst, unit="rel", peer_name="diffusers", accuracy=worst, within=3e-6, trouble=trouble,
            note=note,
        )  # fmt: skip


OPTIONS = {"cases": None, "seed": 0, "verbose": 0}
"""What this script's own arguments set."""


def rows(fast, peers):
    """The shipped files, and how many random configurations end as what."""
    yield from _shipped(peers)
    rng = np.random.default_rng(OPTIONS["seed"])
    cases = [draw(rng) for _ in range(OPTIONS["cases"] or (120 if fast else 1000))]
    peer = peers.find(("diffusers", "torch", "scipy"), "diffusers_fuzz:run", cases=json.dumps(cases))
    try:
        found, trouble = (None, peer) if isinstance(peer, (Missing, Failed)) else (peer.call(), None)
    except PeerError as error:
        found, trouble = None, Failed(str(error))
    if found is None:
        yield row("fuzz beside diffusers", None, unit="cases", peer_name="diffusers", trouble=trouble)
        return
    counts, reasons, bad = collections.Counter(), collections.Counter(), []
    for case, theirs, error, double in zip(cases, found["final"], found["error"].tolist(), found["double"]):
        kind, why = sort(case, theirs.astype(float), error, double)
        counts[kind] += 1
        reasons[kind, case["config"]["_class_name"], why[:100]] += 1
        if kind == "unexplained":
            bad.append(case)
    for key, n in sorted(reasons.items()):
        if key[0] != "equal":
            print(n, *key, sep="  ")
    for case in bad[: OPTIONS["verbose"]]:
        print(json.dumps(case))
    for kind in sorted({*counts, "unexplained"}):
        yield row(
            f"fuzz beside diffusers: {kind}", counts[kind], unit="cases", peer_name="diffusers",
            accuracy=float(counts[kind]), within=0.0 if kind == "unexplained" else None,
            note=f"of {len(cases)} random configurations; equal is within {TOLERANCE:g} of the largest entry",
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    for option, value in OPTIONS.items():
        parser.add_argument(f"--{option}", type=int, default=value)
    own, rest = parser.parse_known_args()
    OPTIONS.update(vars(own))
    sys.exit(main("diffusers_fuzz", rows, rest))
