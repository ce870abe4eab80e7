"""Bandit policies: a round against MABWiser's with the same arms, seeds as a batch, totals against published ones."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from benchmarks._harness import compare, compiled, main, row
from jaxsci import bandits, linear
from jaxsci.core.static import bind


def _against(name, ours, peer, rounds, seconds):
    """Rounds a second of choosing and learning; the arms must be the peer's, one by one."""

    def differing(mine, theirs):
        return None if theirs is None else np.mean(np.asarray(mine) != theirs)

    return compare(
        name, ours, peer, peer_name="MABWiser predict + partial_fit", amount=rounds, unit="rounds/s",
        accuracy=differing, target=30.0, within=0, seconds=seconds, note="accuracy: share of rounds with another arm",
    )  # fmt: skip


def _mabwiser(fast, peers):
    seconds = 0.5 if fast else 3.0
    rng = np.random.default_rng(0)
    costs = rng.uniform(size=(1000, 10)) * np.linspace(0.6, 1.0, 10)
    key = jax.random.key(0)
    ours = compiled(
        lambda costs: bandits.replay(key, costs, bandits.policies.ucb1(10)).history.action, jnp.asarray(costs)
    )
    peer = peers.find("mabwiser", "bandits:ucb", costs=costs)
    yield _against("UCB1, 10 arms, 1000 rounds", ours, peer, 1000, seconds)

    contexts = rng.normal(size=(300, 6))
    costs = contexts @ rng.normal(size=(6, 5)) / 6 + 0.1 * rng.normal(size=(300, 5))
    ours = compiled(
        lambda costs, contexts: bandits.replay(key, costs, bandits.policies.lin_ucb(5, 6), contexts).history.action,
        jnp.asarray(costs),
        jnp.asarray(contexts),
    )
    peer = peers.find("mabwiser", "bandits:lin_ucb", costs=costs, contexts=contexts)
    yield _against("LinUCB, 5 arms, 6 features, 300 rounds", ours, peer, 300, seconds)


def _seeds(fast):
    """What a batch of seeds gains over one after the other; both compiled."""
    seeds, rounds = 64, 500 if fast else 2000
    keys = jax.random.split(jax.random.key(1), seeds)
    costs = jax.random.uniform(jax.random.key(2), (seeds, rounds, 20))
    policies = {
        "UCB1": bandits.policies.ucb1(20),
        "Gaussian Thompson": bandits.policies.thompson_gaussian(20),
        "Beta Thompson": bandits.policies.thompson_beta(20),
        "EXP3": bandits.policies.exp3(20),
        "Tsallis-INF": bandits.policies.tsallis_inf(20),
        "delayed UCB1": bandits.wrappers.delayed(bandits.policies.ucb1(20), 8, delay=7),
    }
    for name, policy in policies.items():

        def one(lane, policy=policy):
            return bandits.replay(*lane, policy).history.action

        yield compare(
            f"replay, {seeds} seeds of {rounds} rounds: {name}",
            compiled(jax.vmap(one), (keys, costs)),
            compiled(lambda lanes, one=one: jax.lax.map(one, lanes), (keys, costs)),
            peer_name="seeds one after the other",
            amount=seeds * rounds,
            unit="rounds/s",
            accuracy=lambda mine, other: jnp.mean(mine != other),
            seconds=0.3 if fast else 2.0,
            note="accuracy: share of rounds with another arm",
        )


def _rates(fast):
    """Policies that cost more than a few additions: rounds a second on contexts."""
    rounds = 60 if fast else 300
    key = jax.random.key(3)
    arms = jnp.asarray((np.arange(512)[:, None] >> np.arange(9)) & 1, jnp.float32)
    blocks = Partial(bind(bandits.features.disjoint, num_arms=10))
    surrogate = bandits.regressors.gp_surrogate(arms, capacity=rounds, context_size=1)
    policies = {
        "NeuFastCB, 10 arms, 64 features, width 100": (
            bandits.wrappers.encoded(bandits.policies.neu_fast_cb(10, 640), blocks), 10, 64
        ),
        f"GP-UCB, 512 arms, {rounds} plays remembered": (bandits.policies.gp_ucb(surrogate), 512, 1),
    }  # fmt: skip
    for name, (policy, num_arms, size) in policies.items():
        costs = jax.random.uniform(key, (rounds, num_arms), jnp.float32)
        contexts = jax.random.normal(jax.random.fold_in(key, 1), (rounds, size), jnp.float32)

        def run(costs, contexts, policy=policy):
            return bandits.replay(key, costs, policy, contexts).history.action

        yield compare(
            f"replay: {name}", compiled(run, costs, contexts), amount=rounds, unit="rounds/s",
            seconds=0.3 if fast else 2.0,
        )  # fmt: skip


_SERIES = Partial(bind(bandits.features.chebyshev, num_features=6), low=-0.15, high=0.65)


def _over_series(policy):
    return bandits.wrappers.encoded(policy, _SERIES)


def _ridge(k):
    return bandits.regressors.ridge(k, 6, regularization=0.01)


# Total over that of the best fixed omega: mean and spread over seeds, of the high- and of the low-variance stream.
_PUBLISHED = {
    "Gaussian Thompson": (bandits.policies.thompson_gaussian, (1.091, 0.007), (1.126, 0.012)),
    "epsilon-greedy": (bandits.policies.epsilon_greedy, (1.200, 0.031), (1.182, 0.028)),
    "Tsallis-INF, reduced variance": (
        lambda k: bandits.policies.tsallis_inf(k, estimator="rv"), (1.253, 0.027), (1.240, 0.031),
    ),
    "EXP3": (bandits.policies.exp3, (1.41, None), (1.36, None)),
    "EXP3-IX": (bandits.policies.exp3_ix, (1.59, None), (1.47, None)),
    "EXP3.P": (lambda k: bandits.policies.exp3_p(k, horizon=5000), (2.05, 0.09), (1.89, 0.05)),
    "UCB1": (bandits.policies.ucb1, (1.70, 0.02), (1.63, 0.01)),
    "UCB-V": (bandits.policies.ucb_v, (1.99, 0.02), (1.76, 0.01)),
    "normal-inverse-gamma Thompson": (bandits.policies.thompson_normal_inverse_gamma, (None, None), (None, None)),
    "LinUCB over Chebyshev series": (
        lambda k: _over_series(bandits.policies.lin_ucb(k, 6, alpha=0.1, regularization=0.01)),
        (0.642, 0.010), (0.794, 0.006),
    ),
    "FastCB over Chebyshev series": (
        lambda k: _over_series(bandits.policies.fast_cb(_ridge(k), exploration=10.0)), (0.667, 0.012), (0.816, 0.011),
    ),
    "SquareCB over Chebyshev series": (
        lambda k: _over_series(bandits.policies.square_cb(_ridge(k), exploration=10.0)), (0.850, 0.014), (1.048, 0.009),
    ),
}  # fmt: skip


def _ratios(fast):
    """One table of iteration counts of each stream (fast: of one), every policy replayed on it with eight keys."""
    for i, (variance, beta) in enumerate({"high": (0.5, 1.5), "low": (2.0, 6.0)}.items()):
        if fast and variance == "high":
            continue
        known = {name: (make, *bands[i]) for name, (make, *bands) in _PUBLISHED.items()}
        yield from _ratios_of(variance, beta, known, fast)


def _ratios_of(variance, beta, policies, fast):
    rounds = 100 if fast else 5000
    stream, omegas = linear.streams.shifted_laplacian((10, 10), beta=beta), jnp.linspace(1.0, 1.95, 20)
    table, shifts = linear.cost_table(jax.random.key(0), stream, linear.methods.sor, omegas, num_rounds=rounds)
    losses, keys = jnp.clip((table - 1) / 500, 0, 1), jax.random.split(jax.random.key(1), 8)
    best = float(table.sum(0).min())

    @jax.jit
    def play(policy):
        actions = jax.vmap(lambda key: bandits.replay(key, losses, policy, shifts).history.action)(keys)
        return jax.vmap(lambda a: bandits.regret(a, table).paid[-1])(actions) / best

    for name, (make, mean, spread) in policies.items():
        shares = np.asarray(play(make(20)))
        share, known = float(shares.mean()), mean is not None and not fast
        short = "; published of 5000 rounds, not compared with at this size" if mean is not None and fast else ""
        yield row(
            f"random shift, {variance} variance: {name}",
            share,
            unit="of best fixed",
            peer_name=None if mean is None else "published",
            peer=mean if known else None,
            ratio=mean / share if known else None,
            accuracy=abs(share - mean) / mean if known else None,
            ok=abs(share - mean) <= 5 * spread if known and spread is not None else None,
            note=f"{rounds} rounds of one stream, 8 keys; spread over keys {shares.std(ddof=1):.3f}{short}",
        )


def rows(fast, peers):
    """Peers, batches, published totals. Needs float64, which is switched on here."""
    jax.config.update("jax_enable_x64", True)
    yield from _mabwiser(fast, peers)
    yield from _seeds(fast)
    yield from _rates(fast)
    yield from _ratios(fast)


if __name__ == "__main__":
    sys.exit(main("bandits", rows))
