"""General sparse matrices, of which nothing is known but the entries: CG against SciPy, SOR sweeps against pyamg.

Both sides do the same work: as many steps or sweeps, with their residuals and norms. The peers' BLAS is on one thread.
One row more: what a policy adds to a solve where systems come one by one.
"""

import statistics
import sys
import time

import equinox as eqx
import jax
import numpy as np
import scipy.sparse as sp

from benchmarks._harness import compare, compiled, main, row
from benchmarks.peers.linear import laplacian
from jaxsci import bandits, linear


def _irregular(n, seed=0):
    """Symmetric, positive definite: each unknown has 3 to 30 partners of its own among the 400 on either side."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(np.arange(n), rng.integers(3, 31, n))
    cols = (rows + rng.integers(1, 400, len(rows)) * rng.choice([-1, 1], len(rows))) % n
    a = sp.coo_array((np.ones(len(rows)), (rows, cols)), shape=(n, n)).tocsr()
    a = ((a + a.T) > 0).astype(float)
    return (sp.diags_array(np.asarray(a.sum(1)).ravel() + 0.1) - a).tocsr()


def _cases(rows):
    five = laplacian(rows, rows, 0.1)
    n = five.shape[0]
    turn = np.random.default_rng(1).permutation(n)
    steps = 100 if rows < 200 else 200
    yield f"{n} unknowns, 5-point", five, steps, {np.float64: 1.5, np.float32: 1.0}
    irregular = _irregular(n // 2)
    count = np.diff(irregular.indptr)
    # fewer steps: beyond them the residual falls below the least numbers of single precision, which are slow
    yield f"{n // 2} unknowns, rows of {count.min()} to {count.max()} entries", irregular, 30, {np.float64: 0.8}
    yield f"{n} unknowns, 5-point after a random permutation", five[turn][:, turn], steps, {}


def _given(a, dtype):
    b = np.random.default_rng(0).normal(size=a.shape[0]).astype(dtype)
    a = a.astype(dtype)
    return linear.interop.from_scipy(a), b, {"data": a.data, "indices": a.indices, "indptr": a.indptr, "b": b}


def _cg(name, a, dtype, steps, target, peers, seconds):
    op, b, given = _given(a, dtype)

    def ours(op, b):
        return linear.solve(op, b, method=linear.methods.cg(), tol=0.0, max_steps=steps).value

    def difference(x, found):
        if found is None:
            return None
        if found[1] != steps:
            raise RuntimeError(f"it took {found[1]} steps instead of {steps}")
        return float(np.abs(np.asarray(x) - found[0]).max())

    return compare(
        f"{steps} steps of CG, {name}, {dtype.__name__}", compiled(ours, op, b),
        peers.find("scipy", "linear:csr_cg", steps=steps, **given), peer_name="scipy cg", target=target,
        accuracy=difference, seconds=seconds, note="accuracy: largest difference",
    )  # fmt: skip


def _sweeps(name, a, dtype, count, target, peers, seconds):
    op, b, given = _given(a, dtype)

    def ours(op, b):
        return linear.solve(op, b, method=linear.methods.sor(1.5), tol=0.0, max_steps=count).value

    def difference(x, found):
        return None if found is None else float(np.abs(np.asarray(x) - found[0]).max())

    return compare(
        f"{count} SOR sweeps with residuals, {name}, {dtype.__name__}", compiled(ours, op, b),
        peers.find("pyamg", "linear:csr_sweeps", omega=1.5, count=count, **given), peer_name="pyamg", target=target,
        accuracy=difference, seconds=seconds, note="accuracy: largest difference",
    )  # fmt: skip


def _online(rounds=100):
    """Choice and lesson of a policy by two compiled functions, called from a Python loop around any solver."""
    policy, key = bandits.policies.cheb_cb(20, low=0.1, high=0.5, floor=1.0), jax.random.key(0)
    select, update = eqx.filter_jit(policy.select), eqx.filter_jit(policy.update)
    state, seconds = policy.init(key), []
    for t, shift in enumerate(np.random.default_rng(0).uniform(0.1, 0.5, rounds)):
        start = time.perf_counter()
        decision = select(jax.random.fold_in(key, t), state, shift)
        action = int(decision.action)
        chosen = time.perf_counter()
        steps = 20.0 + abs(action - 40 * shift)  # a solve would stand here
        told = time.perf_counter()
        state = jax.block_until_ready(update(state, decision, steps, shift))
        seconds.append(chosen - start + time.perf_counter() - told)
    median = statistics.median(seconds)
    note = f"{rounds} rounds; target at most 2 ms, median"
    return row("a round of an eager tuned loop beside its solve", median, unit="s", ok=median <= 2e-3, note=note)


def rows(fast, peers):
    """CG for each kind of matrix and dtype, sweeps of the 5-point one, the eager loop; in float64, switched on here."""
    jax.config.update("jax_enable_x64", True)
    side, seconds = (120, 0.5) if fast else (320, 4.0)
    for name, a, steps, targets in _cases(side):
        for dtype in (np.float64, np.float32):
            target = None if fast else targets.get(dtype)
            yield _cg(name, a, dtype, steps, target, peers, seconds)
    name, a, steps, _ = next(_cases(side))
    for dtype in (np.float64, np.float32):
        yield _sweeps(name, a, dtype, steps // 2, None if fast else 1.0, peers, seconds)
    yield _online()


if __name__ == "__main__":
    sys.exit(main("linear_sparse", rows))
