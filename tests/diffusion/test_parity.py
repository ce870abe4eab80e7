"""Side by side with the diffusers library: golden trajectories, and the library itself where it is installed."""

import functools
import importlib.util
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.diffusion import interop
from jaxsci.diffusion.diffusers._classes import SCHEDULERS

_SPEC = importlib.util.spec_from_file_location("golden_make", pathlib.Path(__file__).with_name("golden") / "make.py")
golden = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(golden)


@functools.cache
def _file():
    with np.load(golden.FILE) as file:
        return {name: file[name] for name in file.files}


def recorded(name):
    """One case of the golden file."""
    return {key.split("/", 1)[1]: value for key, value in _file().items() if key.startswith(f"{name}/")}


def ours(case, peer, imported):
    """What the network is shown and the final state, in the library's own state, in double precision."""
    shown, table = [], imported.table
    in_rho = case["config"]["_class_name"].startswith(("Euler", "Heun", "KDPM2", "LMS"))

    def denoise(x, t, alpha, sigma):
        shown.append(x / alpha if in_rho else x)
        exact = lambda *_: golden.network(imported.kind, x, alpha, sigma)  # noqa: E731
        data, noise = interop.plain_denoiser(exact, imported.schedule, imported.kind)(x, t, alpha, sigma)
        if imported.limit is not None:
            pairs = [imported.limit(*(jnp.asarray(v[k]) for v in (data, noise, x)), t) for k in range(len(x))]
            data, noise = (np.stack([np.asarray(pair[part]) for pair in pairs]) for part in (0, 1))
        return data, noise

    start = golden.initial_noise() * float(imported.init_scale)
    noise = (lambda i: peer["noises"][i].astype(float)) if "noises" in peer else None
    final = interop.run_plain(denoise, table, start, noise=noise)
    return np.asarray(shown), final / table.alpha[-1] if in_rho else final


def same_levels(case, peer):
    """Our table on the levels that the library computed in single precision, for classes that take levels."""
    if case["config"]["_class_name"] in ("PNDMScheduler", "LCMScheduler") or "uneven" in case["name"]:
        return interop.from_diffusers(case["config"], case["steps"], **case["kwargs"])
    sigmas, steps = peer["sigmas"].astype(float), peer["steps"]
    if case["config"]["_class_name"].startswith(("Heun", "KDPM2")):  # every level but the first stands there twice
        sigmas, steps = np.append(sigmas[: 2 * case["steps"] : 2], 0.0), steps[::2]
    kwargs = {key: value for key, value in case["kwargs"].items() if key != "mu"}
    return interop.from_diffusers(case["config"], sigmas=sigmas[: len(steps) + 1], timesteps=steps, **kwargs)


def differences(case, peer, imported):
    """At the end, and on the way relative to the size of the state (80 and more where noise explodes)."""
    shown, final = ours(case, peer, imported)
    way = np.abs(shown - peer["shown"]).max((1, 2)) / np.maximum(1, np.abs(peer["shown"]).max((1, 2)))
    return np.abs(final - peer["final"]).max(), way.max()


def noise_prediction(case):
    """The protocol's second group: ten times the rounding error or more."""
    config = case["config"]
    return config.get("algorithm_type", "") in ("dpmsolver", "sde-dpmsolver") or config.get("predict_x0") is False


@pytest.mark.x64
@pytest.mark.parametrize("name", golden.CASES)
def test_golden_trajectory(name):
    """Equal levels: the whole trajectory, to the tolerance of the family."""
    case, peer = golden.CASES[name] | {"name": name}, recorded(name)
    end, way = differences(case, peer, same_levels(case, peer))
    assert end <= case["tol"]
    assert way <= (1e-4 if noise_prediction(case) or case["tol"] > 1e-5 else 1e-5)


@pytest.mark.x64
@pytest.mark.parametrize("name", golden.CASES)
def test_golden_configuration(name):
    """From the configuration alone: times, levels, and the trajectory as far as a chain in single precision allows."""
    case, peer = golden.CASES[name], recorded(name)
    imported = interop.from_diffusers(case["config"], case["steps"], **case["kwargs"])
    np.testing.assert_allclose(imported.timesteps, peer["steps"], atol=2e-3)
    finite = np.isfinite(peer["levels"])
    # 1 - beta_1 = .9999 loses three digits in single precision, and with it the least level of the chain
    np.testing.assert_allclose(imported.table.t[:-1][finite], peer["levels"][finite], rtol=1e-4)
    assert np.array_equal(np.isfinite(imported.table.t[:-1]), finite)
    end, way = differences(case, peer, imported)
    assert end <= 1e-4 and way <= 1e-4


def test_golden_covers_the_families():
    """At least the families of the parity table."""
    assert {case["config"]["_class_name"] for case in golden.CASES.values()} == set(SCHEDULERS)
    assert golden.FILE.stat().st_size <= 200e3
    assert np.abs([recorded(name)["final"] for name in golden.CASES]).max() < 4


def test_golden_detects_a_wrong_solver():
    """Exact third-order weights, another order, another relaxation: each is far outside the tolerance."""
    case, peer = golden.CASES["dpm 3M"], recorded("dpm 3M")
    config, sigmas = case["config"], peer["sigmas"].astype(float)
    for wrong in (
        interop.from_diffusers(config, sigmas=sigmas, weights="exact"),
        interop.from_diffusers(config | {"solver_order": 2}, sigmas=sigmas),
        interop.from_diffusers(config | {"lower_order_final": False}, sigmas=sigmas),
    ):
        assert differences(case, peer, wrong)[0] > 100 * case["tol"]
    case, peer = golden.CASES["unipc 2 bh1"], recorded("unipc 2 bh1")
    other = interop.from_diffusers(case["config"] | {"solver_type": "bh2"}, sigmas=peer["sigmas"].astype(float))
    assert differences(case, peer, other)[0] > 100 * case["tol"]


@pytest.mark.parametrize("name", list(golden.CASES)[::3])
def test_peer_itself(name):
    """The installed library still gives the golden trajectory."""
    pytest.importorskip("diffusers", reason="diffusers is not installed; the golden trajectories stand in for it")
    pytest.importorskip("torch", reason="torch is not installed")
    case = golden.CASES[name]
    now, then = golden.run(case), recorded(name)
    np.testing.assert_allclose(now["final"], then["final"], atol=case["tol"], rtol=0)
    np.testing.assert_allclose(now["levels"], then["levels"], rtol=1e-6)
