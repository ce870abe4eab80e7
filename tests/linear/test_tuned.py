"""Tuned sequences: one scan, resumable, equal under vmap; stream statistics and policy ratios against the paper's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
from jaxsci import bandits, linear
from jaxsci.core import status
from jaxsci.core.static import bind

ARMS = np.linspace(1.0, 1.95, 20)
ORACLE = Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))
HIGH, LOW = (0.5, 1.5), (2.0, 6.0)


def policies(num_arms=20):
    return {
        "tsallis": bandits.policies.tsallis_inf(num_arms, floor=1.0),
        "binned": bandits.wrappers.binned(bandits.policies.tsallis_inf(num_arms, floor=1.0), 5, low=-0.15, high=0.65),
        "chebyshev": bandits.policies.cheb_cb(num_arms, low=-0.15, high=0.65, floor=1.0),
        "epsilon": bandits.policies.epsilon_greedy(num_arms, exploration=5.0),
        "uniform": bandits.policies.uniform(num_arms),
    }


def run(seed, beta, policy, arms, num_rounds, shape=(10, 10)):
    stream = linear.streams.shifted_laplacian(shape, beta=beta)
    record = linear.tuned_sequence(
        jax.random.key(seed), stream, linear.methods.sor, policy, arms, num_rounds=num_rounds
    ).history
    assert not bool(jnp.any(record.status))
    return record


def short(key, policy, num_rounds=12, state=None):
    stream = linear.streams.shifted_laplacian((4, 4))
    return linear.tuned_sequence(
        key, stream, linear.methods.sor, policy, jnp.asarray(ARMS), num_rounds=num_rounds, tol=1e-4, state=state
    )


# --- one program -------------------------------------------------------------------------------------------


def _primitives(jaxpr, depth=0):
    for eqn in jaxpr.eqns:
        yield depth, eqn.primitive.name
        for value in eqn.params.values():
            for sub in value if isinstance(value, (list, tuple)) else [value]:
                inner = getattr(sub, "jaxpr", sub)
                if hasattr(inner, "eqns"):
                    yield from _primitives(inner, depth + (eqn.primitive.name != "jit"))


def _learnt(arms=ARMS):
    fallback = bandits.policies.tsallis_inf(len(arms), floor=1.0)
    return linear.physics_policy(arms, low=-0.15, high=0.65, tol=1e-4, fallback=fallback)


@pytest.mark.parametrize("name", [*policies(), "learnt physics"])
def test_one_outer_scan_and_no_callback(name, key):
    policy = _learnt() if name == "learnt physics" else policies()[name]
    jaxpr = jax.make_jaxpr(lambda k: short(k, policy, num_rounds=5000).history)(key)
    found = list(_primitives(jaxpr.jaxpr))
    assert [p for d, p in found if d == 0].count("scan") == 1
    assert not [p for d, p in found if d == 0 and p in ("while", "cond")]
    assert not [p for _, p in found if "callback" in p]


SLOW = [pytest.param(n, marks=pytest.mark.slow) for n in ("tsallis", "chebyshev")]


@pytest.mark.x64
@pytest.mark.parametrize("name", ["binned", *SLOW])
def test_vmap_over_seeds_equals_separate_runs(name, key):
    keys = jax.random.split(key, 8)
    batch = jax.jit(jax.vmap(lambda k: short(k, policies()[name]).history))(keys)
    one = jax.jit(lambda k: short(k, policies()[name]).history)
    loop = jax.tree.map(lambda *a: jnp.stack(a), *[one(k) for k in keys])
    np.testing.assert_array_equal(batch.action, loop.action)
    np.testing.assert_array_equal(batch.steps, loop.steps)


def test_stopping_and_going_on_changes_nothing(key):
    policy = policies()["binned"]
    whole = short(key, policy, num_rounds=12)
    first = short(key, policy, num_rounds=5)
    second = short(key, policy, num_rounds=7, state=first.state)
    joined = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), first.history, second.history)
    contracts.assert_close(joined, whole.history, 0.0, "record")
    contracts.assert_close(second.state, whole.state, 0.0, "state")
    np.testing.assert_array_equal(second.value, whole.value)
    np.testing.assert_array_equal(second.value, second.state.carry.solution)


def test_fresh_policies_of_other_values_compile_nothing(key):
    short(key, bandits.policies.epsilon_greedy(20, exploration=5.0))
    with contracts.count_compilations() as events:
        short(key, bandits.policies.epsilon_greedy(20, exploration=2.0))
    assert not events


def test_zero_rounds(key):
    result = short(key, policies()["tsallis"], num_rounds=0)
    assert result.history.steps.shape == (0,) and int(result.state.round) == int(result.status) == 0
    assert not bool(jnp.any(result.value))


@pytest.mark.x64
def test_cost_table_meets_the_same_problems(key):
    """Row minima, column sums and any replay follow from the table: its entries are the policy's own costs.

    So they are for an arm that fails at once, which is charged the step cap.
    """
    stream = linear.streams.shifted_laplacian((4, 4))
    arms = jnp.asarray([*ARMS[:16:4], 2.0])
    table, context = linear.cost_table(key, stream, linear.methods.sor, arms, num_rounds=15)
    record = linear.tuned_sequence(
        key, stream, linear.methods.sor, bandits.policies.uniform(5), arms, num_rounds=15
    ).history
    np.testing.assert_array_equal(table[jnp.arange(15), record.action], record.cost)
    np.testing.assert_array_equal(context, record.context)
    np.testing.assert_array_equal(table[:, 4], 10_000)
    assert float(table[:, :4].max()) < 1000 and 4 in record.action


@pytest.mark.x64
def test_cost_is_the_users_and_says_so_where_it_is_none(key):
    stream = linear.streams.shifted_laplacian((4, 4))
    record = linear.tuned_sequence(
        key, stream, linear.methods.sor, bandits.policies.uniform(2), jnp.array([1.0, 1.5]), num_rounds=12, cost=_work
    ).history
    priced = record.action == 0
    np.testing.assert_allclose(record.cost[priced], (record.steps * (1 + record.parameter))[priced])
    np.testing.assert_array_equal(record.status, jnp.where(priced, 0, status.NONFINITE_INPUT))
    assert 0 < int(priced.sum()) < 12 and bool(jnp.all(record.steps > 0))


def _work(result, parameter, context):
    return jnp.where(parameter < 1.2, result.steps * (1 + parameter), jnp.nan)


FAILING = {
    "tsallis": lambda arms: bandits.policies.tsallis_inf(len(arms), floor=1.0),
    "chebyshev": lambda arms: bandits.policies.cheb_cb(len(arms), low=-0.15, high=0.65, floor=1.0),
    "learnt physics": _learnt,
}


@pytest.mark.parametrize("name", ["tsallis", *(pytest.param(n, marks=pytest.mark.slow) for n in list(FAILING)[1:])])
def test_an_arm_that_fails_at_once_is_abandoned(name, key):
    """omega = 2 ends after 0 steps; were it charged those, every policy would settle on it.

    Measured: played 1 or 2 times of 300 by each.
    """
    arms = np.array([1.0, 1.2, 1.4, 1.6, 2.0])
    stream = linear.streams.shifted_laplacian((4, 4))
    record = linear.tuned_sequence(
        key, stream, linear.methods.sor, FAILING[name](arms), jnp.asarray(arms), num_rounds=300, tol=1e-4
    ).history
    failed = record.action == 4
    np.testing.assert_array_equal(record.status, jnp.where(failed, status.OUT_OF_RANGE, 0))
    np.testing.assert_array_equal(record.cost, jnp.where(failed, 10_000, record.steps))
    assert not bool(jnp.any(jnp.where(failed, record.steps, 0)))
    assert int(failed.sum()) <= 10 and int(failed[100:].sum()) <= 2


@pytest.mark.bad_input
def test_static_misuse_raises(key):
    stream, policy = linear.streams.shifted_laplacian((4, 4)), bandits.policies.uniform(2)
    with pytest.raises(ValueError, match=">= 0"):
        linear.tuned_sequence(key, stream, linear.methods.sor, policy, jnp.ones(2), num_rounds=-1)
    with pytest.raises(ValueError, match="leading axis"):
        linear.tuned_sequence(key, stream, linear.methods.sor, policy, jnp.float32(1.0), num_rounds=1)
    with pytest.raises(TypeError, match="typed key"):
        linear.tuned_sequence(0, stream, linear.methods.sor, policy, jnp.ones(2), num_rounds=1)
    with pytest.raises(TypeError, match="must be arrays"):
        linear.cost_table(key, stream, linear.methods.sor, ORACLE, num_rounds=1)
    with pytest.raises(ValueError, match="cost_table: num_rounds must be an int >= 0"):
        linear.cost_table(key, stream, linear.methods.sor, jnp.ones(2), num_rounds=-3)


# --- streams -----------------------------------------------------------------------------------------------


def test_shifts_follow_the_beta_law_and_right_hand_sides_their_bound(key):
    stream = linear.streams.shifted_laplacian((4, 4), beta=HIGH)
    carry = stream.init(key)
    draws = jax.vmap(lambda k: stream.next(k, carry, jnp.int32(0))[1])(jax.random.split(key, 4000))
    unit = (draws.context + 0.15) / 0.6
    mean, variance = 0.5 / 2.0, 0.5 * 1.5 / (2.0**2 * 3.0)
    assert abs(float(unit.mean()) - mean) <= 5 * np.sqrt(variance / 4000)
    norms = jnp.linalg.norm(draws.b.reshape(4000, -1), axis=1)
    assert float(norms.max()) <= 4.0
    # The conditional law keeps its symmetry: every coordinate has mean 0 within 5 standard errors.
    assert float(jnp.abs(draws.b.mean(0)).max()) <= 5 / np.sqrt(4000)


@pytest.mark.x64
def test_heat_without_source_follows_the_exact_decay():
    """With one sine mode, one Crank-Nicolson step multiplies by (1 - z)/(1 + z), z = kappa dt lambda / 2."""
    n, i = 16, 300
    stream = linear.streams.heat(n)
    x = jnp.arange(1, n) / n
    mode = jnp.sin(jnp.pi * x)[:, None] * jnp.sin(jnp.pi * x)[None, :]
    carry = stream.init(jax.random.key(0))
    with_mode = stream.next(jax.random.key(0), carry._replace(solution=mode), jnp.int32(i))[1]
    without = stream.next(jax.random.key(0), carry._replace(solution=0 * mode), jnp.int32(i))[1]
    step = linear.solve(with_mode.op, with_mode.b - without.b, method=linear.methods.cg(), tol=1e-12)
    h = i * 1e-3 + 5e-4
    kappa = max(0.1 * np.sin(2 * np.pi * h), -10 * np.sin(2 * np.pi * h))
    z = kappa * 1e-3 / 2 * 8 * n**2 * np.sin(np.pi / (2 * n)) ** 2
    np.testing.assert_allclose(step.value, mode * (1 - z) / (1 + z), rtol=1e-9)
    kappa_at_start = max(0.1 * np.sin(2 * np.pi * i * 1e-3), -10 * np.sin(2 * np.pi * i * 1e-3))
    np.testing.assert_allclose(with_mode.context, kappa_at_start)


@pytest.mark.x64
def test_perona_malik_smooths_noise_and_keeps_the_edge(key):
    edge = jnp.where(jnp.arange(24) < 12, 0.2, 0.8)[None, :] * jnp.ones((16, 1))
    noisy = edge + 0.02 * jax.random.normal(key, edge.shape)
    stream = linear.streams.perona_malik(noisy[None], steps_per_image=20, contrast=0.05, last_step=1.0)
    _, state, record, _ = linear.tuned_sequence(
        key, stream, linear.methods.ssor_pcg, bandits.policies.fixed(1, arm=0), jnp.array([1.2]), num_rounds=20
    )
    final = state.carry.solution
    assert not bool(jnp.any(record.status)) and bool(jnp.all(jnp.diff(record.context) > 0))
    assert float(jnp.std(final - edge)) < 0.4 * float(jnp.std(noisy - edge))
    assert float(final[:, 12].mean() - final[:, 11].mean()) > 0.5
    np.testing.assert_allclose(final.mean(), noisy.mean(), rtol=1e-7)
    # Maximum principle: no value outside the range of the picture.
    assert float(final.min()) >= float(noisy.min()) and float(final.max()) <= float(noisy.max())


def test_perona_malik_turns_to_the_next_picture(key):
    pictures = jnp.stack([jnp.zeros((4, 5)), jnp.ones((4, 5))])
    stream = linear.streams.perona_malik(pictures, steps_per_image=3)
    carry = stream.init(key)
    seen = [float(stream.next(key, carry, jnp.int32(i))[1].b.mean()) for i in (0, 3, 6)]
    assert seen == [0.0, 1.0, 0.0]


# --- the paper's figures -----------------------------------------------------------------------------------


@pytest.mark.x64
@pytest.mark.slow
def test_ordering_of_the_policies_on_a_short_stream():
    """1500 rounds, one seed: instance-optimal < ChebCB < best fixed < Tsallis < uniform."""
    total = {name: float(run(0, HIGH, p, jnp.asarray(ARMS), 1500).cost.sum()) for name, p in policies().items()}
    fixed = float(run(0, HIGH, bandits.policies.fixed(20, arm=16), jnp.asarray(ARMS), 1500).cost.sum())
    oracle = float(run(0, HIGH, bandits.policies.fixed(1, arm=0), ORACLE, 1500).cost.sum())
    assert oracle < total["chebyshev"] < fixed < total["tsallis"] < total["uniform"]


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize(
    ("beta", "omega", "mean", "spread"),
    [
        (HIGH, 1.0, 611.7, 13.5),
        (HIGH, 1.8, 103.6, 0.54),
        (LOW, 1.65, 59.5, 0.4),
        (HIGH, None, 56.2, 0.65),
        (LOW, None, 41.8, 0.17),
    ],
)
def test_stream_statistics(beta, omega, mean, spread):
    """Mean iterations over 8 seeds of 5000 solves, within 4 of the published standard deviations."""
    arms = ORACLE if omega is None else jnp.asarray([omega])
    means = [float(run(seed, beta, bandits.policies.fixed(1, arm=0), arms, 5000).steps.mean()) for seed in range(8)]
    assert abs(np.mean(means) - mean) <= 4 * spread


@pytest.mark.x64
@pytest.mark.slow
@pytest.mark.parametrize(("beta", "best"), [(HIGH, 16), (LOW, 13)], ids=["high", "low"])
def test_policy_ratios(beta, best):
    """Total cost over that of the best fixed omega of the grid, mean of 8 seeds, 5000 solves each.

    ChebCB's lower bounds of the published bands, .62 and .76, are not asserted: fewer iterations are no failure.
    """
    high = beta == HIGH
    ratios = {name: [] for name in policies()}
    oracle, growth = [], []
    for seed in range(8):
        fixed = float(run(seed, beta, bandits.policies.fixed(20, arm=best), jnp.asarray(ARMS), 5000).cost.sum())
        oracle.append(float(run(seed, beta, bandits.policies.fixed(1, arm=0), ORACLE, 5000).cost.sum()) / fixed)
        for name, policy in policies().items():
            record = run(seed, beta, policy, jnp.asarray(ARMS), 5000)
            ratios[name].append(float(record.cost.sum()) / fixed)
            if name == "tsallis":
                reference = run(seed, beta, bandits.policies.fixed(20, arm=best), jnp.asarray(ARMS), 1250).cost.sum()
                early = float(record.cost[:1250].sum() - reference) / 1250
                growth.append((float(record.cost.sum()) - fixed) / 5000 / early)
    mean = {name: np.mean(values) for name, values in ratios.items()}
    print({name: round(float(v), 3) for name, v in mean.items()}, "oracle", round(float(np.mean(oracle)), 3), growth)
    assert 1.05 <= mean["tsallis"] <= (1.22 if high else 1.20)
    assert mean["chebyshev"] <= (0.71 if high else 0.87)
    assert (0.95 if high else 1.04) <= mean["binned"] <= (1.05 if high else 1.15)
    assert np.mean(oracle) < mean["chebyshev"] < 1 < mean["tsallis"] < mean["uniform"]
    assert max(growth) <= 0.55


@pytest.mark.x64
@pytest.mark.slow
def test_probabilities_of_every_round():
    r"""5000 rounds of Tsallis-INF: p sums to 1, is what was drawn from, and solves the defining equation.

    From $p_i = 4 / (\eta (L_i - x))^2$: $p_i^{-1/2} - p_j^{-1/2} = \eta (L_i - L_j) / 2$, whatever x is.
    """
    stream, policy = linear.streams.shifted_laplacian((10, 10), beta=HIGH), policies()["tsallis"]
    key, arms = jax.random.key(0), jnp.asarray(ARMS)

    def step(state, _):
        before = state.policy
        losses = before.losses / jnp.maximum(before.total / jnp.maximum(before.rounds, 1), 1e-9)
        eta = 2 / jnp.sqrt(before.rounds + 1.0)
        state, record = linear.tuned_step(key, state, stream, linear.methods.sor, policy, arms)
        return state, (losses, eta, bandits.probabilities.tsallis(losses, eta), record)

    start = linear.tuned_init(key, stream, policy)
    _, (losses, eta, p, record) = jax.jit(lambda s: jax.lax.scan(step, s, length=5000))(start)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    drawn = jnp.take_along_axis(p, record.action[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(jnp.exp(record.log_prob), drawn, rtol=1e-9)
    gap = losses - losses.min(1, keepdims=True)
    root = p**-0.5
    np.testing.assert_allclose(root - root.min(1, keepdims=True), eta[:, None] * gap / 2, rtol=1e-6, atol=1e-6)


@pytest.mark.x64
@pytest.mark.slow
def test_policies_on_the_heat_stream():
    ssor = Partial(bind(linear.methods.ssor_pcg, sweep_first="backward"))
    limits = {
        "tsallis": (bandits.policies.tsallis_inf(20, floor=1.0), 30_000, 32_000),
        "binned": (
            bandits.wrappers.binned(bandits.policies.tsallis_inf(20, floor=1.0), 6, low=0.0, high=10.0),
            28_500,
            31_000,
        ),
        "chebyshev": (bandits.policies.cheb_cb(20, low=0.0, high=10.0, floor=1.0), 0, 26_500),
    }
    for name, (policy, low, high) in limits.items():
        totals = []
        for seed in range(3):
            record = linear.tuned_sequence(
                jax.random.key(seed), linear.streams.heat(25), ssor, policy, jnp.asarray(ARMS), num_rounds=5000
            ).history
            totals.append(int(record.steps.sum()))
        assert low <= np.mean(totals) <= high, (name, totals)
