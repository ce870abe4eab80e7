"""Tuned sequences of solves: totals against the published ones, and speed against SciPy and pyamg."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg as spla
from jax.tree_util import Partial

from benchmarks import _linear_loops as loops
from benchmarks._harness import compare, compiled, host, installed, main, row
from jaxsci import bandits, linear
from jaxsci.core.static import bind

_BACKWARD = Partial(bind(linear.methods.ssor_pcg, sweep_first="backward"))
_ARMS = np.linspace(1.0, 1.95, 20)
_FINE = np.linspace(1.0, 1.95, 39)
_FORMULA = Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))


def _cg(omega):
    return linear.methods.cg()


def _total(stream, method, policy, arms, rounds, seed=0):
    _, record = linear.tuned_sequence(jax.random.key(seed), stream, method, policy, arms, num_rounds=rounds)
    return int(record.steps.sum()), int(jnp.sum(record.status != 0))


def _heat_totals():
    """Three independent programs agree on these totals; target: within 0.1 %."""
    one = bandits.fixed(1, arm=0)
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


def _heat_policy(fast):
    """The same steps under the policy that learns the physics; target: at most 25 000."""
    rounds = 300 if fast else 5000
    policy = linear.physics_policy(_ARMS, low=0.0, high=10.0, method="ssor_pcg")
    total, failed = _total(linear.streams.heat(25), _BACKWARD, policy, jnp.asarray(_ARMS), rounds)
    yield row(
        f"heat, 25 cells, {rounds} steps: learnt physics",
        total,
        unit="iterations",
        ok=None if fast else total <= 25_000 and failed == 0,
        note="target 25 000; the best arm of every step takes 24 158 in 5000 steps, the best fixed one 29 454",
    )


def _policies(fast):
    """Totals over that of the best fixed omega (published: high variance; 8 seeds of 5000 rounds)."""
    seeds, rounds = (1, 300) if fast else (8, 5000)
    stream, arms = linear.streams.shifted_laplacian((10, 10)), jnp.asarray(_ARMS)
    candidates = {
        "Tsallis-INF": (bandits.tsallis_inf(20, floor=1.0), arms, (1.05, 1.22)),
        "binned Tsallis-INF": (
            bandits.binned(bandits.tsallis_inf(20, floor=1.0), 5, low=-0.15, high=0.65),
            arms,
            (0.95, 1.05),
        ),
        "ChebCB": (bandits.cheb_cb(20, low=-0.15, high=0.65, floor=1.0), arms, (0.62, 0.71)),
        "learnt physics": (linear.physics_policy(_FINE, low=-0.15, high=0.65), jnp.asarray(_FINE), (0.0, 0.6)),
        "epsilon-greedy": (bandits.epsilon_greedy(20), arms, None),
        "uniform": (bandits.uniform(20), arms, None),
        "instance-optimal": (bandits.fixed(1, arm=0), _FORMULA, None),
    }
    fixed = [_total(stream, linear.methods.sor, bandits.fixed(20, arm=16), arms, rounds, s)[0] for s in range(seeds)]
    for name, (policy, choices, band) in candidates.items():
        totals = [_total(stream, linear.methods.sor, policy, choices, rounds, s)[0] for s in range(seeds)]
        share = float(np.mean(np.asarray(totals) / np.asarray(fixed)))
        note = f"{seeds} seeds of {rounds} rounds; iterations over those of omega 1.8"
        ok = None
        if band and not fast:
            ok = band[0] <= share <= band[1]
            note += f"; target {band}"
        yield row(f"random shift: {name}", share, unit="of best fixed", ratio=1 / share, ok=ok, note=note)


_SWEEPS = 20


def _difference(ours, peer):
    return float(np.abs(np.asarray(ours).ravel() - peer).max())


def _amg_sweeps(amg, a, b):
    """What a Python user writes to count sweeps: relax, recompute the residual, look at its norm."""
    x = np.zeros_like(b)
    for _ in range(_SWEEPS):
        amg.relaxation.relaxation.sor(a, x, b, omega=1.5)
        np.linalg.norm(b - a @ x)
    return x


def _speed_at(n: int, seconds: float):
    a, b = loops.laplacian(n, n, 0.1), np.random.default_rng(0).normal(size=n * n)
    op, grid = linear.operators.shifted_laplacian((n, n), 0.1), jnp.asarray(b).reshape(n, n)
    cg = compiled(lambda op, g: linear.solve(op, g, method=linear.methods.cg()).value, op, grid)
    note = "one solve at tolerance 1e-8; accuracy: largest difference"
    common = {"accuracy": _difference, "seconds": seconds}
    scipys = host(lambda: spla.cg(a, b, rtol=1e-8)[0])
    yield compare(f"CG, {n} x {n}", cg, scipys, peer_name="scipy cg", note=note, **common)

    def jaxs(op, g):
        return jax.scipy.sparse.linalg.cg(op.mv, g, tol=1e-8)[0]

    within = {"target": 1 / 1.2, "note": note + "; equal iterations"}
    yield compare(f"CG, {n} x {n}", cg, compiled(jaxs, op, grid), peer_name="jax.scipy cg", **within, **common)
    lx = installed("lineax")
    if lx is not None:

        def theirs(op, g):
            operator = lx.FunctionLinearOperator(op.mv, jax.eval_shape(lambda: g), lx.positive_semidefinite_tag)
            return lx.linear_solve(operator, g, lx.CG(rtol=1e-8, atol=0.0), throw=False).value

        yield compare(f"CG, {n} x {n}", cg, compiled(theirs, op, grid), peer_name="lineax CG", **within, **common)

    method = linear.methods.sor(1.5)
    ours = compiled(lambda op, g: linear.solve(op, g, method=method, tol=0.0, max_steps=_SWEEPS).value, op, grid)
    name, amg = f"{_SWEEPS} SOR sweeps with residuals, {n} x {n}", installed("pyamg")
    if amg is None:
        yield compare(name, ours, peer_name="pyamg", seconds=seconds)
    else:
        yield compare(name, ours, host(lambda: _amg_sweeps(amg, a, b)), peer_name="pyamg", **common)


def _orderings(fast):
    """Sweeps in the orders meant for large grids."""
    amg, seconds = installed("pyamg"), 0.5 if fast else 3.0
    red_black = lambda op: linear.operators.reordered(op, "red-black")  # noqa: E731
    cases = (
        ("red-black", 100, linear.methods.sor(1.5), red_black, 4.0),
        ("pipelined natural order", 400, linear.methods.pipelined_sor(1.5, sweeps=_SWEEPS), lambda op: op, 2.0),
    )
    for name, n, method, ordered, target in cases:
        a, b = loops.laplacian(n, n, 0.1), np.random.default_rng(0).normal(size=n * n)
        op, grid = ordered(linear.operators.shifted_laplacian((n, n), 0.1)), jnp.asarray(b).reshape(n, n)

        def sweeps(op, g, method=method):
            return linear.solve(op, g, method=method, tol=0.0, max_steps=_SWEEPS).value

        peer = None if amg is None else host(lambda a=a, b=b: _amg_sweeps(amg, a, b))
        yield compare(
            f"{_SWEEPS} sweeps with residuals, {n} x {n}: {name}", compiled(sweeps, op, grid), peer,
            peer_name="pyamg", target=target, seconds=seconds,
        )  # fmt: skip


def _tuned_stream(fast):
    """The same systems and parameters in Python; only the sweeps are timed there, not the choice and the drawing."""
    rounds, key = 50 if fast else 1000, jax.random.key(0)
    stream, policy = linear.streams.shifted_laplacian((10, 10)), bandits.tsallis_inf(20, floor=1.0)

    def tuned(num_rounds):
        def run(arms):
            return linear.tuned_sequence(key, stream, linear.methods.sor, policy, arms, num_rounds=num_rounds)[1]

        return compiled(run, jnp.asarray(_ARMS))

    def problem(i):
        return stream.next(jax.random.fold_in(jax.random.fold_in(key, i), 0), stream.init(key), i)[1]

    long = tuned(rounds)
    record = long.call()
    drawn = jax.jit(lambda i: jax.lax.map(lambda i: (problem(i).b, problem(i).context), i))(jnp.arange(rounds))
    systems = [
        (loops.laplacian(10, 10, float(c)), np.asarray(b).ravel(), float(w))
        for b, c, w in zip(*drawn, record.parameter)
    ]

    def difference(ours, counts):
        return None if counts is None else float(np.abs(np.asarray(ours.steps) - counts).max())

    note = "choice, drawing and learning included in ours; accuracy: largest difference of a count"
    amg, peer, name = installed("pyamg"), None, f"tuned stream, {rounds} rounds"
    if amg is not None:
        peer = host(lambda: loops.sor_counts(systems, loops.pyamg_sweep(amg.relaxation.relaxation)))
    accuracy = difference if peer else None
    yield compare(name, long, peer, peer_name="pyamg loop", target=5.0, accuracy=accuracy, note=note)
    few = rounds if fast else 20
    peer = host(lambda: loops.sor_counts(systems[:few], loops.triangular_sweep))
    name = f"tuned stream, {few} rounds"
    yield compare(name, tuned(few), peer, peer_name="spsolve_triangular", target=50.0, accuracy=difference, note=note)


def _heat_speed(fast):
    steps, one = 100 if fast else 1000, bandits.fixed(1, arm=0)
    for name, method, omega, target in (("CG", _cg, None, 2.0), ("SSOR-PCG, omega 1.4", _BACKWARD, 1.4, 4.0)):

        def run(arms, method=method):
            state, record = linear.tuned_sequence(
                jax.random.key(0), linear.streams.heat(25), method, one, arms, num_rounds=steps
            )
            return record.steps.sum(), state.carry.solution

        ours = compiled(run, jnp.asarray([1.0 if omega is None else omega]))
        peer = host(lambda omega=omega: loops.heat(25, steps, omega))
        total, expected = int(ours.call()[0]), peer.call()[0]
        yield compare(
            f"heat, 25 cells, {steps} steps: {name}", ours, peer, peer_name="scipy cg", target=target,
            accuracy=lambda a, b: _difference(a[1], b[1]),
            note=f"{total} iterations, the peer {expected}; accuracy: largest difference of the last solution",
        )  # fmt: skip


def _speed(fast):
    for n in (10, 50) if fast else (10, 25, 50, 100):
        yield from _speed_at(n, 0.5 if fast else 3.0)
    yield from _orderings(fast)
    yield from _tuned_stream(fast)
    yield from _heat_speed(fast)


def rows(fast):
    """Totals, policies, speed. Needs float64, which is switched on here."""
    jax.config.update("jax_enable_x64", True)
    yield from _heat_totals()
    yield from _heat_policy(fast)
    yield from _policies(fast)
    yield from _speed(fast)


if __name__ == "__main__":
    sys.exit(main("linear", rows))
