"""What policies say of themselves (statuses), decisions from logs, and contexts of the wrong kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import bandits, gp, linear
from jaxsci.core import status
from jaxsci.core.protocols import Decision

P, W = bandits.policies, bandits.wrappers
HUGE = np.full((3, 2), 1e30, np.float32)  # the squares of such losses are infinite in single precision
ARMS = jnp.linspace(1.0, 1.9, 3)
LOGGED = Decision(jnp.int32(1), jnp.float32(np.log(0.25)))


def _wrapped():
    return {
        "plain": P.ucb_v(2),
        "discounted": W.discounted(P.ucb_v(2)),
        "windowed": W.windowed(P.ucb_v(2), 2, context=0.5),
        "delayed": W.delayed(P.ucb_v(2), 2, delay=0, context=0.5),
        "binned": W.binned(P.ucb_v(2), 2, low=0.0, high=1.0),
        "encoded": W.encoded(P.ucb_v(2), lambda x: None),
        "choose": W.choose([P.uniform(2), P.ucb_v(2)], 1),
        "fallback": linear.physics_policy(jnp.array([1.0, 1.5]), low=0.0, high=1.0, fallback=P.ucb_v(2)),
    }


@pytest.mark.parametrize("name", ["plain", "discounted", "windowed", "delayed", "binned", "encoded", "choose"])
def test_trouble_inside_reaches_the_record_through_every_wrapper(name, key):
    """Losses of 1e30 overflow the sums of squares; costs of 1 leave every status at 0."""
    policy, contexts = _wrapped()[name], np.full(3, 0.5, np.float32)
    bad, good = (bandits.replay(key, costs, policy, contexts) for costs in (HUGE, np.ones_like(HUGE)))
    assert good.history.policy_status.tolist() == [0, 0, 0]
    assert bad.history.policy_status.tolist() == [status.NONFINITE_RESULT] * 3 and int(bad.status) == 0
    with pytest.raises(status.StatusError, match="history.policy_status: 3 of 3 failed"):
        jaxsci.check(bad)


def test_the_status_of_a_fallback_counts(key):
    policy = _wrapped()["fallback"]
    state = policy.init(key)
    broken = state._replace(fallback=state.fallback._replace(squares=jnp.full(2, jnp.inf)))
    assert (int(policy.status(state)), int(policy.status(broken))) == (0, status.NONFINITE_RESULT)


def test_a_policy_of_three_functions_has_the_default_status(key):
    ucb = P.ucb1(2)
    own = type(ucb)(ucb.init, ucb.select, ucb.update)
    assert own.status(own.init(key)) == 0
    assert own.status(own.init(key)._replace(total=jnp.array([0.0, jnp.nan]))) == status.NONFINITE_RESULT


def test_a_full_process_and_a_step_left_out_are_said(key):
    surrogate = bandits.regressors.gp_surrogate(jnp.eye(2), capacity=2, refit_steps=0)
    costs = np.array([[0.1, 0.9]] * 4, np.float32)
    history = bandits.replay(key, costs, P.gp_ucb(surrogate)).history
    assert [code & gp.FULL for code in history.policy_status.tolist()] == [0, 0, gp.FULL, gp.FULL]
    network = P.neu_square_cb(2, 2, hidden=(3,), learning_rate=1e38)
    history = bandits.replay(key, 1e3 * costs, network, jnp.broadcast_to(jnp.eye(2), (4, 2, 2))).history
    assert history.policy_status[-1] == status.NONFINITE_UPDATE


def test_tuned_sequence_keeps_the_policys_status(key):
    stream = linear.streams.shifted_laplacian((4, 4))
    found = linear.tuned_sequence(
        key, stream, linear.methods.sor, P.ucb_v(3), ARMS, num_rounds=2, tol=1e-4, cost=_huge_cost
    )
    assert found.history.policy_status.tolist() == [status.NONFINITE_RESULT] * 2 and int(found.status) == 0


def _huge_cost(result, parameter, context):
    return jnp.full_like(result.residual, 1e30)


# --- logs --------------------------------------------------------------------------------------------------


def _learners():
    return {
        "exp3": P.exp3(3),
        "exp3_ix": P.exp3_ix(3),
        "tsallis_inf": P.tsallis_inf(3),
        "binned": W.binned(P.exp3(3), 2, low=0.0, high=1.0),
        "discounted": W.discounted(P.exp3(3), discount=1.0),
        "choose": W.choose([P.exp3(3), P.ucb1(3)], 0),
        "cheb_cb": P.cheb_cb(3, low=0.0, high=1.0),
        "physics": linear.physics_policy(ARMS, low=0.0, high=1.0),
        "fallback": linear.physics_policy(ARMS, low=0.0, high=1.0, fallback=P.tsallis_inf(3)),
    }


@pytest.mark.parametrize("name", sorted(_learners()))
def test_policies_learn_from_a_log(name, key):
    """A decision of a log has an action and its probability, and no aux."""
    policy = _learners()[name]
    state = policy.init(key)
    after = policy.update(state, LOGGED, 0.5, 0.3)
    assert not all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(after)))
    assert jax.tree.structure(state) == jax.tree.structure(after) and int(policy.status(after)) == 0


def test_a_log_is_weighted_by_its_own_probability(key):
    """exp3: an arm played with probability 1/4 at a loss of .5 is charged 2."""
    state = P.exp3(3).update(P.exp3(3).init(key), LOGGED, 0.5)
    np.testing.assert_allclose(state.losses, [0, 2, 0], rtol=1e-6)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("policy", "match"),
    [
        (lambda: P.exp3_p(3, horizon=10), "exp3_p: .* without aux"),
        (lambda: W.delayed(P.exp3(3), 2), "Learn the log with the policy itself"),
    ],
)
def test_what_cannot_learn_a_log_says_so(policy, match, key):
    with pytest.raises(ValueError, match=match):
        policy().update(policy().init(key), LOGGED, 0.5)


# --- contexts ----------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "context", "got"),
    [
        ("lin", [1.0, 2.0], "a list; put it through jnp.asarray"),
        ("lin", (1.0, 2.0), "a tuple"),
        ("lin", {"a": 1.0}, "a dict"),
        ("lin", "ab", "a str"),
        ("lin", 1.0, r"one of shape \(\)"),
        ("cheb", [0.3], "a list"),
        ("binned", {"a": 0.3}, "a dict"),
        ("physics", (0.3,), "a tuple"),
        ("network", [[1.0, 2.0], [0.0, 1.0]], "a list"),
        ("gp", [1.0, 2.0], "a list"),
    ],
)
def test_a_context_that_is_no_array_is_named(name, context, got, key):
    policy = {
        "lin": P.lin_ucb(2, 2),
        "cheb": P.cheb_cb(2, low=0.0, high=1.0),
        "binned": W.binned(P.ucb1(2), 2, low=0.0, high=1.0),
        "physics": linear.physics_policy(ARMS, low=0.0, high=1.0),
        "network": P.neu_square_cb(2, 2, hidden=(3,)),
        "gp": P.gp_ucb(bandits.regressors.gp_surrogate(jnp.eye(2), capacity=2, context_size=2)),
    }[name]
    with pytest.raises(ValueError, match=f"context must be .*, got {got}"):
        policy.select(key, policy.init(key), context)
