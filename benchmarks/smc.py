"""Particle filters: one run, seeds as lanes, large clouds, resampling alone, and what float32 does to offspring."""

import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from benchmarks._harness import compare, compiled, main, row
from benchmarks._peers import Outside, PeerError, without_paths
from jaxsci import smc
from jaxsci.core.keys import unrolled

RHO, SCALE_X, SCALE_Y = 0.9, 1.0, 0.2
EXACT = -146.32293396051224  # Kalman's filter on the series below


def series():
    """100 observations of x_t = .9 x_{t-1} + e_t with noise of scale .2."""
    rng = np.random.default_rng(0)
    e, n = rng.standard_normal((2, 100))
    x = np.zeros(100)
    x[0] = SCALE_X * e[0] / np.sqrt(1 - RHO**2)
    for t in range(1, 100):
        x[t] = RHO * x[t - 1] + SCALE_X * e[t]
    return x + SCALE_Y * n


def _weigh(y, x):
    return -0.5 * ((y - x) / SCALE_Y) ** 2 - np.log(SCALE_Y) - 0.5 * np.log(2 * np.pi)


def _init(key, num, y):
    x = SCALE_X / np.sqrt(1 - RHO**2) * jax.random.normal(unrolled(key), (num,), jnp.float32)
    return x, _weigh(y, x)


def _move(key, x, log_weights, y):
    x = RHO * x + SCALE_X * jax.random.normal(unrolled(key), x.shape, x.dtype)
    return x, _weigh(y, x), None


def _filter(key, y, num):
    return smc.run(key, smc.Model(_init, _move), y, num_particles=num).log_z


def _spread_apart(mine, theirs):
    """Standard deviation of log Z over that of the peer's, as a distance from 1 in standard errors of the ratio."""
    if theirs is None or np.size(theirs) < 8:
        return None
    mine, theirs = np.ravel(mine), np.ravel(theirs)
    error = np.sqrt(0.5 / len(mine) + 0.5 / len(theirs))
    return abs(np.log(np.std(mine) / np.std(theirs))) / error


def on_cores(repeats):
    """Print seconds of 64 seeds as lanes over all devices, and how far they lie from those of one device."""
    mesh = jax.make_mesh((jax.device_count(),), ("lanes",), axis_types=(AxisType.Auto,))
    lanes = jax.vmap(lambda key, y: _filter(key, y, 1000), (0, None))
    split, whole = PartitionSpec("lanes"), PartitionSpec()
    spread = jax.shard_map(lanes, mesh=mesh, in_specs=(split, whole), out_specs=split, check_vma=False)
    keys, y = jax.random.split(jax.random.key(0), 64), jnp.asarray(series(), jnp.float32)
    ours = compiled(spread, *(jax.device_put(a, jax.NamedSharding(mesh, s)) for a, s in ((keys, split), (y, whole))))
    apart = np.max(np.abs(np.asarray(ours.call()) - np.asarray(jax.jit(lanes)(keys, y))))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(ours.call())
        times.append(time.perf_counter() - start)
    print(statistics.median(times), apart)


def _on_cores(peer, repeats):
    """In a process of its own, because JAX must be told of its devices before it starts; the peer before and after."""
    cores = min(64, 1 << (os.cpu_count().bit_length() - 1))  # as many as divide the lanes
    program = f"from benchmarks import smc; smc.on_cores({repeats})"
    asked = isinstance(peer, Outside)
    theirs = [peer.sample(1) for _ in range(3)] if asked else []
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True,
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={cores}"},
    )  # fmt: skip
    name = f"bootstrap filter, 1000 particles, 100 steps, 64 seeds over {cores} cores"
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return row(name, None, unit="runs/s", ok=False, note=without_paths(done.stderr[-300:]))
    seconds, apart = map(float, done.stdout.split())
    theirs = 64 / statistics.median(theirs + [peer.sample(1) for _ in range(3)]) if asked else None
    return row(
        name, 64 / seconds, unit="runs/s", peer_name="particles", peer=theirs,
        ratio=64 / seconds / theirs if asked else None, accuracy=apart, target=20.0, within=1e-3,
        trouble=None if asked else peer,
        note="shard_map(vmap) over one device a core, the peer on one core; accuracy: largest difference of log Z from "
        "that of lanes on one device",
    )  # fmt: skip


def _filters(fast, peers):
    y, seconds = series(), 0.5 if fast else 3.0
    given = {"y": y, "rho": RHO, "scale_x": SCALE_X, "scale_y": SCALE_Y}
    observed = jnp.asarray(y, jnp.float32)
    keys = jax.random.split(jax.random.key(0), 64)
    lanes = jax.vmap(_filter, (0, None, None))
    for runs, target in ((1, 5.0), (64, 20.0)):
        peer = peers.find("particles", "smc:particles_filter", num=1000, runs=runs, **given)
        ours = compiled(lambda k, y: lanes(k, y, 1000), keys[:runs], observed)
        yield compare(
            f"bootstrap filter, 1000 particles, 100 steps, {runs} seed{'s' * (runs > 1)}", ours, peer,
            peer_name="particles", amount=runs, unit="runs/s", accuracy=_spread_apart, target=target, within=5.0,
            seconds=seconds, note="accuracy: log of the ratio of the spreads of log Z, in standard errors",
        )  # fmt: skip
    yield _on_cores(peer, 9 if fast else 31)
    for num, runs in ((10_000, 16), (100_000, 8), (1_000_000, 1))[: 2 if fast else 3]:
        ours = compiled(lambda k, y, num=num: lanes(k, y, num), keys[:runs], observed)
        for package in ("smcx", "cuthbert"):
            peer = peers.find(package, f"smc:{package}_filter", num=num, runs=runs, **given)
            yield compare(
                f"bootstrap filter, {num:,} particles, 100 steps, {runs} seeds | {package}", ours, peer,
                peer_name=package, amount=runs, unit="runs/s", accuracy=_spread_apart, target=1.0, within=5.0,
                seconds=seconds, note="accuracy: log of the ratio of the spreads of log Z, in standard errors",
            )  # fmt: skip


def _violations(log_weights, ancestors):
    """Particles whose number of copies is neither floor nor ceiling of their share."""
    weights = np.exp(log_weights.astype(np.float64))
    shares = weights * (len(weights) / weights.sum())
    copies = np.bincount(np.asarray(ancestors), minlength=len(weights))
    return int(np.sum((copies < np.floor(shares)) | (copies > np.ceil(shares))))


def _resampling(fast, peers):
    rng = np.random.default_rng(0)
    for num in (10_000, 1_000_000):
        log_weights = np.log(rng.gamma(0.1, size=num) + 1e-30).astype(np.float32)
        ours = compiled(
            lambda key, w, num=num: smc.resamplers.systematic(key, w, num), jax.random.key(0), jnp.asarray(log_weights)
        )
        for package, function in (("blackjax", "blackjax"), ("smcx", "smcx"), ("cuthbertlib", "cuthbert")):
            peer = peers.find(package, f"smc:{function}_systematic", log_weights=log_weights)
            yield compare(
                f"systematic resampling, {num:,} particles | {package}", ours, peer, peer_name=package,
                accuracy=lambda mine, theirs, w=log_weights: _violations(w, mine), target=1.0, within=0.0,
                seconds=0.5 if fast else 2.0, note="accuracy: particles with a wrong number of copies, ours",
            )  # fmt: skip


def _offspring(fast, peers):
    """Wrong numbers of copies in float32 at a million particles, four laws of weights: ours and the peers'."""
    num, rng = 1_000_000, np.random.default_rng(1)
    half = rng.random(num)
    half[rng.random(num) < 0.5] = 0
    laws = {
        "uniform": np.ones(num), "gamma": rng.gamma(0.1, size=num), "half zero": half,
        "tilted": np.exp(-2 * (rng.standard_normal(num) - 2) ** 2),
    }  # fmt: skip
    for law, weights in laws.items():
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights.astype(np.float32))
        mine = _violations(log_weights, smc.resamplers.systematic(jax.random.key(0), log_weights, num))
        for package, function in (("smcx", "smcx"), ("cuthbertlib", "cuthbert")):
            peer = peers.find(package, f"smc:{function}_systematic", log_weights=log_weights)
            theirs, trouble = None, peer
            if isinstance(peer, Outside):
                try:
                    theirs, trouble = _violations(log_weights, peer.call()), None
                except PeerError as error:
                    trouble = str(error)
            yield row(
                f"wrong numbers of copies, {law} weights | {package}", mine, peer=theirs, peer_name=package,
                unit="particles", accuracy=mine, within=0.0, trouble=trouble, note=f"of {num:,}, float32",
            )  # fmt: skip


def rows(fast, peers):
    """All rows."""
    yield from _filters(fast, peers)
    yield from _resampling(fast, peers)
    yield from _offspring(fast, peers)


if __name__ == "__main__":
    sys.exit(main("smc", rows))
