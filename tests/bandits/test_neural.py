"""Neural bandits: the step equals a network written by hand, the closed perturbation its enumeration, digits learn."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import tolerances
from bandits import digits
from jaxsci import bandits
from jaxsci.bandits._neural import _objective, _predict
from jaxsci.core import tree
from jaxsci.nn import mlp

objective = jax.jit(_objective, static_argnames=("cfg", "log"))


@jax.jit
def start_of(model, key):
    """The model's first state; one program for all values of its hyper-parameters."""
    return model.init(key)


@jax.jit
def learnt(model, state, x, arm, y, weight=1.0):
    """The state after one loss, and what it predicts."""
    state = model.update(state, x, arm, y, weight)
    return state, model.predict(state, x)


# --- one step against a network written by hand ------------------------------------------------------------


def by_hand(params, start, x, y, *, log, perturbation):
    """Output, objective and gradients of a two-layer ReLU network of width m, back-propagated by hand."""
    d, m = params["kernel_0"].shape

    def forward(p):
        hidden = np.maximum(x @ p["kernel_0"], 0)
        return hidden, float(hidden @ p["kernel_1"][:, 0] / np.sqrt(m))

    hidden, out = forward(params)
    z = out - forward(start)[1]
    sigmoid = 1 / (1 + np.exp(-z))
    moved = {k: params[k] - start[k] for k in params}
    square = sum(float(np.sum(v**2)) for v in moved.values())
    c = perturbation**2 / (2 * np.sqrt(m))
    if log:
        value = -y * np.log(sigmoid) - (1 - y) * np.log(1 - sigmoid) + c * sigmoid * (1 - sigmoid) * square
        slope = sigmoid - y + c * square * sigmoid * (1 - sigmoid) * (1 - 2 * sigmoid)
        decay = 2 * c * sigmoid * (1 - sigmoid)
    else:
        value, slope, decay = (z + 0.5 - y) ** 2 / 2 + c * square, z + 0.5 - y, 2 * c
    back = params["kernel_1"][:, 0] / np.sqrt(m) * (hidden > 0)
    gradient = {
        "kernel_0": slope * np.outer(x, back) + decay * moved["kernel_0"],
        "kernel_1": slope * hidden[:, None] / np.sqrt(m) + decay * moved["kernel_1"],
        "bias_0": decay * moved["bias_0"],
        "bias_1": decay * moved["bias_1"],
    }
    return (sigmoid if log else z + 0.5), value, gradient


@pytest.mark.x64
@pytest.mark.parametrize("loss", ["square", "log"])
def test_a_step_is_the_projected_gradient_step_of_a_network_by_hand(loss, key):
    log, perturbation, rate, radius = loss == "log", 0.7, 0.4, 0.8
    model = bandits.regressors.network(
        3, 4, hidden=(6,), loss=loss, learning_rate=rate, perturbation=perturbation, radius=radius
    )
    x = np.asarray(jax.random.normal(key, (3, 4)))
    state = start_of(model, key)
    start = {k: np.asarray(v) for k, v in state.start.items()}
    assert 0.5 < np.std(start["kernel_0"]) < 1.5
    params, lengths = start, []
    for arm, y in ((0, 1.0), (2, 0.0), (0, 0.3), (1, 0.9), (2, 0.1)):
        state, predicted = learnt(model, state, x, arm, y)
        _, _, gradient = by_hand(params, start, x[arm], y, log=log, perturbation=perturbation)
        moved = {k: params[k] - rate * gradient[k] - start[k] for k in params}
        lengths.append(np.sqrt(sum(float(np.sum(v**2)) for v in moved.values())))
        params = {k: start[k] + moved[k] * min(1, radius / lengths[-1]) for k in params}
        for k in params:
            np.testing.assert_allclose(state.params[k], params[k], rtol=1e-10, atol=1e-12, err_msg=k)
        expected = [by_hand(params, start, row, y, log=log, perturbation=perturbation)[0] for row in x]
        np.testing.assert_allclose(predicted, expected, rtol=1e-10)
    assert min(lengths) < radius or not log
    assert float(tree.norm(tree.sub(state.params, state.start))) <= radius * (1 + 1e-12)


def test_the_ball_of_radius_zero_and_weight_zero_learn_nothing(key):
    x = jnp.eye(3, 4)
    for radius, weight in ((0.0, 1.0), (jnp.inf, 0.0)):
        model = bandits.regressors.network(3, 4, hidden=(6,), radius=radius)
        state = start_of(model, key)
        after, predicted = learnt(model, state, x, 1, 1.0, weight)
        np.testing.assert_array_equal(predicted, 0.5)
        chex.assert_trees_all_equal(after, state)


def test_a_step_that_is_not_finite_is_not_taken(key):
    x = jnp.eye(3, 4)
    model = bandits.regressors.network(3, 4, hidden=(6,), learning_rate=1e30)
    state = start_of(model, key)
    for arm, y in ((1, 1.0), (1, 0.0), (0, 1.0)):
        state, predicted = learnt(model, state, x, arm, y)
        chex.assert_tree_all_finite((state.params, predicted))


def test_log_loss_of_a_large_logit_is_finite():
    """A logit of -1e4 at y = 1 costs 1e4, where the logarithm of the sigmoid is -inf."""
    cfg = mlp.config(1, (1,), 1, activation="relu")
    zero = {"kernel_0": jnp.ones((1, 1)), "kernel_1": jnp.zeros((1, 1)), "bias_0": jnp.zeros(1), "bias_1": jnp.zeros(1)}
    far = zero | {"kernel_1": jnp.full((1, 1), -1e4)}
    value = objective(far, zero, None, jnp.ones(1), 1.0, jnp.float32(0.0), cfg=cfg, log=True)
    np.testing.assert_allclose(value, 1e4, rtol=1e-6)


# --- the perturbation --------------------------------------------------------------------------------------


def _all_signs(params):
    """Every sign vector of a tiny network, as a pytree with a leading axis."""
    leaves, structure = jax.tree.flatten(params)
    size = sum(a.size for a in leaves)
    table = np.array(list(itertools.product((-1, 1), repeat=size)), np.int8)
    cuts = np.split(table, np.cumsum([a.size for a in leaves])[:-1], axis=1)
    return structure.unflatten([jnp.asarray(c.reshape(len(table), *a.shape)) for c, a in zip(cuts, leaves)])


def _tiny():
    """A network of two hidden units, its parameters away from the start, and all its signs."""
    rng = np.random.default_rng(0)
    shapes = {"bias_0": (2,), "bias_1": (1,), "kernel_0": (2, 2), "kernel_1": (2, 1)}
    start, moves = ({k: jnp.asarray(rng.standard_normal(s)) for k, s in shapes.items()} for _ in range(2))
    params = {k: start[k] + 0.3 * moves[k] for k in start}
    return mlp.config(2, (2,), 1, activation="tanh"), start, params, _all_signs(start)


@pytest.mark.x64
def test_closed_perturbation_is_the_average_over_all_signs():
    """Exactly for the square loss; for the log loss the error is of fourth order, 16 times less at half c_p."""
    cfg, start, params, signs = _tiny()
    x = jnp.array([0.6, 0.8])

    def gap(perturbation, log):
        values = [
            objective(params, start, s, x, 0.2, jnp.asarray(perturbation), cfg=cfg, log=log) for s in (None, signs)
        ]
        return float(values[0] - values[1])

    assert abs(gap(0.5, False)) <= 1e-13
    coarse, fine = gap(0.4, True), gap(0.2, True)
    assert 12 < coarse / fine < 20, (coarse, fine)
    bare = objective(params, start, None, x, 0.2, jnp.asarray(0.0), cfg=cfg, log=False)
    assert float(objective(params, start, None, x, 0.2, jnp.asarray(0.5), cfg=cfg, log=False)) > float(bare) + 1e-3


@pytest.mark.x64
def test_sampled_perturbation_predicts_the_mean_of_the_perturbed_networks():
    """The signs are drawn once, by init; the prediction is the mean over them, and all signs together cancel."""
    cfg, start, params, every = _tiny()
    x = jnp.array([[0.6, 0.8], [1.0, 0.0]])
    model = bandits.regressors.network(2, 2, hidden=(2,), activation="tanh", perturbation=0.5, num_perturbations=3)
    state = start_of(model, jax.random.key(3))._replace(params=params, start=start)
    predict = jax.jit(_predict, static_argnames=("num_arms", "cfg", "log"))
    scale, sizes = jnp.asarray(0.5), {"num_arms": 2, "cfg": cfg, "log": False}
    plain = predict(scale, state._replace(signs=None), x, **sizes)
    shifts = [
        0.5 / 2**0.25 * sum(float(np.sum(np.asarray(params[k] - start[k]) * state.signs[k][s])) for k in params)
        for s in range(3)
    ]
    np.testing.assert_allclose(predict(scale, state, x, **sizes), plain + np.mean(shifts), rtol=1e-12)
    assert {int(v) for v in np.unique(np.concatenate([np.ravel(s) for s in state.signs.values()]))} == {-1, 1}
    np.testing.assert_allclose(predict(scale, state._replace(signs=every), x, **sizes), plain, rtol=1e-12)


# --- digits ------------------------------------------------------------------------------------------------


def test_neu_fast_cb_learns_digits_in_a_thousand_rounds():
    """One seed: far below the 900 mistakes of guessing, and still improving."""
    wrong = digits.mistakes(digits.neural(bandits.policies.neu_fast_cb(10, 640, hidden=(50,))), 1, 1000)[0]
    assert wrong.sum() < 600 and wrong[-200:].mean() < 0.6 * wrong[:200].mean()


def test_lin_ucb_learns_digits_in_a_thousand_rounds():
    wrong = digits.mistakes(bandits.policies.lin_ucb(10, 64), 1, 1000)[0]
    assert wrong.sum() < 400 and wrong[-200:].mean() < 0.3


@pytest.mark.slow
def test_mistakes_on_digits():
    """4000 rounds: the published means over 8 seeds, their order, and a greedy network's larger spread.

    Published: NeuFastCB 775 +- 87, NeuSquareCB 862 +- 72, greedy 1198 +- 402, LinUCB (alpha = 1) 462 +- 25. Spreads are
    compared over 32 seeds, the order of the two neural policies seed by seed over 64. NeuSquareCB then makes
    21 +- 13 mistakes more, 1.6 standard errors: the published order, but no difference that 8 seeds would show.
    """
    counts = {
        "LinUCB": digits.mistakes(bandits.policies.lin_ucb(10, 64), 8, 4000).sum(1),
        "NeuFastCB": digits.mistakes(digits.neural(bandits.policies.neu_fast_cb(10, 640)), 64, 4000).sum(1),
        "NeuSquareCB": digits.mistakes(digits.neural(bandits.policies.neu_square_cb(10, 640)), 64, 4000).sum(1),
        "greedy": digits.mistakes(digits.greedy(), 32, 4000).sum(1),
    }
    more = counts["NeuSquareCB"] - counts["NeuFastCB"]
    print("NeuSquareCB - NeuFastCB", more.mean(), "+-", more.std(ddof=1) / 8)
    eight = {name: float(c[:8].mean()) for name, c in counts.items()}
    mean, spread = ({n: float(f(c[:32])) for n, c in counts.items()} for f in (np.mean, lambda c: np.std(c, ddof=1)))
    print(eight, mean, spread)
    assert 650 <= eight["NeuFastCB"] <= 900
    assert abs(eight["LinUCB"] - 462) <= 5 * 25
    assert abs(eight["NeuSquareCB"] - 862) <= 5 * 72
    assert mean["LinUCB"] < mean["NeuFastCB"] and more.mean() > 0
    assert max(mean["NeuFastCB"], mean["NeuSquareCB"]) < mean["greedy"] < 0.5 * 3600
    assert spread["greedy"] >= 2 * max(spread["NeuFastCB"], spread["NeuSquareCB"])


@pytest.mark.slow
def test_perturbation_and_blind_exploration_on_digits():
    """Published over 8 seeds: NeuSquareCB at g = 10 with the perturbation c_p = .1 in closed form 1244 +- 104, without
    915 +- 141; a greedy network that explores with epsilon = .05 899 +- 94."""
    square = {c: bandits.policies.neu_square_cb(10, 640, exploration=10.0, perturbation=c) for c in (0.0, 0.1)}
    counts = {c: digits.mistakes(digits.neural(policy), 8, 4000).sum(1) for c, policy in square.items()}
    counts["epsilon"] = digits.mistakes(digits.greedy(0.05), 8, 4000).sum(1)
    for name, (mean, spread) in {0.0: (915, 141), 0.1: (1244, 104), "epsilon": (899, 94)}.items():
        own = counts[name].std(ddof=1)
        print(name, counts[name].mean(), own)
        assert abs(counts[name].mean() - mean) <= tolerances.STANDARD_ERRORS * np.hypot(own, spread) / np.sqrt(8)
    more = counts[0.1] - counts[0.0]
    assert more.mean() > 2 * more.std(ddof=1) / np.sqrt(8), "the perturbation costs mistakes"


@pytest.mark.slow
@pytest.mark.parametrize(("alpha", "published"), [(0.1, 1110), (0.3, 747), (1.0, 462)])
def test_lin_ucb_on_digits_with_rewards(alpha, published):
    """Losses 0 and -1 (a reward for the right digit), as published: unseen digits then do not look best of all."""
    policy = bandits.policies.lin_ucb(10, 64, alpha=alpha)
    total = digits.mistakes(policy._replace(update=Partial(_update_lowered, policy)), 8, 4000).sum(1)
    print(total.mean(), total.std(ddof=1))
    assert abs(total.mean() - published) <= tolerances.STANDARD_ERRORS * total.std(ddof=1) / np.sqrt(8)


def _update_lowered(policy, state, decision, loss, context=None, weight=1.0):
    return policy.update(state, decision, loss - 1, context, weight)


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: bandits.regressors.network(0, 2), "num_arms must be an int >= 1"),
        (lambda: bandits.regressors.network(2, 0), "sizes must be integers >= 1"),
        (lambda: bandits.regressors.network(2, 2, loss="hinge"), "loss must be one of"),
        (lambda: bandits.regressors.network(2, 2, activation="sine"), "activation must be one of"),
        (lambda: bandits.regressors.network(2, 2, num_perturbations=-1), "num_perturbations must be an int >= 0"),
        (
            lambda: _select(bandits.policies.neu_square_cb(3, 2, hidden=(2,)), jnp.ones(2)),
            r"an array of shape \(3, 2\)",
        ),
        (lambda: _select(bandits.policies.neu_fast_cb(3, 2, hidden=(2,)), None), "got none"),
    ],
)
def test_static_misuse_raises(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def _select(policy, context):
    key = jax.random.key(0)
    return policy.select(key, policy.init(key), context)
