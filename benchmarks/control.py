"""Continuous-time control: quadrature, Riccati equations, policy evaluation and exploratory control, against peers."""

import sys
import time
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._harness import compare, compiled, host, main, row
from jaxsci import quadrature
from jaxsci.control import exact, exploratory, martingale, riccati, simulate

# --- quadrature --------------------------------------------------------------------------------------------


def _integrand(t, c):
    return jnp.exp(jnp.sin(3 * t) + c * t)


def _quadax(seconds, peers):
    """10^3 integrals with a parameter: weights @ samples against the adaptive call, both right to rounding."""
    c = jnp.linspace(0.0, 1.0, 1000)
    fine = quadrature.rules.gauss_legendre(60)
    truth = np.exp(np.sin(3 * fine.nodes) + np.asarray(c)[:, None] * fine.nodes) @ fine.weights
    rule = quadrature.rules.gauss_legendre(18)
    ours = compiled(jax.vmap(lambda c: quadrature.integrate(lambda t: _integrand(t, c), rule)), c)
    found = []

    def worst(ours, theirs):
        errors = [float(np.abs(np.asarray(values) - truth).max()) for values in (ours, theirs) if values is not None]
        found[:] = errors[1:]
        return errors[0]

    line = compare(
        "1000 integrals, vmapped", ours, peers.find("quadax", "control:quadgk", c=np.asarray(c)),
        peer_name="quadax quadgk, epsabs 1e-10", accuracy=worst, within=1e-12, target=10.0, seconds=seconds,
        note="18 Gauss-Legendre nodes; accuracy: our largest error",
    )  # fmt: skip
    yield line | {"note": line["note"] + "".join(f"; quadax's largest error {error:.1e}" for error in found)}


def _probnum(seconds, peers):
    """Bayesian quadrature from data, Matern 7/2, length .3, jitter 1e-8, of e^-t cos 5t over [0, .1]."""
    kernel = quadrature.embeddings.matern(3.5, 0.3)

    def ours(n):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the conditioning of this length is part of the comparison
            rule = quadrature.rules.bayesian(n, 0.0, 0.1, kernel=kernel, jitter=1e-8)
        return rule.weights @ (np.exp(-rule.nodes) * np.cos(5 * rule.nodes))

    for n in (5, 9):
        yield compare(
            f"Bayesian quadrature, {n} nodes", host(ours, n), peers.find("probnum", "control:bayesquad", n=n),
            peer_name="probnum bayesquad_from_data", seconds=seconds, within=1e-12,
            accuracy=lambda a, b: None if b is None else abs(a - b),
            note="nodes, weights and integral; accuracy: difference of the two means",
        )  # fmt: skip


# --- Riccati equations -------------------------------------------------------------------------------------


def _systems(num, d, m):
    """Random systems, stable as they are, so that Kleinman's iteration may start from no control."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(num, d, d)) / np.sqrt(d)
    A -= (1 + np.linalg.eigvals(A).real.max(1))[:, None, None] * np.eye(d)
    return A, rng.normal(size=(num, d, m)), np.eye(d), np.eye(m)


def _largest(ours, peer):
    return None if peer is None else np.abs(np.asarray(ours) - peer).max() / np.abs(peer).max()


def _riccati(fast, seconds, peers):
    num = 100 if fast else 1000
    A, B, Q, R = _systems(num, 4, 2)
    ours = compiled(jax.vmap(lambda A, B: riccati.kleinman(A, B, Q, R).P[-1]), jnp.asarray(A), jnp.asarray(B))
    yield compare(
        f"{num} Riccati equations, 4 states", ours, peers.find("scipy", "control:riccati_loop", A=A, B=B, Q=Q, R=R),
        peer_name="scipy solve_continuous_are, loop", accuracy=_largest, within=1e-10, seconds=seconds,
        note="12 Kleinman steps, vmapped; accuracy: largest relative difference",
    )  # fmt: skip
    yield compare(
        "one Riccati equation, host", host(lambda: riccati.solve(A[0], B[0], Q, R).P),
        peers.find("control", "control:lqr", A=A[0], B=B[0], Q=Q, R=R), peer_name="control.lqr", accuracy=_largest,
        within=1e-10, seconds=seconds, note="accuracy: largest relative difference",
    )  # fmt: skip


# --- policy evaluation -------------------------------------------------------------------------------------

_DT, _DISCOUNT, _MEAN = 0.05, 0.5, 0.5


def _features(t, x):
    return jnp.stack([jnp.ones_like(x), x - _MEAN])


def _value():
    return martingale.linear_value(_features)


def _stream(key, num_steps):
    """Transitions of a stationary Ornstein-Uhlenbeck path that earns x."""
    path = exact.ornstein_uhlenbeck(key, num_steps=num_steps, dt=_DT, mean=_MEAN)
    return simulate.transitions(path._replace(rs=path.xs[:-1]))


def _rlax(fast, seconds, peers):
    """The sum of trace times delta at fixed parameters, A theta + b with the sums that CLSTD(lambda) keeps."""
    num_steps, decay = (2000 if fast else 20_000), 0.6
    condition = martingale.condition(_value(), discount=_DISCOUNT, discounting="multiplicative")
    theta = jnp.array([0.8, 0.5])
    steps = jax.jit(lambda k: _stream(k, num_steps))(jax.random.key(0))

    def ours(theta, steps):
        method = martingale.clstd(condition, trace_decay=decay, trace_scale="unit")
        sums = martingale.run(method, theta, steps).state
        return sums.matrix @ theta + sums.vector

    peer = peers.find(
        "rlax", "control:td_lambda", theta=np.asarray(theta), now=np.asarray(jax.vmap(_features)(steps.t, steps.x)),
        then=np.asarray(jax.vmap(_features)(steps.t_next, steps.x_next)), rewards=np.asarray(steps.reward * _DT),
        gamma=float(np.exp(-_DISCOUNT * _DT)), decay=decay**_DT,
    )  # fmt: skip
    yield compare(
        f"TD(lambda) update, {num_steps} steps", compiled(ours, theta, steps), peer, peer_name="rlax td_lambda",
        accuracy=_largest, within=1e-12, seconds=seconds, note="accuracy: largest relative difference; ours is the"
        " update at every theta, from traces of the features, rlax's that at one, from a scan of scalars backward over"
        " the stored path and its features",
    )  # fmt: skip


def _numpy_ctd(xs, rate):
    """Online CTD(0) as one writes it in NumPy; returns parameters."""
    theta = np.zeros(2)
    for k in range(len(xs) - 1):
        now, then = np.array([1.0, xs[k] - _MEAN]), np.array([1.0, xs[k + 1] - _MEAN])
        level = theta @ now
        delta = theta @ then - level + (xs[k] - _DISCOUNT * level) * _DT
        theta = theta + rate * (1 + k * _DT / 10) ** -0.67 * delta * now
    return theta


def _decaying(rate, t):
    return rate * (1 + t / 10) ** -0.67


def _online_ctd(fast):
    """5 rates x 8 seeds of online CTD(0), paths drawn inside: one compiled call."""
    num_steps, loop_steps = (20_000 if fast else 200_000), 5000
    rates = jnp.array([0.01, 0.05, 0.1, 0.5, 1.0], jnp.float32)
    condition = martingale.condition(_value(), discount=jnp.float32(_DISCOUNT))

    def one(rate, key):
        method = martingale.ctd(condition, learning_rate=jax.tree_util.Partial(_decaying, rate))
        steps = jax.tree.map(_single, _stream(key, num_steps))
        estimate = martingale.run(method, jnp.zeros(2, jnp.float32), steps)
        return estimate.value, estimate.status

    seeds = jax.random.split(jax.random.key(0), 8)
    ours = compiled(jax.vmap(jax.vmap(one, (None, 0)), (0, None)), rates, seeds)
    (value, bad), taken = ours.call(), []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(ours.call())
        taken.append(time.perf_counter() - start)
    ours_seconds = float(np.median(taken))
    xs = np.asarray(exact.ornstein_uhlenbeck(seeds[0], num_steps=loop_steps, dt=_DT, mean=_MEAN).xs)
    start = time.perf_counter()
    _numpy_ctd(xs, 0.1)
    loop = (time.perf_counter() - start) / loop_steps
    slope = _DT / (1 - np.exp(-_DT) + _DISCOUNT * _DT)
    error = np.abs(np.asarray(value[2]).mean(0) - [_MEAN / _DISCOUNT, slope]).max()
    note = f"largest error at rate .1, mean of 8 seeds, against the fixed point (1, {slope:.6f})"
    per_step = ours_seconds / (40 * num_steps)
    yield row(
        "online CTD(0), one step of one lane", per_step, unit="s", peer_name="NumPy loop", peer=loop,
        ratio=loop / per_step, accuracy=error, target=50.0, note=f"40 lanes vmapped, float32; accuracy: {note}",
    )  # fmt: skip
    yield row(
        f"online CTD(0), 5 rates x 8 seeds x {num_steps} steps", ours_seconds, unit="s", accuracy=error,
        ok=bool(ours_seconds < 10 * num_steps / 200_000) and not bool(jnp.any(bad)) and (fast or bool(error <= 0.03)),
        note=f"to take 10 s at 200000 steps and be within .03 there; compiled in {ours.compile_seconds:.3g} s;"
        f" accuracy: {note}",
    )  # fmt: skip


def _single(a):
    return a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a


# --- exploratory control -----------------------------------------------------------------------------------


def _exploratory_problem():
    values = {"A": -1, "B": 0, "C": 0, "D": 1, "M": 2, "N": 2, "R": 1, "P": 1, "Q": 2, "temperature": 0.1}
    return exploratory.ExploratoryLQ(**{name: jnp.float32(value) for name, value in values.items()})


def _numpy_actor_critic(num_steps, dt=0.01, temperature=0.1):
    """Online actor-critic as one writes it in NumPy."""
    rng = np.random.default_rng(0)
    x, theta, average, phi = 0.0, np.zeros(2), 0.0, np.zeros(3)
    for i in range(num_steps):
        variance = np.exp(phi[2])
        off = np.sqrt(variance) * rng.normal()
        a = phi[0] * x + phi[1] + off
        reward = -(x * x + x * a + a * a + x + 2 * a)
        x_next = x - x * dt + a * np.sqrt(dt) * rng.normal()
        gain = (x_next - x) * (theta[0] * (x_next + x) / 2 + theta[1])
        entropy = (np.log(2 * np.pi) + 1 + phi[2]) / 2
        delta = gain + (reward + temperature * entropy - average) * dt
        rate = (1 + i * dt / 10) ** -0.67
        theta = theta + 0.1 * rate * delta * np.array([x * x / 2, x])
        average += 0.1 * rate * delta
        score = np.array([off * x / variance, off / variance, (off * off / variance - 1) / 2])
        own = np.array([0.0, 0.0, temperature * dt / 2])
        phi = phi + rate * np.array([0.01, 0.01, 0.3]) * (score * delta + own)
        x = x_next
    return phi


def _exploratory(fast):
    """64 seeds from zero: speed, and how near slope and intercept are, against the published rates in the same time."""
    num_steps, problem = (100_000 if fast else 2_000_000), _exploratory_problem()
    best, seeds = exploratory.solution(problem), jax.random.split(jax.random.key(0), 64)
    small = dict.fromkeys(("critic_rate", "value_rate", "actor_rate", "scale_rate"), 0.001)
    learners = {
        "actor-critic": exploratory.actor_critic(),
        "q-learning": exploratory.q_learning(),
        "published": exploratory.actor_critic(**small, schedule=exploratory.log_decay()),
    }
    start = time.perf_counter()
    _numpy_actor_critic(5000)
    loop = (time.perf_counter() - start) / 5000
    errors, rows = {}, []
    for name, learner in learners.items():

        def one(key, learner=learner):
            result = exploratory.run(key, problem, learner, num_steps=num_steps, dt=0.01, record_every=num_steps // 100)
            return result.value, result.status, result.history.reward[-10:]

        program = compiled(jax.vmap(one), seeds)
        start = time.perf_counter()
        parameters, bad, reward = jax.block_until_ready(program.call())
        taken = time.perf_counter() - start
        miss = jnp.stack([parameters.slope - best.policy.slope, parameters.intercept - best.policy.intercept])
        errors[name] = float(jnp.sqrt(jnp.mean(miss**2)))
        worst = float(jnp.abs(miss.mean(1)).max())
        rows.append((name, taken, worst, float(reward.mean()), int(jnp.sum(bad != 0))))
    for name, taken, worst, earned, failed in rows[:2]:
        step = taken / (64 * num_steps)
        yield row(
            f"exploratory LQ, {name}: one step of one lane", step, unit="s", peer_name="NumPy loop", peer=loop,
            ratio=loop / step, accuracy=errors[name],
            note=f"64 lanes vmapped, {num_steps} steps in {taken:.3g} s; accuracy: r.m.s. error of slope and intercept",
        )  # fmt: skip
        yield row(
            f"exploratory LQ, {name}: error after T = {num_steps / 100:.0f}", errors[name], unit="r.m.s.",
            peer_name="published rates", peer=errors["published"], ratio=errors["published"] / errors[name],
            accuracy=worst, ok=None if fast else worst < 0.05 and abs(earned - 0.658497) < 0.03 and failed == 0,
            note=f"{failed} of 64 seeds diverged; reward of the last tenth {earned:.4f} (published rates"
            f" {rows[2][3]:.4f}, optimum .6585); accuracy: largest error of a mean over seeds, to be under .05",
        )  # fmt: skip


def rows(fast, peers):
    """Quadrature, Riccati, policy evaluation, exploratory control. Needs float64, which is switched on here."""
    jax.config.update("jax_enable_x64", True)
    seconds = 0.3 if fast else 2.0
    for part in (
        partial(_quadax, seconds, peers),
        partial(_probnum, seconds, peers),
        partial(_riccati, fast, seconds, peers),
        partial(_rlax, fast, seconds, peers),
        partial(_online_ctd, fast),
        partial(_exploratory, fast),
    ):
        yield from part()


if __name__ == "__main__":
    sys.exit(main("control", rows))
