"""Single steps, chunks and checkpoints give the whole run; what descends; weights that hold no law; bad calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import smc
from jaxsci.core import status
from smc.known import kalman, linear, moments, series
from tolerances import STANDARD_ERRORS


def test_chunks_and_single_steps_give_the_whole_run(key):
    y, model = series()[:12], linear()
    whole = smc.run(key, model, y, num_particles=64, store="particles")
    state, steps = smc.init(key, model, y[0], num_particles=64)[0], []
    for value in y[1:5]:
        state, taken = smc.step(key, model, state, value)
        steps.append(taken)
    rest = smc.run(key, model, y[5:], num_particles=64, state=state, store="particles")
    np.testing.assert_array_equal(rest.value.particles, whole.value.particles)
    np.testing.assert_array_equal(rest.history.particles, whole.history.particles[5:])
    np.testing.assert_array_equal([s.log_increment for s in steps], whole.history.log_increment[1:5])
    np.testing.assert_allclose(rest.log_z, whole.log_z, rtol=1e-6)


def test_a_run_with_a_checkpoint_resumes_to_the_same_bits(key, tmp_path):
    y, seen = series()[:20], []

    def stop(done, total, text):
        seen.append(done)
        if done >= 5:
            raise KeyboardInterrupt

    options = dict(num_particles=64, statistics=moments)
    whole = smc.run(key, linear(), y, **options, checkpoint=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        smc.run(key, linear(), y, **options, checkpoint=tmp_path / "killed", progress=stop)
    again = smc.run(key, linear(), y, **options, checkpoint=tmp_path / "killed")
    assert 5 <= seen[-1] < 19
    chex_equal(whole, again)
    scanned = smc.run(key, linear(), y, **options)
    np.testing.assert_allclose(scanned.log_z, whole.log_z, atol=1e-3)
    with pytest.raises(ValueError):
        smc.run(key, linear((0.8, 1.0, 0.2)), y, **options, checkpoint=tmp_path / "killed")


def chex_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_never_resampling_is_importance_sampling_and_no_potential_gives_one(key):
    def init(key, num, scale):
        return jax.random.normal(key, (num,)), jnp.zeros(num)

    def move(key, x, log_weights, scale):
        return x + jax.random.normal(key, x.shape), scale * x, None

    model = smc.Model(init, move)
    flat = smc.run(key, model, jnp.zeros(4), num_particles=50)
    assert float(flat.log_z) == 0 and np.all(np.asarray(flat.history.ess) == 50)
    plain = smc.run(key, model, jnp.full(4, 0.5), num_particles=50, ess_threshold=0.0, store="particles")
    path = np.asarray(plain.history.particles)
    np.testing.assert_allclose(plain.log_z, np.log(np.exp(0.5 * path[:-1].sum(0)).mean()), rtol=1e-5)


def test_a_shifted_potential_shifts_log_z_alone(key):
    def move(key, x, log_weights, input):
        x, value, aux = linear().move(key, x, log_weights, input[0])
        return x, value + input[1], aux

    def init(key, num, input):
        return linear().init(key, num, input[0])

    y = series()[:10]
    shifts = np.stack([np.zeros(10), np.r_[0, 1024.0, np.zeros(8)]]).astype(np.float32)
    run = jax.jit(lambda s: smc.run(key, smc.Model(init, move), (jnp.asarray(y), s), num_particles=100))
    one, two = run(shifts[0]), run(shifts[1])
    np.testing.assert_allclose(two.log_z - one.log_z, 1024, atol=2e-3)
    np.testing.assert_allclose(two.value.log_weights, one.value.log_weights, atol=2e-2)


def test_the_whole_state_of_a_particle_descends(key):
    """Particles of several arrays stay together."""

    def init(key, num, y):
        x = jax.random.normal(key, (num, 2))
        return {"x": x, "sum": x.sum(1), "count": jnp.arange(num)}, x[:, 0]

    def move(key, p, log_weights, y):
        return p, p["x"][:, 1], {"mean": p["x"].mean()}

    result = smc.run(key, smc.Model(init, move), jnp.zeros(4), num_particles=30, ess_threshold=1.0, store=("aux",))
    value = result.value.particles
    np.testing.assert_allclose(value["x"].sum(1), value["sum"], rtol=1e-6)
    np.testing.assert_array_equal(value["count"], result.state.eves)
    assert result.history.aux["mean"].shape == (3,) and result.history.ess.shape == (4,)


def test_weighted_output_fed_back_has_the_same_law(key):
    """Going on from the weighted cloud, and from equally weighted particles made of it, estimate the same mean."""
    y = series()[:6]
    exact = kalman(y)[0][-1, 0]

    def run(key):
        first, second, third = jax.random.split(key, 3)
        result = smc.run(first, linear(), y[:3], num_particles=200)
        on = smc.run(first, linear(), y[3:], num_particles=200, state=result.state, statistics=moments)
        drawn = smc.resample_to_uniform(second, result)
        cloud = smc.Cloud(drawn, jnp.zeros(200))
        fresh = smc.run(third, linear(), y[3:], num_particles=200, statistics=moments,
                        state=result.state._replace(cloud=cloud, ess=jnp.float32(200.0)))  # fmt: skip
        return on.history.statistics[0][-1], fresh.history.statistics[0][-1]

    means = np.stack(jax.jit(jax.vmap(run))(jax.random.split(key, 500)))
    error = means.std(1) / np.sqrt(500)
    assert np.all(np.abs(means.mean(1) - exact) < STANDARD_ERRORS * error + 1e-3), (means.mean(1), exact, error)


# --- weights that hold no law ------------------------------------------------------------------------------

NAN, ALL, PLUS = status.NONFINITE_INPUT, status.DEGENERATE, status.NONFINITE_RESULT


def _bad_init(key, num, bad):
    return jax.random.normal(key, (num,)), jnp.zeros(num)


def _bad_move(key, x, log_weights, bad):
    x = x + jax.random.normal(key, x.shape)
    return x, jnp.where(bad[0], bad[1], -x * x), None


@jax.jit
def _bad_run(key, inputs):
    return smc.run(key, smc.Model(_bad_init, _bad_move), inputs, num_particles=20, ess_threshold=1.0, store="ancestors")


@pytest.mark.parametrize(
    ("value", "code", "log_z"),
    [(-np.inf, ALL, -np.inf), (np.nan, NAN | ALL, -np.inf), (np.inf, PLUS, np.nan)],
)
def test_weights_without_a_law(value, code, log_z, key):
    bad = np.zeros((6, 20), bool)
    bad[2] = True
    result = jax.device_get(_bad_run(key, (bad, np.full(6, value, np.float32))))
    np.testing.assert_equal(result.log_z, np.float32(log_z))
    np.testing.assert_array_equal(result.history.status, [0, 0, code, 0, 0, 0])
    assert result.status == code and result.history.ess[2] == 0
    assert np.all(np.isfinite(result.value.particles)) and np.all(np.isfinite(result.value.log_weights))
    # The step after goes on from equal weights; nobody is copied.
    assert np.all(np.isfinite(np.delete(result.history.log_increment, 2)))
    assert np.all(result.history.ess[3:] > 1)


def test_one_bad_weight(key):
    bad = np.zeros((6, 20), bool)
    bad[2, 3] = True
    nan = jax.device_get(_bad_run(key, (bad, np.full(6, np.nan, np.float32))))
    zero = jax.device_get(_bad_run(key, (bad, np.full(6, -np.inf, np.float32))))
    assert nan.status == NAN and zero.status == 0 and not np.any(nan.history.ancestors[3] == 3)
    np.testing.assert_array_equal(nan.value.particles, zero.value.particles)
    assert np.isfinite(nan.log_z) and nan.log_z == zero.log_z
    plus = _bad_run(key, (bad, np.full(6, np.inf, np.float32)))
    with pytest.raises(jaxsci.core.status.StatusError, match="non-finite result"):
        jaxsci.check(plus)


def test_the_threshold_is_strict(key):
    """Two of four weights are zero: the effective sample size is 2, which is not below half of 4."""

    def init(key, num, y):
        return jnp.arange(num), jnp.array([0.0, 0.0, -jnp.inf, -jnp.inf])

    def move(key, x, log_weights, y):
        return x, jnp.zeros(4), None

    run = jax.jit(lambda tau: smc.run(key, smc.Model(init, move), jnp.zeros(2), num_particles=4, ess_threshold=tau))
    kept, drawn = run(0.5), run(0.51)
    np.testing.assert_array_equal(kept.history.ess, [2, 2])
    assert not kept.history.resampled[1] and drawn.history.resampled[1]
    np.testing.assert_array_equal(drawn.value.particles, [0, 0, 1, 1])


def test_a_threshold_for_each_input(key, tmp_path):
    """T numbers are read where they stand, in a scan, in a host loop and by a run that goes on."""
    shares, options = jnp.array([1.0, 0.0, 1.0, 0.0, 1.0]), dict(num_particles=8)
    whole = smc.run(key, linear(), series()[:5], ess_threshold=shares, **options)
    np.testing.assert_array_equal(whole.history.resampled, [False, False, True, False, True])
    looped = smc.run(key, linear(), series()[:5], ess_threshold=shares, checkpoint=tmp_path, **options)
    np.testing.assert_array_equal(looped.history.resampled, whole.history.resampled)
    rest = smc.run(key, linear(), series()[5:8], state=whole.state, ess_threshold=shares[:3], **options)
    np.testing.assert_array_equal(rest.history.resampled, [True, False, True])
    with pytest.raises(ValueError, match="a number or one for each of 3 inputs, got shape"):
        smc.run(key, linear(), series()[:3], ess_threshold=shares, **options)


def test_one_particle_and_one_input(key):
    one = smc.run(key, linear(), series()[:3], num_particles=1, ess_threshold=1.0)
    assert one.value.particles.shape == (1,) and np.isfinite(one.log_z) and np.all(one.history.ess == 1)
    short = smc.run(key, linear(), series()[:1], num_particles=7, store=("ancestors", "aux"))
    assert short.history.ess.shape == (1,) and int(short.status) == 0 and short.history.ancestors.shape == (1, 7)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("error", "match", "change"),
    [
        (TypeError, "must be an smc.Model", dict(model=lambda: 0)),
        (TypeError, r"return \(particles, log_increment, aux\)", dict(move=lambda k, x, w, y: (x, w))),
        (TypeError, "float for each of 5", dict(move=lambda k, x, w, y: (x, jnp.zeros(3), None))),
        (TypeError, "float for each of 5", dict(move=lambda k, x, w, y: (x, jnp.zeros(5, jnp.int32), None))),
        (
            TypeError,
            r"was float32\[5\] and came back as int32\[5\]",
            dict(move=lambda k, x, w, y: (x.astype(int), w, None)),
        ),
        (ValueError, "5 particles along its leading axis", dict(move=lambda k, x, w, y: (x[:3], w, None))),
        (TypeError, "keep the structure", dict(move=lambda k, x, w, y: ((x, x), w, None))),
        (TypeError, "float for each of 5", dict(look_ahead=lambda x, w, y: jnp.zeros(()))),
        (TypeError, r"return int32\[5\] ancestors", dict(resampler=lambda k, w, n: jnp.zeros(n))),
        (ValueError, "one length T >= 1", dict(inputs=jnp.zeros(0))),
        (ValueError, "one length T >= 1", dict(inputs=(jnp.zeros(2), jnp.zeros(3)))),
        (ValueError, "one length T >= 1", dict(inputs=None)),
        (ValueError, "num_particles must be an int", dict(num_particles=0)),
        (ValueError, "store must name", dict(store="weights")),
        (ValueError, "gradient must be one of", dict(gradient="ot")),
        (TypeError, "typed key", dict(key=0)),
    ],
)
def test_bad_calls(error, match, change, key):
    model = smc.Model(lambda k, n, y: (jax.random.normal(k, (n,)), jnp.zeros(n)), linear().move)
    model = model._replace(**{name: f for name, f in change.items() if name in model._fields})
    given = dict(key=key, model=model, inputs=jnp.zeros(3), num_particles=5) | change
    given = {name: value for name, value in given.items() if name not in model._fields}
    with pytest.raises(error, match=match):
        smc.run(given.pop("key"), given.pop("model"), given.pop("inputs"), **given)


# --- in place ----------------------------------------------------------------------------------------------


def test_in_place_the_same_offspring_stand_where_their_parents_survive(key):
    """Particles that do not move, large and small: the ones that survive are where they were."""
    rng = np.random.default_rng(0)
    wide, weights = rng.standard_normal((40, 600)).astype(np.float32), rng.standard_normal(40).astype(np.float32)
    model = smc.Model(
        lambda key, num, t: ({"wide": jnp.asarray(wide), "index": jnp.arange(num)}, jnp.asarray(weights)),
        lambda key, x, log_weights, t: (x, x["wide"][:, 0], None),
    )
    options = dict(num_particles=40, ess_threshold=1.0, store="ancestors")
    plain, settled = (smc.run(key, model, jnp.arange(4), in_place=flag, **options) for flag in (False, True))
    before, after = (np.asarray(r.history.ancestors) for r in (plain, settled))
    np.testing.assert_array_equal(before[1], np.sort(after[1]))
    for row in after:
        np.testing.assert_array_equal(row[row], row)
    index = np.asarray(settled.value.particles["index"])
    np.testing.assert_array_equal(settled.value.particles["wide"], wide[index])
    np.testing.assert_array_equal(index, settled.state.eves)
    with pytest.raises(ValueError, match="in_place needs ancestors of all particles"):
        smc.run(key, model, jnp.arange(4), num_particles=40, num_resampled=10, in_place=True)
