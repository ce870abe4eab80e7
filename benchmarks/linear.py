"""Tuned sequences of solves: totals against the published ones, and speed against SciPy and pyamg."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._harness import compare, compiled, host, main, row
from jaxsci import bandits, linear
from jaxsci.core import policies
from jaxsci.core.static import bind

_BACKWARD = Partial(bind(linear.methods.ssor_pcg, sweep_first="backward"))
_ARMS = np.linspace(1.0, 1.95, 20)
_FINE = np.linspace(1.0, 1.95, 39)
_FORMULA = Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))


def _cg(omega):
    return linear.methods.cg()


def _total(stream, method, policy, arms, rounds, seed=0):
    record = linear.tuned_sequence(jax.random.key(seed), stream, method, policy, arms, num_rounds=rounds).history
    return int(record.steps.sum()), int(jnp.sum(record.status != 0))


def _heat_totals():
    """Three independent programs agree on these totals; target: within 0.1 %."""
    one = bandits.policies.fixed(1, arm=0)
    published = ((_cg, 1.0, 85422), (_BACKWARD, 1.0, 32800), (_BACKWARD, 1.4, 29454))
    for method, omega, expected in published:
        total, failed = _total(linear.streams.heat(25), method, one, jnp.asarray([omega]), 5000)
        name = "CG" if method is _cg else f"SSOR-PCG, omega {omega}"
        yield row(
            f"heat, 25 cells, 5000 steps: {name}",
            total,
            unit="iterations",
            peer_name="published",
            peer=expected,
            ratio=expected / total,
            accuracy=abs(total - expected) / expected,
            ok=abs(total - expected) <= 1e-3 * expected and failed == 0,
            note="accuracy: relative difference, target 1e-3",
        )


def _learnt(arms, fallback, **options):
    """The policy that learns the physics, alone or beside one that needs none."""
    other = bandits.policies.tsallis_inf(len(arms), floor=1.0) if fallback else None
    return linear.physics_policy(arms, fallback=other, **options)


def _heat_policy(fast):
    """The same steps under the policy that learns the physics; target: at most 25 000."""
    seeds, rounds = (1, 300) if fast else (8, 5000)
    for name, fallback in (("learnt physics", False), ("learnt physics with fallback", True)):
        if fast and fallback:
            continue  # compiles long
        policy = _learnt(_ARMS, fallback, low=0.0, high=10.0, method="ssor_pcg")
        runs = [_total(linear.streams.heat(25), _BACKWARD, policy, jnp.asarray(_ARMS), rounds, s) for s in range(seeds)]
        total, failed = np.mean([t for t, _ in runs]), sum(f for _, f in runs)
        yield row(
            f"heat, 25 cells, {rounds} steps: {name}",
            total,
            unit="iterations",
            ok=None if fast else bool(total <= 25_000 and failed == 0),
            note=f"mean of {seeds} seeds, at most {max(t for t, _ in runs)}; target 25 000; the best arm of every step "
            "takes 24 158 in 5000 steps, the best fixed one 29 454",
        )


def _policies(fast):
    """Totals over that of the best fixed omega of the 20-arm grid; 8 seeds of 5000 rounds."""
    seeds, rounds = (1, 300) if fast else (8, 5000)
    arms, fine, shifts = jnp.asarray(_ARMS), jnp.asarray(_FINE), {"low": -0.15, "high": 0.65}
    # Policy, its arms, and the least and largest share that counts as reproduced, for high and low variance.
    candidates = {
        "Tsallis-INF": (bandits.policies.tsallis_inf(20, floor=1.0), arms, (1.05, 1.22), (1.05, 1.20)),
        "binned Tsallis-INF": (
            bandits.wrappers.binned(bandits.policies.tsallis_inf(20, floor=1.0), 5, **shifts),
            arms, (0.95, 1.05), (1.04, 1.15),
        ),
        "ChebCB": (bandits.policies.cheb_cb(20, **shifts, floor=1.0), arms, (0.0, 0.71), (0.0, 0.87)),
        "learnt physics": (_learnt(_FINE, False, **shifts), fine, (0.0, 0.60), (0.0, 0.75)),
        "learnt physics with fallback": (_learnt(_FINE, True, **shifts), fine, (0.0, 0.60), (0.0, 0.75)),
        "epsilon-greedy": (bandits.policies.epsilon_greedy(20), arms, None, None),
        "uniform": (bandits.policies.uniform(20), arms, None, None),
        "instance-optimal": (bandits.policies.fixed(1, arm=0), _FORMULA, None, None),
    }  # fmt: skip
    if fast:  # every policy is a program of its own to compile
        candidates = {
            k: v for k, v in candidates.items() if k not in ("binned Tsallis-INF", "epsilon-greedy", "uniform")
        }
    for variance, beta, best, place in (("high", (0.5, 1.5), 16, 0), ("low", (2.0, 6.0), 13, 1)):
        stream = linear.streams.shifted_laplacian((10, 10), beta=beta)

        def totals(policy, choices, stream=stream):
            return [_total(stream, linear.methods.sor, policy, choices, rounds, s)[0] for s in range(seeds)]

        fixed = np.asarray(totals(bandits.policies.fixed(20, arm=best), arms))
        for name, (policy, choices, *bands) in candidates.items():
            share = float(np.mean(np.asarray(totals(policy, choices)) / fixed))
            note = f"{seeds} seeds of {rounds} rounds; iterations over those of omega {_ARMS[best]:.4g}"
            ok, band = None, bands[place]
            if band and not fast:
                ok = band[0] <= share <= band[1]
                note += f"; target {band}"
            yield row(
                f"random shift, {variance} variance: {name}",
                share,
                unit="of best fixed",
                ratio=1 / share,
                ok=ok,
                note=note,
            )


_SWEEPS = 20


def _difference(ours, peer):
    return None if peer is None else float(np.abs(np.ravel(ours) - np.ravel(peer)).max())


def _cg_steps(op, grid, steps: int, shift: float, name: str, peers, common):
    """As many steps on both sides: the packages' stopping tests differ, and so would their counts."""
    note = f"{steps} steps each, all stopping tests computed and none met; accuracy: largest difference"
    within = {"target": 1 / 1.2, "note": note, **common}

    def ours(op, g):
        return linear.solve(op, g, method=linear.methods.cg(), tol=0.0, max_steps=steps).value

    def jaxs(op, g):
        return jax.scipy.sparse.linalg.cg(op.mv, g, tol=0.0, maxiter=steps)[0]

    def difference(x, found):
        if found is None:
            return None
        if found[1] != steps:
            raise RuntimeError(f"it took {found[1]} steps instead of {steps}")
        return _difference(x, found[0])

    mine = compiled(ours, op, grid)
    yield compare(name, mine, compiled(jaxs, op, grid), peer_name="jax.scipy cg", **within)
    peer = peers.find("lineax", "linear:lineax_cg", shift=shift, b=np.asarray(grid), steps=steps)
    yield compare(name, mine, peer, peer_name="lineax CG", **within | {"accuracy": difference})


def _batching(fast):
    """What vmap makes of a solve on a CPU: one lane after the other, against all at once and against a loop of calls.

    There is no layout with the lanes last, which could only help where all lanes take equal steps: every operator and
    order would have to be written a second time.
    """
    for n in (10,) if fast else (10, 100):
        yield from _lane_by_lane(n, 0.5 if fast else 3.0)


def _lane_by_lane(n, seconds):
    op, b = linear.operators.shifted_laplacian((n, n)), jnp.sin(jnp.arange(1.0, n * n + 1)).reshape(n, n)

    def count(omega, batching="auto"):
        return linear.solve(op, b, method=linear.methods.sor(omega), batching=batching).steps

    single = jax.jit(count)
    by_map, by_vmap = (jax.jit(jax.vmap(lambda w, how=how: count(w, how))) for how in ("map", "vmap"))
    for name, omegas in (("1 to 1.95", np.linspace(1.0, 1.95, 40)), ("1.56", np.full(40, 1.56))):
        omegas = jnp.asarray(omegas)
        ours, peers = (host(function, omegas) for function in (by_map, by_vmap))
        loop = host(lambda pieces=list(omegas): np.asarray([single(w) for w in pieces]))
        for peer_name, peer in (("all lanes at once", peers), ("a loop of calls", loop)):
            yield compare(
                f"40 SOR solves, {n} x {n}, omega {name}: lane by lane", ours, peer, peer_name=peer_name,
                accuracy=_difference, within=0, seconds=seconds, note="accuracy: largest difference of a count",
            )  # fmt: skip


def _speed_at(n: int, peers, seconds: float):
    shift, b = 0.1, np.random.default_rng(0).normal(size=n * n)
    op, grid = linear.operators.shifted_laplacian((n, n), shift), jnp.asarray(b).reshape(n, n)
    common = {"accuracy": _difference, "seconds": seconds}
    note = "one solve at tolerance 1e-8; accuracy: largest difference"
    solved = compiled(lambda op, g: linear.solve(op, g, method=linear.methods.cg())[:2], op, grid)
    steps = int(solved.call()[1])
    scipys = peers.find("scipy", "linear:cg", rows=n, cols=n, shift=shift, b=b, tol=1e-8)
    yield compare(
        f"CG, {n} x {n}", solved, scipys, peer_name="scipy cg", note=note, seconds=seconds,
        accuracy=lambda ours, peer: _difference(ours[0], peer),
    )  # fmt: skip
    yield from _cg_steps(op, grid, steps, shift, f"{steps} steps of CG, {n} x {n}", peers, common)
    yield _sweeps(peers, f"{_SWEEPS} SOR sweeps with residuals, {n} x {n}", n, _SWEEPS, seconds=seconds)


def _sweeps(peers, name, n, count, method=None, ordered=lambda op: op, target=None, seconds=1.0):
    """So many sweeps with their residuals against pyamg's in natural order; other orders have other iterates."""
    b = np.random.default_rng(0).normal(size=n * n)
    op, grid = ordered(linear.operators.shifted_laplacian((n, n), 0.1)), jnp.asarray(b).reshape(n, n)
    method = linear.methods.sor(1.5) if method is None else method

    def sweeps(op, g):
        return linear.solve(op, g, method=method, tol=0.0, max_steps=count).value

    peer = peers.find("pyamg", "linear:sor_sweeps", rows=n, cols=n, shift=0.1, b=b, omega=1.5, count=count)
    return compare(
        name, compiled(sweeps, op, grid), peer, peer_name="pyamg", accuracy=_after_sweeps,
        target=target, seconds=seconds, note="accuracy: largest difference, zero if the order is the same",
    )  # fmt: skip


def _after_sweeps(ours, peer):
    return None if peer is None else _difference(ours, peer[0])


def _orderings(fast, peers):
    """Sweeps in the orders meant for large grids."""
    red_black = lambda op: linear.operators.reordered(op, "red-black")  # noqa: E731
    natural, pipelined = linear.methods.sor(1.5), linear.methods.pipelined_sor(1.5)
    cases = (
        ("red-black", 100, _SWEEPS, natural, red_black, 4.0),
        ("natural order", 400, 4 * _SWEEPS, natural, lambda op: op, 2.0),
        ("pipelined natural order", 400, 4 * _SWEEPS, pipelined, lambda op: op, 2.0),
    )
    for name, n, count, method, ordered, target in cases:
        name = f"{count} sweeps with residuals, {n} x {n}: {name}"
        yield _sweeps(peers, name, n, count, method, ordered, target, 0.5 if fast else 3.0)


def _tuned_stream(fast, peers):
    """The same systems and parameters in Python; only the sweeps are timed there, not the choice and the drawing."""
    rounds, few, key = 20 if fast else 1000, 20, jax.random.key(0)
    stream, policy = linear.streams.shifted_laplacian((10, 10)), bandits.policies.tsallis_inf(20, floor=1.0)

    def tuned(num_rounds):
        def run(arms):
            return linear.tuned_sequence(key, stream, linear.methods.sor, policy, arms, num_rounds=num_rounds).history

        return compiled(run, jnp.asarray(_ARMS))

    def problem(i):
        return stream.next(policies.round_key(key, "stream", i), stream.init(key), i)[1]

    long = tuned(rounds)
    record = long.call()
    drawn = jax.jit(lambda i: jax.lax.map(lambda i: (problem(i).b, problem(i).context), i))(jnp.arange(rounds))

    def counts(sweep, num):
        systems = dict(shifts=drawn[1][:num], bs=drawn[0].reshape(rounds, -1)[:num], omegas=record.parameter[:num])
        return peers.find(sweep, "linear:sor_counts", rows=10, cols=10, tol=1e-8, sweep=sweep, **systems)

    def difference(ours, counts):
        return None if counts is None else float(np.abs(np.asarray(ours.steps) - counts).max())

    note = "choice, drawing and learning included in ours; accuracy: largest difference of a count"
    name, accuracy = f"tuned stream, {rounds} rounds", difference
    yield compare(name, long, counts("pyamg", rounds), peer_name="pyamg loop", target=5.0, accuracy=accuracy, note=note)
    short = long if few == rounds else tuned(few)
    name, peer = f"tuned stream, {few} rounds", counts("scipy", few)
    yield compare(name, short, peer, peer_name="spsolve_triangular", target=50.0, accuracy=difference, note=note)


def _heat_speed(fast, peers):
    steps, one = 100 if fast else 1000, bandits.policies.fixed(1, arm=0)
    for name, method, omega, target in (("CG", _cg, None, 2.0), ("SSOR-PCG, omega 1.4", _BACKWARD, 1.4, 4.0)):

        def run(arms, method=method):
            result = linear.tuned_sequence(
                jax.random.key(0), linear.streams.heat(25), method, one, arms, num_rounds=steps
            )
            return result.history.steps, result.value

        ours = compiled(run, jnp.asarray([1.0 if omega is None else omega]))
        peer = peers.find("scipy", "linear:heat_loop", num_cells=25, steps=steps, omega=omega or 0.0)
        found = []

        def difference(a, b, found=found):
            if b is None:
                return None
            found[:] = np.sum(a[0]), b[0].sum(), np.sum(np.asarray(a[0]) != b[0])
            return _difference(a[1], b[1])

        line = compare(
            f"heat, 25 cells, {steps} steps: {name}", ours, peer, peer_name="scipy cg", target=target,
            accuracy=difference, note="accuracy: largest difference of the last solution",
        )  # fmt: skip
        told = "{} iterations, the peer {}, {} counts differ; ".format(*found) if found else ""
        yield line | {"note": told + line["note"]}


def _speed(fast, peers):
    for n in (25,) if fast else (10, 25, 50, 100):
        yield from _speed_at(n, peers, 0.5 if fast else 3.0)
    yield from _batching(fast)
    yield from _orderings(fast, peers)
    yield from _tuned_stream(fast, peers)
    yield from _heat_speed(fast, peers)


def rows(fast, peers):
    """Totals, policies, speed. Needs float64, which is switched on here."""
    jax.config.update("jax_enable_x64", True)
    yield from _heat_totals()
    yield from _heat_policy(fast)
    yield from _policies(fast)
    yield from _speed(fast, peers)


if __name__ == "__main__":
    sys.exit(main("linear", rows))
