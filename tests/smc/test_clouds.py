"""Clouds kept at chosen times, and moves that return more particles than they take."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import smc
from smc.known import CHAIN, EMISSION, HMM, HMM_LOG_Z, SYMBOLS, linear, series
from tolerances import STANDARD_ERRORS


def test_clouds_at_chosen_times_are_those_of_the_history(key):
    """By positions, by Booleans, over a run that goes on, and in a host loop; other times compile nothing again."""
    y, stored = series()[:10], ("particles", "log_weights")
    whole = smc.run(key, linear(), y, num_particles=16, store=stored, keep_at=(0, 3, 9))

    def check(kept, times):
        np.testing.assert_array_equal(kept.particles, whole.history.particles[np.array(times)])
        np.testing.assert_array_equal(kept.log_weights, whole.history.log_weights[np.array(times)])

    check(whole.kept, [0, 3, 9])
    mask = np.isin(np.arange(10), (2, 4, 5))
    check(smc.run(key, linear(), y, num_particles=16, store=stored, keep_at=mask).kept, [2, 4, 5])
    begun = smc.run(key, linear(), y[:4], num_particles=16)
    rest = smc.run(key, linear(), y[4:], num_particles=16, state=begun.state, keep_at=[0, 5])
    check(rest.kept, [4, 9])
    seen = []
    driven = smc.run(
        key, linear(), y, num_particles=16, store=stored, keep_at=(0, 3, 9), progress=lambda *a: seen.append(a)
    )
    assert seen and driven.kept.particles.shape == (3, 16) and begun.kept is None
    np.testing.assert_array_equal(driven.kept.particles, driven.history.particles[np.array([0, 3, 9])])


# --- more particles come out than went in --------------------------------------------------------------------


def _many_children(key, x, log_weights, y):
    """Four children of each of M parents, child i of parent i mod M; the weights are the parents'."""
    assert log_weights.shape == x.shape
    x = jnp.tile(x, 4)
    x = jax.random.categorical(key, jnp.log(jnp.asarray(CHAIN, jnp.float32))[x]).astype(jnp.int32)
    return x, jnp.log(jnp.asarray(EMISSION, jnp.float32))[x, y], None


MANY = HMM._replace(move=_many_children)


@pytest.mark.parametrize("look_ahead", [False, True])
def test_the_constant_is_unbiased_with_children(look_ahead, key):
    """Five parents of twenty children, resampled at every step; with a look-ahead the weights make up for it."""
    model = MANY._replace(look_ahead=lambda x, w, y: 0.3 * x.astype(jnp.float32)) if look_ahead else MANY

    def run(key):
        return smc.run(key, model, SYMBOLS, num_particles=20, num_resampled=5, ess_threshold=0.0)

    result = jax.jit(jax.vmap(run))(jax.random.split(key, 1500))
    ratio = np.exp(np.asarray(result.log_z, np.float64) - HMM_LOG_Z)
    assert abs(ratio.mean() - 1) < STANDARD_ERRORS * ratio.std() / np.sqrt(1500)
    assert np.all(result.history.resampled[:, 1:]) and not np.any(result.status)


def _counted(key, num, y):
    return jnp.arange(num), jnp.where(jnp.arange(num) == 5, 3.0, 0.0) * y


def _counted_move(key, x, log_weights, y):
    return jnp.concatenate([x, x + 100, x + 200]), jnp.full(6, y), None


def test_children_belong_to_the_parent_that_many_places_before(key):
    """Two parents of six children; weights that hold no law count as equal."""
    model = smc.Model(_counted, _counted_move)
    run = jax.jit(lambda y: smc.run(key, model, y, num_particles=6, num_resampled=2, store="ancestors"))
    result = run(jnp.ones(2))
    parents = np.asarray(result.history.ancestors[1])
    np.testing.assert_array_equal(parents, np.tile(parents[:2], 3))
    np.testing.assert_array_equal(result.value.particles, parents + np.repeat([0, 100, 200], 2))
    np.testing.assert_array_equal(result.state.eves, parents)
    assert 5 in parents
    lost = run(jnp.array([-np.inf, 1.0]))
    assert len(set(np.asarray(lost.state.eves[:2]))) == 2  # of equal weights systematic resampling takes no one twice
    assert np.all(np.isfinite(lost.value.log_weights)) and lost.log_z == -np.inf


def test_a_step_taken_live_has_children_too(key):
    y, options = SYMBOLS, dict(num_resampled=5)
    whole = smc.run(key, MANY, y[:2], num_particles=20, **options)
    state, _ = smc.init(key, MANY, y[0], num_particles=20)
    state, _ = smc.step(key, MANY, state, y[1], **options)
    np.testing.assert_array_equal(state.cloud.particles, whole.value.particles)
    np.testing.assert_allclose(state.log_z, whole.state.log_z, rtol=1e-6)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (ValueError, "num_resampled must divide", dict(num_resampled=4)),
        (ValueError, "num_resampled must be an int", dict(num_resampled=0)),
        (TypeError, "float for each of 6", dict(num_resampled=2)),
        (ValueError, "keep_at must be increasing times from 0 to 2", dict(keep_at=())),
        (ValueError, "keep_at must be", dict(keep_at=(0, 3))),
        (ValueError, "keep_at must be", dict(keep_at=(1, 0))),
        (ValueError, "keep_at must be", dict(keep_at=(-1,))),
        (ValueError, "keep_at must be", dict(keep_at=[0.5])),
        (ValueError, "keep_at must be", dict(keep_at=np.zeros(3, bool))),
        (ValueError, "keep_at must be", dict(keep_at=np.ones(2, bool))),
    ],
)
def test_bad_calls(error, match, change, key):
    with pytest.raises(error, match=match):
        smc.run(key, linear(), jnp.zeros(3), num_particles=6, **change)


def test_traced_times_are_refused(key):
    with pytest.raises(TypeError, match="keep_at must be concrete"):
        jax.jit(lambda t: smc.run(key, linear(), jnp.zeros(3), num_particles=6, keep_at=t))(jnp.array([1]))
