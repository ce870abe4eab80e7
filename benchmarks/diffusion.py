"""Diffusion samplers: accuracy and overhead beside diffusers, sweeps over seeds and NFE, cost over the model calls."""

import importlib.util
import json
import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._harness import Candidate, compare, compiled, host, main, row
from benchmarks._peers import Failed, Missing, PeerError
from jaxsci import diffusion
from jaxsci.diffusion import grids, interop, predictions, schedules, search, solvers, tables

VP = schedules.vp_linear()
_MULTISTEP = {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"}
_UNIPC = {"_class_name": "UniPCMultistepScheduler", "solver_order": 3, "final_sigmas_type": "sigma_min"}


# --- accuracy -----------------------------------------------------------------------------------------------

_FAMILIES = (
    "dpm 2M midpoint", "dpm 2M heun", "dpm 3M", "dpm 3M noise", "sde dpm 2 midpoint", "unipc 2 bh1", "unipc 2 bh2",
    "unipc 3", "deis 3", "single 3 midpoint", "single 3 noise heun", "euler", "euler ancestral", "heun", "kdpm2", "lms",
    "ddim trailing", "ddpm", "flow euler shift 3", "dpm 2M flow", "edm dpm 2M", "edm euler",
)  # fmt: skip


_PARITY = ("diffusers", "torch", "scipy")  # one of the schedulers needs the last


def _golden():
    """The generator of the recorded trajectories, None where the tests are not at hand."""
    path = pathlib.Path(__file__).parent.parent / "tests" / "diffusion" / "golden" / "make.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("golden_make", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _final(golden, case, peer):
    """Our final state on the peer's noise levels, in double precision."""
    config, steps = case["config"], peer["steps"]
    sigmas = peer["sigmas"].astype(float)
    if config["_class_name"].startswith(("Heun", "KDPM2")):
        sigmas, steps = np.append(sigmas[: 2 * case["steps"] : 2], 0.0), steps[::2]
    kwargs = {key: value for key, value in case["kwargs"].items() if key != "mu"}
    it = interop.from_diffusers(config, sigmas=sigmas[: len(steps) + 1], timesteps=steps, **kwargs)

    def denoise(x, t, alpha, sigma):
        exact = lambda *_: golden.network(it.kind, x, alpha, sigma)  # noqa: E731
        return interop.plain_denoiser(exact, it.schedule, it.kind)(x, t, alpha, sigma)

    noise = (lambda i: peer["noises"][i].astype(float)) if "noises" in peer else None
    return interop.run_plain(denoise, it.table, golden.initial_noise() * float(it.init_scale), noise=noise)


def _parity(peers):
    """Largest final difference per family: to the library, or to its recorded trajectories where it is missing."""
    golden = _golden()
    if golden is None:
        return
    for name in _FAMILIES:
        case, worst = golden.CASES[name], None
        peer, trouble = peers.find(_PARITY, "diffusion:trajectory", case=name), None
        try:
            if isinstance(peer, Missing):
                with np.load(golden.FILE) as file:
                    arrays = {key.split("/", 1)[1]: file[key] for key in file.files if key.startswith(f"{name}/")}
                    source = f"recorded: {file['versions']}"
            else:
                source = "diffusers"
                arrays = None if isinstance(peer, Failed) else peer.call()
                trouble = peer if arrays is None else None
        except PeerError as error:
            arrays, trouble = None, Failed(str(error))
        if arrays is not None:
            worst = float(np.abs(_final(golden, case, arrays) - arrays["final"]).max())
        yield row(
            f"parity: {name}", worst, unit="abs", peer_name=source, accuracy=worst, within=case["tol"], trouble=trouble,
            note="accuracy: largest final difference; the peer works in single precision",
        )  # fmt: skip


# --- overhead -----------------------------------------------------------------------------------------------


def _overhead(seconds, peers):
    """Everything but the model: 10 calls, a batch of 64 x 64, a model that scales by .1."""
    for name, config in (("DPM++ 2M", _MULTISTEP), ("UniPC-3", _UNIPC)):
        it = interop.from_diffusers(config, 10)
        denoiser = interop.denoiser(it, lambda x, t, cond: 0.1 * x)
        batch = jax.vmap(lambda x, table, d=denoiser: diffusion.sample(None, d, table, x).value, (0, None))
        table = jax.tree.map(jnp.asarray, it.table)
        ours = compiled(batch, jnp.ones((64, 64)), table)
        peer = peers.find(("diffusers", "torch"), "diffusion:steps", config=json.dumps(config), num=10)
        yield compare(
            f"overhead: {name}, 10 calls, 64 x 64", ours, peer, peer_name="diffusers", target=10.0, seconds=seconds,
            accuracy=_difference,
            note="a model that scales by .1; accuracy: largest relative difference; torch on one thread",
        )  # fmt: skip


def _difference(ours, peer):
    return None if peer is None else float(np.abs(np.asarray(ours) / np.asarray(peer) - 1).max())


# --- sweeps -------------------------------------------------------------------------------------------------


def _mixture_noise(weights, means, widths, x, t, cond):
    """The exact noise prediction of the two-dimensional mixture."""
    alpha, sigma = VP.alpha_sigma(VP.lam(t))
    v = alpha**2 * widths**2 + sigma**2
    gap = x - alpha * means
    r = jax.nn.softmax(jnp.log(weights) - jnp.log(v) - (gap**2).sum(-1) / (2 * v))
    return sigma * ((r / v)[:, None] * gap).sum(0)


def _sweep(seconds, seeds, peers):
    """Seeds x NFE 5 to 20 of UniPC-3 on the mixture: one compiled call against the library's loop over NFE."""
    golden = _golden()
    if golden is None:
        return
    leaves = [jnp.asarray(a, jnp.float32) for a in (golden.WEIGHTS, golden.MEANS, golden.WIDTHS)]
    denoiser = predictions.denoiser(Partial(_mixture_noise, *leaves), VP, "epsilon")
    nfes = range(5, 21)
    stack = jax.tree.map(jnp.asarray, tables.stack([solvers.unipc(grids.logsnr(VP, n), order=3) for n in nfes]))
    noise = jax.random.normal(jax.random.key(0), (seeds, 2))

    def all_nfes(x, stack):
        def seeds_of(table):  # on CPU larger blocks of so small a model cost several times more per sample
            return jax.lax.map(lambda x: diffusion.sample(None, denoiser, table, x).value, x, batch_size=256)

        return jax.lax.map(seeds_of, stack)  # a map and not a vmap: padding rows are skipped

    peer = peers.find(
        ("diffusers", "torch"), "diffusion:sweep", config=json.dumps(_UNIPC), nfes=np.asarray(nfes),
        noise=np.asarray(noise, np.float32), weights=golden.WEIGHTS, means=golden.MEANS, widths=golden.WIDTHS,
    )  # fmt: skip
    yield compare(
        f"sweep: {seeds} seeds x NFE 5..20, UniPC-3", compiled(all_nfes, noise, stack), peer, peer_name="diffusers",
        amount=len(nfes) * seeds, unit="samples/s", seconds=seconds,
        note="mixture in the plane; one program for all NFE",
    )  # fmt: skip


# --- against the model calls --------------------------------------------------------------------------------


def _network(seed=0):
    """The digits network with fresh parameters, as model(x, t, cond)."""
    from jaxsci.models import digits

    params = digits.init(jax.random.key(seed))
    return Partial(_digits, params)


def _digits(params, x, t, cond):
    from jaxsci.models import digits

    return digits.apply(params, x, VP.lam(t), digits.NULL_LABEL)


def _chained(program, x, times):
    """So many model calls one after the other, each on the output of the one before."""

    def run():
        y = x
        for t in times:
            y = program(y, t)
        return y

    return run


def _processor_share(ours, peer):
    """Least processor time of ours over the peer's: what a busy machine does not disturb."""
    spent = ([], [])
    for _ in range(10):
        for candidate, times in zip((ours, peer), spent):
            begun = time.process_time()
            jax.block_until_ready(candidate.call())
            times.append(time.process_time() - begun)
    return min(spent[0]) / min(spent[1])


def _model_calls(seconds, batch):
    """Sampling against nothing but its model calls; a short run in a long padded table against its own calls."""
    if importlib.util.find_spec("flax") is None:
        yield row("sampling over model calls", None, unit="s", note="flax is not installed here")
        return
    model = _network()
    denoiser = predictions.denoiser(model, VP, "v_prediction")
    x = jax.random.normal(jax.random.key(1), (batch, 64))
    one = jax.jit(jax.vmap(model, (0, None, None))).lower(x, jnp.float32(0.5), None).compile()
    run = jax.jit(jax.vmap(lambda x, table: diffusion.sample(None, denoiser, table, x).value, (0, None)))

    def against(name, table, calls, limit, note):
        table = jax.tree.map(jnp.asarray, table)
        start = time.perf_counter()
        program = run.lower(x, table).compile()
        ours = Candidate(lambda: program(x, table), time.perf_counter() - start)
        peer = host(_chained(lambda y, t: one(y, t, None), x, [jnp.float32(t) for t in table.t[:calls]]))
        share = _processor_share(ours, peer)
        return compare(
            name, ours, peer, peer_name=f"{calls} jitted model calls", target=1 / limit, seconds=seconds,
            note=f"digits net, batch {batch}; {note}; at most {limit} times the calls, in processor time {share:.3f}",
        )  # fmt: skip

    ten = solvers.unipc(grids.logsnr(VP, 10), order=3)
    yield against("sampling: UniPC-3, 10 calls", ten, 10, 1.05, "corrector included")
    five = tables.pad(solvers.unipc(grids.logsnr(VP, 5), order=3), 20)
    yield against("sampling: 5 calls in a table of 20 rows", five, 5, 1.15, "padding rows make no call")

    before = run._cache_size()
    begun = time.perf_counter()
    for n in range(5, 21):
        table = tables.pad(solvers.unipc(grids.logsnr(VP, n), order=3), 20)
        jax.block_until_ready(run(x[:64], table))
    spent = time.perf_counter() - begun
    programs = run._cache_size() - before
    yield row(
        "compilations for NFE 5..20", programs, unit="programs", peer_name="NFE values", peer=16, ratio=16 / programs,
        ok=programs == 1, note=f"tables padded to 20 rows; {spent:.2f} s for all, compilation included",
    )  # fmt: skip


def _search(evaluations):
    """Seconds of a search for a solver of five calls on the mixture, and what it found against where it began."""
    golden = _golden()
    if golden is None:
        return
    leaves = [jnp.asarray(a, jnp.float32) for a in (golden.WEIGHTS, golden.MEANS, golden.WIDTHS)]
    denoiser = predictions.denoiser(Partial(_mixture_noise, *leaves), VP, "epsilon")
    noise = jax.random.normal(jax.random.key(2), (64, 2))
    fine = jax.tree.map(jnp.asarray, solvers.unipc(grids.logsnr(VP, 100), order=3))
    truth = jax.vmap(lambda x: diffusion.sample(None, denoiser, fine, x).value)(noise)
    where = search.space(5, *(float(VP.lam(t)) for t in (VP.t_max, VP.t_min)), kinds=(0.5, 0.5, 0.0))
    begun = time.perf_counter()
    found = search.search(
        jax.random.key(3), search.matching(denoiser, noise, truth), where, VP, num_evaluations=evaluations,
        predictor=False,
    )  # fmt: skip
    seconds = time.perf_counter() - begun
    uniform = float(found.history.losses[:24].min())
    yield row(
        f"search: {evaluations} solvers of 5 calls", seconds, unit="s", accuracy=found.loss,
        note=f"compilation included; distance from the teacher {found.loss:.3f}, of the best uniform one {uniform:.3f}",
    )  # fmt: skip


def _training(num_steps):
    """Seconds of an optimiser step of the network that the package ships a command for; it takes 6000 of them."""
    if importlib.util.find_spec("flax") is None or importlib.util.find_spec("sklearn") is None:
        yield row("training the digits network, one step", None, unit="s", note="flax or scikit-learn is not installed")
        return
    from jaxsci.models import digits

    first, second = (digits.train(jax.random.key(0), num_steps=num_steps, progress=False) for _ in range(2))
    yield row(
        "training the digits network, one step", second.seconds / num_steps, unit="s",
        note=f"batch 256; {num_steps} steps, with compilation {first.seconds:.1f} s",
    )  # fmt: skip


def rows(fast, peers):
    """All rows."""
    seconds = 0.5 if fast else 2.0
    yield from _parity(peers)
    yield from _overhead(seconds, peers)
    yield from _sweep(seconds, 256 if fast else 4096, peers)
    yield from _model_calls(seconds, 1024)
    yield from _training(100 if fast else 1000)
    yield from _search(64 if fast else 400)


if __name__ == "__main__":
    sys.exit(main("diffusion", rows))
