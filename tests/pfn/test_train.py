"""Training: its data, its loss, what a kill and more devices change (nothing), and what it learns."""

import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial, keystr

from jaxsci import pfn
from jaxsci.core import checkpoint, train
from jaxsci.core.static import bind
from jaxsci.pfn import __main__, _presets, _train, priors, scores
from tolerances import STANDARD_ERRORS

CFG = pfn.config(1, 10, width=8, num_layers=1, num_heads=2)
BORDERS = np.linspace(-1.0, 1.5, 11)


def _line(noise, key, num_points, num_features):
    """y = x + noise: cheap to draw."""
    first, second = jax.random.split(key)
    x = jax.random.uniform(first, (num_points, num_features))
    return x, x[:, 0] + noise * jax.random.normal(second, (num_points,))


LINE = Partial(_line, jnp.float32(0.1))
SIZES = {"num_points": 8, "num_steps": 12, "batch_size": 4, "context": (0, 6), "learning_rate": 1e-2}


def fitted(folder=None, **options):
    """The smallest training."""
    options = SIZES | {"out": folder, "save_every": 0, "progress": False} | options
    return pfn.train(jax.random.key(3), LINE, CFG, BORDERS, **options)


def test_a_kill_changes_no_bit(tmp_path):
    whole = fitted(tmp_path)
    assert whole.history.shape == (12,) and int(whole.status) == 0
    assert whole.history[-4:].mean() < whole.history[:4].mean() - 0.1
    shutil.rmtree(tmp_path / "training" / "12")
    assert 0 < checkpoint.latest(tmp_path / "training") < 12
    resumed = fitted(tmp_path)
    chex.assert_trees_all_equal(resumed.value, whole.value)
    np.testing.assert_array_equal(resumed.history, whole.history)
    with pytest.raises(ValueError, match="batch"):
        fitted(tmp_path, batch_size=2)


def _felt(params):
    """All parameters but the biases of keys, which no softmax feels: their gradients are rounding errors, of which Adam
    makes steps of full length."""
    return [a for path, a in jax.tree_util.tree_leaves_with_path(params) if "['key']['bias']" not in keystr(path)]


@pytest.mark.full
def test_two_devices_are_one():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    chex.assert_trees_all_close(_felt(fitted(mesh=mesh).value.params), _felt(fitted().value.params), atol=1e-5)


@pytest.mark.full
def test_seeds_as_lanes_are_single_trainings():
    """The parts that `train` is made of, under vmap."""
    fixed = {"cfg": CFG, "full_support": True, "max_context": 6, "compute_dtype": None}
    loss = Partial(bind(_train._loss, **fixed), jnp.asarray(BORDERS, jnp.float32), None)
    shape = {"batch_size": 4, "num_points": 8, "num_features": 1, "context": (0, 6), "law": "uniform"}
    batches, optimizer = Partial(bind(_train._batch, **shape), LINE), _train._optimizer(12, 1e-2, 0.1, 1.0)

    def one(key):
        start, mine = pfn.init(jax.random.fold_in(key, 0), CFG), jax.random.fold_in(key, 1)
        return train.run(mine, loss, start, batches, optimizer=optimizer, num_steps=12).value

    lanes = jax.jit(jax.vmap(one))(jnp.stack([jax.random.key(3), jax.random.key(4)]))
    first = jax.tree.map(lambda a: a[0], lanes)
    chex.assert_trees_all_close(_felt(first), _felt(fitted().value.params), atol=1e-5)


def _blank(key, num_points, num_features):
    return jnp.zeros((num_points, num_features)), jnp.zeros(num_points)


def test_the_batch(key):
    sizes = {"num_points": 4, "context": (0, 3)}
    four = jax.jit(lambda k: pfn.batch(k, LINE, batch_size=4, **sizes))(key)
    two = jax.jit(lambda k: pfn.batch(k, LINE, batch_size=2, **sizes))(key)
    chex.assert_trees_all_equal(jax.tree.map(lambda a: a[:2], four), two)
    for law, truth in (("uniform", np.full(4, 0.25)), ("weighted", np.array([0.12, 0.16, 0.24, 0.48]))):
        drawn = jax.jit(lambda k: pfn.batch(k, _blank, batch_size=10_000, law=law, **sizes))(key)[2]  # noqa: B023
        share = np.bincount(drawn, minlength=4) / 10_000
        assert (np.abs(share - truth) < STANDARD_ERRORS * np.sqrt(truth * (1 - truth) / 10_000)).all()


def test_the_loss_is_that_of_what_follows_the_context(key):
    """By hand from `apply`; a data set that failed counts as nothing."""
    params = pfn.init(key, CFG)
    x, y = (np.asarray(a) for a in pfn.batch(key, LINE, batch_size=3, num_points=8, context=(0, 6))[:2])
    n, y = np.array([2, 5, 4], np.int32), y.copy()
    parts = []
    for b in range(2):
        logits = pfn.apply(params, CFG, x[b], y[b], n[b], x[b])
        dist = pfn.bars.distribution(BORDERS.astype(np.float32), logits)
        parts.append(-np.mean(np.asarray(pfn.bars.log_prob(dist, y[b]))[n[b] :]))
    y[2, 7] = np.nan
    whole = jax.jit(lambda p, *data: jax.value_and_grad(pfn.loss)(p, CFG, data, borders=BORDERS.astype(np.float32)))
    value, slope = whole(params, x, y, n)
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-5)
    assert all(np.isfinite(a).all() for a in jax.tree.leaves(slope))


@pytest.mark.bad_input
def test_what_is_refused():
    for options, match in (
        ({"context": (0, 8)}, "fewest <= most < 8 points"),
        ({"law": "even"}, "law must be one of uniform, weighted"),
        ({"warmup": 2.0}, r"warmup must lie in \[0, 1\]"),
        ({"num_steps": 0}, "num_steps must be an int >= 1"),
    ):
        with pytest.raises(ValueError, match=match):
            fitted(**options)
    with pytest.raises(ValueError, match=r"borders must have shape \(11,\)"):
        pfn.train(jax.random.key(0), LINE, CFG, BORDERS[:4], **SIZES)
    with pytest.raises(ValueError, match="two values"):
        pfn.prior_borders(jax.random.key(0), _blank, 4, num_points=4, num_sets=5)


def test_the_command_line(tmp_path, monkeypatch, capsys):
    """Sizes as in `fitted`, so that little is compiled anew."""
    small = _presets.PRESETS["gp"]._replace(
        prior=lambda: LINE, num_points=8, context=(0, 6), batch_size=4, learning_rate=1e-2, num_buckets=10,
        ranges={}, measure=lambda key, model: {"n=0": {"gap": 0.5}},
    )  # fmt: skip
    monkeypatch.setitem(_presets.PRESETS, "gp", small)
    options = ["--steps", "12", "--width", "8", "--layers", "1", "--heads", "2", "--seed", "3"]
    assert __main__.main(["train", "--prior", "gp", "--out", str(tmp_path), *options]) == 0
    assert "12 steps" in capsys.readouterr().out
    about = pfn.about(tmp_path / "model.npz")
    assert about["figures"] == {"n=0": {"gap": 0.5}} and about["training"]["seed"] == 3
    assert pfn.load(tmp_path / "model.npz").config.num_buckets == 10
    with pytest.raises(SystemExit, match="batch"):
        __main__.main(["train", "--prior", "gp", "--out", str(tmp_path), *options, "--batch", "2"])


# --- what is learnt: minutes, so not in the quick suite -----------------------------------------------------


def _learnt(name, num_steps):
    preset = _presets.PRESETS[name]
    prior = preset.prior()
    borders = pfn.prior_borders(jax.random.key(0), prior, preset.num_buckets, num_points=preset.num_points)
    cfg = pfn.config(1, borders.size - 1, **preset.ranges)
    return pfn.train(
        jax.random.key(1), prior, cfg, borders, num_points=preset.num_points, num_steps=num_steps,
        batch_size=preset.batch_size, context=preset.context, learning_rate=preset.learning_rate, progress=False,
    ).value  # fmt: skip


@pytest.mark.full
def test_a_short_training_comes_near_the_exact_process():
    model = _learnt("gp", 300)
    gaps = _presets._gaps(jax.random.key(5), model)
    assert gaps["n=0"]["gap"] <= 0.06 and gaps["n=20"]["gap"] <= 0.9
    assert all(found["gap"] >= -3 * found["error"] for found in gaps.values())


@pytest.mark.slow
def test_a_long_training_comes_close_to_the_exact_process():
    gaps = _presets._gaps(jax.random.key(5), _learnt("gp", 4000))
    assert max(found["gap"] for found in gaps.values()) <= 0.15
    assert max(gaps[name]["gap"] for name in ("n=0", "n=1")) <= 0.05
    assert all(abs(found["coverage"] - 0.9) <= 0.03 for found in gaps.values())


@pytest.mark.slow
def test_curves_are_learnt():
    model = _learnt("lc", 1500)
    found = _presets._curve_scores(jax.random.key(5), model)
    for share, least in (("10 %", 1.35), ("20 %", 1.65), ("40 %", 1.80), ("80 %", 1.85)):
        assert least <= found[share]["score"] <= 2.581 + 3 * found[share]["error"]


@pytest.mark.full
def test_the_shipped_models_are_as_good_as_they_say():
    """Fewer data sets than were measured with; the bounds are those of the long trainings."""
    for n in (0, 20):
        gap = scores.gp_gap(
            jax.random.key(6), pfn.load("gp-1d-small"), _presets.gp_kernel(), np.int32(n), noise=0.01, num_sets=256
        )
        assert -3 * float(gap.error) <= float(gap.gap) <= (0.05 if n == 0 else 0.15) + 3 * float(gap.error)
    each = np.asarray(
        scores.log_score(
            jax.random.key(6), pfn.load("lc-small"), priors.curves(), np.int32(40), num_points=100, num_sets=256
        )
    )
    error = STANDARD_ERRORS * each.std() / 16
    assert 2.05 - error <= each.mean() <= 2.581 + error
