"""Reading scheduler configurations, and running tables in plain Python."""

import inspect
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci import diffusion
from jaxsci.diffusion import grids, hooks, interop, predictions, schedules, solvers, tables
from jaxsci.diffusion.diffusers._classes import SCHEDULERS

VP = schedules.vp_linear()
DPM = {"_class_name": "DPMSolverMultistepScheduler"}
DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
UNIPC = {"_class_name": "UniPCMultistepScheduler"}
SINGLE = {"_class_name": "DPMSolverSinglestepScheduler"}


def equal(a, b, tol=0.0):
    chex.assert_trees_all_close(a, b, rtol=tol, atol=tol)


def gaussian(x, alpha, sigma, mean=0.7, std=0.5):
    """Exact predictions for N(mean, std^2): D and eps; works in NumPy, JAX and torch."""
    variance = alpha**2 * std**2 + sigma**2
    gap = x - alpha * mean
    return mean + (alpha * std**2 / variance) * gap, (sigma / variance) * gap


def as_network(kind, x, alpha, sigma):
    """A network of a kind that knows the Gaussian."""
    data, noise = gaussian(x, alpha, sigma)
    return {
        "epsilon": noise, "sample": data, "v_prediction": alpha * noise - sigma * data,
        "score": (-1 / sigma) * noise, "flow_prediction": noise - data,
    }[kind]  # fmt: skip


# --- configurations -----------------------------------------------------------------------------------------


def test_known_time_steps():
    """Time steps of the published configurations, worked out by hand."""
    leading = interop.from_diffusers(DDIM | {"steps_offset": 1}, 5)
    np.testing.assert_array_equal(leading.timesteps, [801, 601, 401, 201, 1])
    np.testing.assert_array_equal(interop.from_diffusers(DPM, 4).timesteps, [999, 749, 500, 250])
    trailing = interop.from_diffusers(DPM | {"timestep_spacing": "trailing"}, 4)
    np.testing.assert_array_equal(trailing.timesteps, [999, 749, 499, 249])
    euler = interop.from_diffusers({"_class_name": "EulerDiscreteScheduler"}, 4)
    np.testing.assert_allclose(euler.timesteps, [999, 666, 333, 0])
    given = interop.from_diffusers(DPM, timesteps=grids.ALIGN_YOUR_STEPS["sd"])
    np.testing.assert_array_equal(given.timesteps, grids.ALIGN_YOUR_STEPS["sd"])
    assert interop.from_diffusers(FLOW, 4).init_scale == 1
    assert interop.from_diffusers({"_class_name": "EDMEulerScheduler"}, 4).init_scale == np.hypot(80, 1)


def test_levels_at_their_edges():
    """One step of EDM between its ends; logarithmic levels in continuous time, where the library takes a step more."""
    edm = {"sigma_max": 14.6, "final_sigmas_type": "sigma_min"}
    one = interop.from_diffusers({"_class_name": "EDMDPMSolverMultistepScheduler"} | edm, 1).table
    np.testing.assert_allclose(one.sigma / one.alpha, [14.6, 0.002], rtol=1e-12)
    still = interop.from_diffusers({"_class_name": "EDMEulerScheduler"} | edm, 1).table
    np.testing.assert_allclose(still.sigma / still.alpha, [14.6, 14.6], rtol=1e-12)  # ends at its last level
    euler = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}
    discrete = interop.from_diffusers(euler, 12).table
    it = interop.from_diffusers(euler | {"timestep_type": "continuous", "prediction_type": "v_prediction"}, 12)
    assert it.table.num_rows == 13 and it.table.sigma[-1] == 0 and discrete.num_rows == 12
    levels = it.table.sigma / it.table.alpha
    np.testing.assert_allclose(levels[:-1], discrete.sigma / discrete.alpha, rtol=1e-12)
    np.testing.assert_allclose(it.timesteps, np.log(levels[:-1]) / 4, rtol=1e-12)


def test_it_is_a_solver_of_ours():
    """On a chain's own grid the table is that of `solvers`, in the schedule's own time as well."""
    chain = schedules.vp_discrete(schedules.betas("scaled_linear"))
    it = interop.from_diffusers(DPM | SD | {"final_sigmas_type": "sigma_min", "solver_type": "heun"}, 8)
    grid = grids.from_timesteps(chain, it.timesteps, last=0.0)
    ours = solvers.dpm_multistep(grid, order=2, relaxation="exact")
    equal(it.table.predictor, ours.predictor, 1e-10)
    equal(it.table.lam, ours.lam, 1e-10)
    np.testing.assert_allclose(it.schedule.lam(it.table.t), it.table.lam, rtol=1e-12)
    np.testing.assert_allclose(it.schedule.t_of_lam(it.table.lam), it.table.t, rtol=1e-12)
    np.testing.assert_allclose(it.schedule.model_time(it.table.t[:-1]), it.timesteps, rtol=1e-12)


def test_a_file_is_read(tmp_path):
    """JSON as the library writes it, with options of other classes and its own bookkeeping."""
    path = tmp_path / "scheduler_config.json"
    config = DPM | SD | {"_diffusers_version": "0.42.1", "skip_prk_steps": True, "set_alpha_to_one": False}
    path.write_text(json.dumps(config | {"lambda_min_clipped": -np.inf, "clip_sample": True}))
    equal(interop.from_diffusers(json.loads(path.read_text()), 6).table, interop.from_diffusers(DPM | SD, 6).table)


def test_given_levels_are_kept():
    """Levels and times of the caller's own stand in the table unchanged."""
    sigmas = np.array([14.6, 6.0, 2.0, 0.5, 0.0])
    it = interop.from_diffusers(DPM | SD, sigmas=sigmas)
    np.testing.assert_array_equal(it.table.t, sigmas)
    assert it.timesteps[0] > 990 and np.all(np.diff(it.timesteps) < 0)
    it = interop.from_diffusers(DPM | SD, sigmas=sigmas, timesteps=[900, 700, 5, 1])
    np.testing.assert_array_equal(it.timesteps, [900, 700, 5, 1])
    it = interop.from_diffusers(FLOW | {"shift": 3.0}, sigmas=[1.0, 0.5, 0.0], timesteps=[1000, 400])
    np.testing.assert_array_equal(it.timesteps, [1000, 400])
    np.testing.assert_array_equal(it.table.alpha, [0, 0.5, 1])


@pytest.mark.parametrize(
    "name",
    [
        "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "EulerDiscrete", "LMSDiscrete",
        "HeunDiscrete", "KDPM2Discrete",
    ],
)  # fmt: skip
@pytest.mark.parametrize("curve", ["karras", "exponential", "beta"])
def test_curves_look_for_ends_that_no_class_declares(name, curve):
    """sigma_min and sigma_max count wherever a curve looks for them; without a curve they do not."""
    ends = {"_class_name": f"{name}Scheduler", "sigma_min": 0.02, "sigma_max": 80.0}
    found = interop.from_diffusers(ends | {f"use_{curve}_sigmas": True}, 12).table.t
    own = interop.from_diffusers({"_class_name": f"{name}Scheduler", f"use_{curve}_sigmas": True}, 12).table.t
    if (name, curve) == ("LMSDiscrete", "karras"):  # its own form of this curve looks for none
        np.testing.assert_array_equal(found, own)
    else:
        np.testing.assert_allclose(found[found > 0][[0, -1]], [80.0, 0.02], rtol=1e-9)
    plain = interop.from_diffusers(ends | {"sigma_min": None, "sigma_max": None}, 12).table.t
    if name != "EulerDiscrete":
        np.testing.assert_array_equal(interop.from_diffusers(ends, 12).table.t, plain)


@pytest.mark.parametrize("curve", ["karras", "exponential", "beta"])
def test_curves_of_flows_look_for_ends_too(curve):
    ends = {"sigma_min": 0.1, "sigma_max": 0.9}
    found = interop.from_diffusers(FLOW | ends | {f"use_{curve}_sigmas": True}, 6).table.t
    np.testing.assert_allclose(found[[0, -2, -1]], [0.9, 0.1, 0.0], rtol=1e-9)
    equal(interop.from_diffusers(FLOW | ends, 6).table, interop.from_diffusers(FLOW, 6).table)


def test_what_the_library_translates_or_passes_over_is_no_error():
    """Names of another class are replaced as the library replaces them; options of other classes have no effect."""
    for name, option, given, means in (
        ("DPMSolverMultistep", "solver_type", "bh2", "midpoint"),
        ("DPMSolverMultistep", "algorithm_type", "deis", "dpmsolver++"),
        ("UniPCMultistep", "solver_type", "heun", "bh2"),
        ("DEISMultistep", "algorithm_type", "dpmsolver++", "deis"),
    ):
        config = {"_class_name": f"{name}Scheduler"}
        equal(
            interop.from_diffusers(config | {option: given}, 6).table,
            interop.from_diffusers(config | {option: means}, 6).table,
        )
    strange = {"original_inference_steps": 50, "snr_shift_scale": 3.0, "variance_type": "fixed_small", "s_noise": 1.0}
    equal(interop.from_diffusers(DPM | strange, 6).table, interop.from_diffusers(DPM, 6).table)


def test_every_option_of_a_class_is_known():
    """Against the signatures of the library, where it is installed: a new option fails here."""
    diffusers = pytest.importorskip("diffusers")
    from jaxsci.diffusion.diffusers._classes import SCHEDULERS

    for name, scheduler in SCHEDULERS.items():
        declared = inspect.signature(getattr(diffusers, name).__init__).parameters.keys() - {"self"}
        assert declared == scheduler.options.keys(), name


def test_flow_levels_are_taken_as_pipelines_pass_them():
    """Shifted by the configuration, by mu or by the size of the image, and 0 appended."""
    sigmas, dynamic = np.array([1.0, 0.75, 0.5, 0.25]), FLOW | {"use_dynamic_shifting": True}

    def shifted(k, s=sigmas):
        return np.append(k * s / (1 + (k - 1) * s), 0.0)

    mu = 0.5 + (1024 - 256) * (1.15 - 0.5) / (4096 - 256)  # between the two ends of the configuration
    size = FLOW | {"base_shift": 0.5, "max_shift": 1.15}
    for config, options, k in (
        (FLOW, {}, 1.0),
        (FLOW | {"shift": 3.0}, {}, 3.0),
        (FLOW | {"shift": 3.0}, {"mu": 0.7, "num_steps": 4}, 3.0),  # mu has no effect there
        (dynamic, {"mu": 0.7}, np.exp(0.7)),
        (dynamic | {"time_shift_type": "linear"}, {"mu": 1.7}, 1.7),
        (size | {"use_dynamic_shifting": True}, {"image_seq_len": 1024}, np.exp(mu)),
    ):
        it = interop.from_diffusers(config, sigmas=sigmas, **options)
        np.testing.assert_allclose(it.table.t, shifted(k), rtol=1e-12)
        np.testing.assert_allclose(it.timesteps, 1000 * shifted(k)[:-1], rtol=1e-9)
    it = interop.from_diffusers(FLOW | {"shift": 2.0}, timesteps=[1000, 600, 300])
    np.testing.assert_allclose(it.table.t, shifted(2.0, np.array([1.0, 0.6, 0.3])), rtol=1e-12)
    np.testing.assert_array_equal(it.timesteps, [1000, 600, 300])
    it = interop.from_diffusers(FLOW | {"shift": 2.0}, sigmas=[1.0, 0.5], timesteps=[900, 100])
    np.testing.assert_allclose(it.table.t, shifted(2.0, np.array([1.0, 0.5])), rtol=1e-12)
    np.testing.assert_array_equal(it.timesteps, [900, 100])
    it = interop.from_diffusers(FLOW | {"shift_terminal": 0.1}, sigmas=sigmas)
    np.testing.assert_allclose(it.table.t[:-1], 1 - (1 - sigmas) * 0.9 / 0.75, rtol=1e-12)


def test_karras_levels_of_a_flow():
    """What the curve gives are ratios sigma/alpha; the flow's shift has no part in them."""
    config = UNIPC | {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "use_karras_sigmas": True}
    config |= {"sigma_min": 0.01, "sigma_max": 200.0, "flow_shift": 3.0}
    it = interop.from_diffusers(config, 5)
    rho = np.linspace(200 ** (1 / 7), 0.01 ** (1 / 7), 5) ** 7
    np.testing.assert_allclose(it.table.sigma, np.append(rho / (1 + rho), 0.0), rtol=1e-9)
    np.testing.assert_allclose(it.table.alpha + it.table.sigma, 1.0)
    np.testing.assert_array_equal(it.timesteps, np.trunc(1000 * rho / (1 + rho)))
    with pytest.raises(interop.Unsupported, match="use_flow_sigmas=True is not supported: use_beta levels"):
        interop.from_diffusers(config | {"use_karras_sigmas": False, "use_beta_sigmas": True}, 5)


def test_exact_third_order_on_request():
    """The library's third-order rows are of order 2; exact ones are those of `solvers`, also with noise."""
    config = DPM | {"solver_order": 3, "final_sigmas_type": "sigma_min", "lower_order_final": False}
    exact = interop.from_diffusers(config, 20, weights="exact")
    grid = grids.TimeGrid(*exact.table[:4], exact.schedule)
    equal(exact.table.predictor, solvers.dpm_multistep(grid, order=3, lower_order_final=False).predictor)
    published = solvers.dpm_multistep(grid, order=3, half_second=True, lower_order_final=False)
    equal(interop.from_diffusers(config, 20).table.predictor, published.predictor)
    noisy = interop.from_diffusers(config | {"algorithm_type": "sde-dpmsolver++"}, 20, weights="exact")
    equal(noisy.table.predictor, solvers.sde_dpm(grid, order=3, lower_order_final=False).predictor)


def test_begin_leaves_out_the_first_steps():
    """Image to image: the same nodes, a history of its own, orders of the whole run."""
    config = DPM | SD | {"solver_order": 3}
    whole, part = interop.from_diffusers(config, 20), interop.from_diffusers(config, 20, begin=8)
    equal(part.table.lam, whole.table.lam[8:])
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[8:])
    equal(part.table.predictor.data[2:], whole.table.predictor.data[10:], 1e-14)
    assert np.all(part.table.predictor.data[0, 1:] == 0) and np.all(whole.table.predictor.data[8, 1:] != 0)
    single = interop.from_diffusers(SINGLE | {"solver_order": 3, "lower_order_final": True}, 9, begin=1)
    assert single.table.t.shape == (9,)


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_every_class_runs_under_jit_and_vmap(name, key):
    """Each class with its defaults, in JAX: the Gaussian's mean and spread come out; one compilation for a batch."""
    kwargs = {"lower_order_final": True} if "Singlestep" in name else {}
    kwargs = {"skip_prk_steps": True} if name.startswith("PNDM") else kwargs
    clip = {"clip_sample": False} if name.startswith("DD") else {}
    num_steps = 200 if name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler") else 40
    it = interop.from_diffusers({"_class_name": name} | kwargs | clip, num_steps)
    calls = []

    def model(x, t, cond):
        calls.append(t.dtype)
        if it.kind == "edm":
            ratio = jnp.exp(4 * t)
            root = jnp.sqrt(ratio**2 + 0.25)
            data, _ = gaussian(x * root, 1.0, ratio)
            return (data - 0.25 / root**2 * x * root) * root / (0.5 * ratio)
        # invert the times: the level of the node that has this time
        level = jnp.interp(-t, -jnp.asarray(it.timesteps), jnp.asarray(it.table.t[:-1]))
        alpha, sigma = it.schedule.alpha_sigma(it.schedule.lam(level))
        return as_network(it.kind, x, alpha, sigma)

    denoiser = interop.denoiser(it, model)
    starts = it.init_scale * jax.random.normal(jax.random.fold_in(key, 0), (4000, 1))
    run = jax.jit(jax.vmap(lambda k, x: diffusion.sample(k, denoiser, it.table, x)))
    result = run(jax.random.split(key, 4000), starts.astype(jnp.float32))
    assert int(jnp.max(result.status)) == 0
    assert len(calls) <= 2 and calls[0] == jnp.float32
    values = np.asarray(result.value)
    # 5 standard errors, and what a first-order method leaves in 40 steps, with noise in 200
    assert abs(values.mean() - 0.7) < 5 * 0.5 / np.sqrt(4000) + 0.01
    if name == "LCMScheduler":  # made for distilled networks: jumps to the mean of the data lose a part of the spread
        assert 0.2 < values.std() < 0.5
        return
    assert abs(values.std() - 0.5) < 5 * 0.5 / np.sqrt(8000) + 0.03


def test_times_reach_the_network_exactly():
    """Integer time steps arrive as such in single precision, whatever the levels."""
    it = interop.from_diffusers(DPM | SD | {"use_karras_sigmas": True}, 12)
    seen = jax.vmap(lambda t: it.schedule.model_time(t))(jnp.asarray(it.table.t[:-1], jnp.float32))
    np.testing.assert_array_equal(seen, it.timesteps)
    lam = jax.vmap(it.schedule.lam)(jnp.asarray(it.table.t[:-1], jnp.float32))
    np.testing.assert_allclose(lam, it.table.lam[:-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("config", [DPM | SD | {"use_karras_sigmas": True}, DDIM, DPM | {"use_flow_sigmas": True}])
def test_between_the_nodes_time_is_that_of_the_trained_chain(config):
    """Half a step of rounded times at most, wherever the few nodes lie."""
    it, chain = interop.from_diffusers(config, 5), interop.from_diffusers(config, 900)
    np.testing.assert_allclose(it.schedule.model_time(it.table.t[:-1]), it.timesteps, rtol=1e-12)
    levels = chain.table.t[:-1]
    levels, times = (a[(levels > it.table.t[4]) & (levels < it.table.t[0])] for a in (levels, chain.timesteps))
    assert np.abs(it.schedule.model_time(levels) - times).max() < 2


def test_imports_of_any_number_of_steps_share_a_program():
    it = [interop.from_diffusers(DPM | SD, n) for n in (5, 7, 9)]
    many = tables.unify([i.table for i in it])
    network = jax.tree_util.Partial(lambda x, t, cond: x + t / 1000)
    run = lambda i: diffusion.sample(None, interop.denoiser(it[i], network), many[i], jnp.zeros(2)).value  # noqa: E731
    run(0).block_until_ready()
    with contracts.count_compilations() as events:
        run(1), run(2).block_until_ready()
    assert not events


def test_singlestep_defaults_switch_the_lower_order_on():
    """As the library does where the last level is 0 or rows are left over; otherwise the option is as given."""
    end, on = {"final_sigmas_type": "sigma_min"}, {"lower_order_final": True}
    for config, num in ((SINGLE, 12), (SINGLE | end, 11), (SINGLE | end | {"solver_order": 3}, 10)):
        equal(interop.from_diffusers(config, num).table, interop.from_diffusers(config | on, num).table)
    kept, lowered = (interop.from_diffusers(SINGLE | end | option, 12).table for option in ({}, on))
    assert np.abs(kept.predictor.data - lowered.predictor.data).max() > 1e-3


def test_crowded_nodes_keep_their_times():
    """More nodes between two steps of the chain than one knot each would leave room for, at both ends too."""
    for sigmas in (np.linspace(0.1501, 0.15, 30), np.geomspace(150, 145, 9), np.geomspace(0.0102, 0.0100001, 9)):
        it = interop.from_diffusers(DPM, sigmas=sigmas, timesteps=np.arange(len(sigmas) - 1)[::-1])
        np.testing.assert_array_equal(it.schedule.model_time(sigmas[:-1]), it.timesteps)


def test_limits():
    """Clipping keeps the network's eps in DDIM and follows D elsewhere; thresholding is that of `predictions`."""
    x, far = jnp.array([0.3, -0.2]), lambda x, t, cond: jnp.full(2, 9.0)
    for config, again in ((DDIM | {"clip_sample": True, "clip_sample_range": 0.8}, False), (
        {"_class_name": "DDPMScheduler", "clip_sample_range": 0.8}, True)):  # fmt: skip
        it = interop.from_diffusers(config, 10)
        t = jnp.asarray(it.table.t[3], jnp.float32)
        data, noise = interop.denoiser(it, far)(x, t, None, 1.0)
        np.testing.assert_allclose(data, [-0.8, -0.8])
        alpha, sigma = it.table.alpha[3], it.table.sigma[3]
        np.testing.assert_allclose(noise, (x - alpha * data) / sigma if again else [9.0, 9.0], rtol=1e-5)
    it = interop.from_diffusers(DPM | {"thresholding": True, "sample_max_value": 3.0}, 10)
    t = jnp.asarray(it.table.t[3], jnp.float32)
    plain = predictions.denoiser(far, it.schedule, it.kind)(x, t, None, 1.0)[0]
    np.testing.assert_allclose(
        interop.denoiser(it, far)(x, t, None, 1.0)[0], hooks.dynamic_threshold(0.995, max_value=3.0)(plain)
    )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("config", "kwargs", "message"),
    [
        ({}, {}, "_class_name=None is not supported: known are"),
        ({"_class_name": "PNDMScheduler"}, {}, "skip_prk_steps=False is not supported: its Runge-Kutta start"),
        (PNDM, {"num_steps": None, "timesteps": [900, 100]}, "timesteps is not supported: this class computes them"),
        (PNDM, {"num_steps": None, "sigmas": [9.0, 0.0]}, "sigmas is not supported"),
        ({"_class_name": "LCMScheduler"}, {"num_steps": 51}, "original_inference_steps=50 is not supported"),
        ({"_class_name": "TCDScheduler"}, {}, "'TCDScheduler' is not supported: it needs jumps to data"),
        ({"_class_name": "FlowMatchHeunDiscreteScheduler"}, {}, "it needs its second stage on flow levels"),
        ({"_class_name": "KDPM2AncestralDiscreteScheduler"}, {}, "it needs noise added between its two stages"),
        ({"_class_name": "DPMSolverSDEScheduler"}, {}, "it needs noise of a Brownian tree"),
        ({"_class_name": "CogVideoXDDIMScheduler"}, {}, "it needs a chain with its own shift"),
        ({"_class_name": "CogVideoXDPMScheduler"}, {}, "it needs a chain with its own shift"),
        ({"_class_name": "SASolverScheduler"}, {}, "it needs stochastic Adams steps"),
        ({"_class_name": "UnCLIPScheduler"}, {}, "it needs variances that the network returns"),
        (
            {"_class_name": "DDPMScheduler", "variance_type": "learned_range"},
            {},
            "variance_type='learned_range' is not",
        ),
        ({"_class_name": "OtherScheduler"}, {}, "_class_name='OtherScheduler' is not supported: known are"),
        (DPM | {"use_karas_sigmas": True}, {}, "use_karas_sigmas=True is not supported: no scheduler has this option"),
        (DPM | {"beta_schedule": "sigmoid"}, {}, "beta_schedule='sigmoid' is not supported: it must be one of"),
        (DPM | {"use_karras_sigmas": True, "use_beta_sigmas": True}, {}, "use_beta_sigmas=True is not supported"),
        (DPM | {"use_karras_sigmas": True, "use_flow_sigmas": True}, {}, "use_flow_sigmas=True is not supported"),
        (DPM | {"algorithm_type": "euler"}, {}, "algorithm_type='euler' is not supported"),
        (DPM | {"algorithm_type": "dpmsolver"}, {}, "final_sigmas_type='zero' is not supported"),
        (DPM | {"solver_type": "bh3"}, {}, "solver_type='bh3' is not supported"),
        (DPM | {"solver_order": 4}, {}, "solver_order=4 is not supported"),
        (DPM | {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}, {}, "wrong sign .* pass weights='exact'"),
        (DPM | {"variance_type": "learned_range"}, {}, "variance_type='learned_range' is not supported"),
        (DPM | {"prediction_type": "flow_prediction"}, {}, "prediction_type='flow_prediction' is not supported"),
        (DPM | {"use_flow_sigmas": True, "prediction_type": "v_prediction"}, {}, "prediction_type='v_prediction'"),
        (DPM | {"timestep_spacing": "uniform"}, {}, "timestep_spacing='uniform' is not supported"),
        (DPM, {"mu": 1.0}, "mu=1.0 is not supported"),
        (DPM, {"eta": 1.0}, "eta=1.0 is not supported"),
        (DPM | {"steps_offset": 900, "timestep_spacing": "leading"}, {}, "steps_offset=900 is not supported"),
        (UNIPC | {"predict_x0": False}, {}, "final_sigmas_type='zero' is not supported"),
        (UNIPC | {"solver_p": {}}, {}, "solver_p is not supported"),
        (UNIPC | {"shift_terminal": 0.1}, {}, "shift_terminal=0.1 is not supported"),
        (DPM | {"trained_betas": [0.1, 0.2]}, {}, r"trained_betas is not supported: it has shape \(2,\)"),
        (DDIM | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, {}, "'epsilon'.*at pure noise"),
        (FLOW, {"sigmas": [1.0, 0.5, 0.0]}, "without the last node, which the class appends"),
        (FLOW, {"sigmas": [1.0, 0.5], "num_steps": 3}, "num_steps=3 is not supported: there are 2 sigmas"),
        (FLOW | {"use_dynamic_shifting": True}, {"sigmas": [1.0, 0.5]}, "it needs the argument mu"),
        (FLOW, {"mu": 1.0, "image_seq_len": 9}, "image_seq_len=9 is not supported: mu is given as well"),
        (DPM, {"image_seq_len": 9}, "image_seq_len=9 is not supported: the class shifts"),
        (DPM, {"timesteps": [9, 5], "num_steps": 2}, "num_steps=2 is not supported: the argument timesteps"),
        (DPM, {"sigmas": [9.0, 5.0], "num_steps": 3}, "num_steps=3 is not supported: the argument sigmas"),
        (DPM | {"final_sigmas_type": "none"}, {"sigmas": [2.0, 0.0]}, "final_sigmas_type='none' is not supported"),
        (DPM | {"timestep_spacing": "none"}, {"timesteps": [9, 5]}, "timestep_spacing='none' is not supported"),
        (UNIPC | {"use_flow_sigmas": True}, {"sigmas": [1.0, 0.5, 0.0]}, "'epsilon' is not supported.*at pure noise"),
        ({"_class_name": "DDPMScheduler", "variance_type": "learned"}, {}, "variance_type='learned' is not supported"),
        (FLOW | {"invert_sigmas": True}, {}, "invert_sigmas=True is not supported"),
        (FLOW | {"use_dynamic_shifting": True}, {}, "use_dynamic_shifting=True is not supported: .* mu"),
        ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, {}, "minus its output"),
        ({"_class_name": "EulerAncestralDiscreteScheduler", "prediction_type": "sample"}, {}, "prediction_type"),
        (DPM, {"num_steps": 0}, "num_steps must be an int >= 1, got 0"),
        (DPM, {"begin": 10}, r"begin must be in \[0, 9\], got 10"),
        (DPM, {"weights": "half"}, "weights must be 'published' or 'exact'"),
        (DPM, {"timesteps": [1, 5]}, "timesteps must fall strictly"),
        (DPM, {"sigmas": [1.0, 2.0, 0.0]}, "noise levels must fall, but node 1 does not: 1 then 2"),
        (DPM, {"sigmas": [1.0]}, "sigmas must be at least two numbers"),
        (DPM, {"sigmas": [2.0, 1.0, 0.0], "timesteps": [4]}, "2 timesteps belong to these sigmas"),
        (DPM | {"timestep_spacing": "leading"}, {"num_steps": 1000}, "noise levels must fall|num_steps"),
        (DDIM, {"eta": 1.5}, r"eta must be in \[0, 1\]"),
    ],
)
def test_unsupported_options_are_named(config, kwargs, message):
    """Nothing is silently changed."""
    with pytest.raises(ValueError, match=message):
        interop.from_diffusers(
            config, **({} if kwargs.keys() & {"sigmas", "timesteps"} else {"num_steps": 10}) | kwargs
        )


@pytest.mark.bad_input
def test_bad_calls():
    """Types, kinds and missing noise."""
    with pytest.raises(TypeError, match="config must be a dict, got str"):
        interop.from_diffusers("scheduler_config.json", 5)
    with pytest.raises(ValueError, match="kind must be one of"):
        interop.plain_denoiser(lambda x, t: x, VP, "noise")
    table = solvers.sde_dpm(grids.logsnr(VP, 3))
    with pytest.raises(ValueError, match="this table draws noise; pass noise"):
        interop.run_plain(lambda x, t, a, s: (x, x), table, np.zeros(2))


@pytest.mark.parametrize(
    "config",
    [
        DDIM | {"clip_sample": True, "clip_sample_range": 0.8},
        DPM | {"thresholding": True, "sample_max_value": 3.0},
        {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 1.0},
    ],
    ids=["clip", "threshold", "edm"],
)
def test_the_plain_path_takes_the_record_whole(config):
    """Limits and the standard deviation of the data reach plain arrays as they reach `interop.denoiser`."""
    it, x = interop.from_diffusers(config, 6), np.array([0.3, -0.2, 2.0], np.float32)
    x = x * np.float32(it.init_scale)
    inside = interop.denoiser(it, lambda x, t, cond: 3 * jnp.tanh(x))
    ours = diffusion.sample(None, inside, it.table, jnp.asarray(x)).value
    outside = interop.plain_denoiser(lambda x, t: 3 * np.tanh(x), it)
    np.testing.assert_allclose(interop.run_plain(outside, it.table, x), ours, rtol=2e-5, atol=2e-5)
    pair = interop.plain_denoiser(lambda x, t: 3 * np.tanh(x), it, batched=True)
    two = interop.run_plain(pair, it.table, np.stack([x, -2 * x]))
    np.testing.assert_allclose(two[0], ours, rtol=2e-5, atol=2e-5)
    with pytest.raises(ValueError, match="a record brings kind and sigma_data"):
        interop.plain_denoiser(lambda x, t: x, it, "epsilon")


# --- plain Python -------------------------------------------------------------------------------------------


def _noisy(grid):
    return solvers.sde_dpm(grid, order=2)


def _skipped(grid):
    """The first model call replaced by the mean of the data, and padding rows."""
    table = tables.tabulate(diffusion.rules.ddim(), grid)
    return tables.pad(tables.analytic_first(table, np.array([0.7, 0.1, -0.2])), 9)


def _shaped(grid):
    """Coefficients and a constant of the data's shape, as solvers made from statistics have them."""
    plain, scale = solvers.ddim(grid), np.array([1.0, 0.9, 1.1])
    rows = plain.predictor
    shift = np.linspace(0, 0.1, 18).reshape(6, 3)
    return plain._replace(predictor=rows._replace(
        x=rows.x[..., None] * scale, data=rows.data[..., None] * scale, noise=rows.noise[..., None] * scale, shift=shift
    ))  # fmt: skip


@pytest.mark.x64
@pytest.mark.parametrize(
    "build", [solvers.unipc, solvers.heun, solvers.deis, solvers.dpm_multistep, _noisy, _skipped, _shaped]
)
def test_plain_equals_compiled(build, key):
    """The same state from the loop in NumPy and from the compiled scan, for every feature of a table."""
    grid = grids.logsnr(VP, 6)
    table = build(grid)
    x_T = np.asarray(jax.random.normal(key, (3,)))
    model = lambda x, t, cond: as_network("epsilon", x, *VP.alpha_sigma(VP.lam(t)))  # noqa: E731
    compiled = diffusion.sample(key, predictions.denoiser(model, VP, "epsilon"), table, x_T).value

    def noise(i):
        return np.asarray(jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, i), 0), (3,)))

    denoiser = interop.plain_denoiser(lambda x, t: as_network("epsilon", x, *VP.alpha_sigma(VP.lam(t))), VP, "epsilon")
    plain = interop.run_plain(denoiser, table, x_T, noise=noise)
    assert isinstance(plain, np.ndarray) and plain.dtype == np.float64
    np.testing.assert_allclose(plain, compiled, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", predictions.KINDS)
def test_plain_denoiser_is_the_denoiser(kind):
    """Every prediction kind: the linear forms in floats against `predictions`, and single precision is kept."""
    schedule = schedules.ve() if kind == "edm" else schedules.flow() if kind == "flow_prediction" else VP
    x = np.array([0.4, -1.3], np.float32)
    output = np.array([0.2, 0.5], np.float32)
    for t in (0.3, 0.8):
        alpha, sigma = (float(v) for v in schedule.alpha_sigma(schedule.lam(t)))
        times = []

        def network(x, t, cond=None, times=times):
            times.append((x, t))
            return output

        plain = interop.plain_denoiser(network, schedule, kind)(x, t, alpha, sigma)
        ours = predictions.denoiser(network, schedule, kind)(jnp.asarray(x), jnp.float32(t), None, 1.0)
        np.testing.assert_allclose(times[0][0], times[1][0], rtol=1e-6)
        np.testing.assert_allclose(times[0][1], times[1][1], rtol=1e-6)
        np.testing.assert_allclose(plain, ours, rtol=2e-6)
        assert plain[0].dtype == plain[1].dtype == np.float32
