"""Training: the textbook update, streams that chunks and kills do not shift, honest statuses."""

import pathlib
import runpy
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import contracts
from jaxsci.core import checkpoint, status, train

ROOT = pathlib.Path(__file__).parents[2]


class Gradient(NamedTuple):
    """Plain gradient descent as a pair of functions: what train needs of an optimiser."""

    init: object
    update: object


DESCENT = Gradient(lambda p: (), lambda g, s, p: (jax.tree.map(lambda a: -0.1 * a, g), s))


def square(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params["w"] + params["b"] - y) ** 2)


def draw(key, i):
    x = jax.random.normal(key, (16, 3))
    return x, x @ jnp.array([1.0, -2.0, 0.5]) + 0.25


PARAMS = {"w": jnp.zeros(3), "b": jnp.float32(0)}
ADAM = optax.adam(0.1)  # one object: programs are shared between tests
MESH = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))


# --- truth -------------------------------------------------------------------------------------------------


@pytest.mark.x64
def test_gradient_descent_on_a_quadratic_is_the_closed_form():
    # loss = a (w - c)^2 / 2: w_n - c = (1 - .1 a)^n (w_0 - c)
    a, c, w = 3.0, 0.7, jnp.float64(2.0)
    loss = lambda p, batch, key: a * (p - c) ** 2 / 2  # noqa: E731
    result = train.run(jax.random.key(0), loss, w, lambda key, i: (), optimizer=DESCENT, num_steps=20)
    expected = c + (1 - 0.1 * a) ** np.arange(21) * (2.0 - c)
    np.testing.assert_allclose(result.value, expected[20], rtol=1e-13)
    np.testing.assert_allclose(result.history, a * (expected[:20] - c) ** 2 / 2, rtol=1e-12)
    assert int(result.state.step) == 20 and int(result.status) == 0


def test_equals_a_python_loop_over_optax(key):
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.05))
    result = train.run(key, square, PARAMS, draw, optimizer=optimizer, num_steps=30)
    batch_of = jax.jit(draw)

    @jax.jit
    def step(params, opt_state, batch, key):
        value, grads = jax.value_and_grad(square)(params, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    params, opt_state, losses = PARAMS, optimizer.init(PARAMS), []
    for i in range(30):
        mine = jax.random.fold_in(key, i)
        batch, loss_key = batch_of(jax.random.fold_in(mine, 0), i), jax.random.fold_in(mine, 1)
        params, opt_state, value = step(params, opt_state, batch, loss_key)
        losses.append(value)
    contracts.assert_close(result.value, params, 1e-5, "params")
    np.testing.assert_allclose(result.history, losses, rtol=1e-4, atol=1e-5)


def test_learns(key):
    result = train.run(key, square, PARAMS, draw, optimizer=ADAM, num_steps=300)
    np.testing.assert_allclose(result.value["w"], [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(result.value["b"], 0.25, atol=0.02)


# --- streams -----------------------------------------------------------------------------------------------


def test_chunks_and_single_steps_make_the_same_run(key):
    whole = train.run(key, square, PARAMS, draw, optimizer=ADAM, num_steps=12)
    first = train.run(key, square, PARAMS, draw, optimizer=ADAM, num_steps=6)
    second = train.run(key, square, None, draw, optimizer=ADAM, num_steps=6, state=first.state)
    contracts.assert_close(second.state, whole.state, 1e-5, "chunks")
    np.testing.assert_allclose(np.append(first.history, second.history), whole.history, rtol=1e-4)
    state, batch_of = train.init(PARAMS, optimizer=ADAM), jax.jit(draw)
    for i in range(12):
        batch = batch_of(jax.random.fold_in(jax.random.fold_in(key, i), 0), i)
        state, _ = train.step(key, state, batch, loss=square, optimizer=ADAM)
    contracts.assert_close(state, whole.state, 1e-5, "steps")


def test_a_vmapped_sweep_of_seeds_and_rates_equals_single_runs(key):
    def one(key, rate):
        optimizer = Gradient(
            jax.tree_util.Partial(lambda p: ()),
            jax.tree_util.Partial(lambda rate, g, s, p: (jax.tree.map(lambda a: -rate * a, g), s), rate),
        )
        return train.run(key, square, PARAMS, draw, optimizer=optimizer, num_steps=10)

    keys, rates = jax.random.split(key, 3), jnp.array([0.01, 0.1, 0.2])
    swept, single = jax.jit(jax.vmap(one))(keys, rates), jax.jit(one)
    single = [single(k, r) for k, r in zip(keys, rates)]
    contracts.assert_close(swept, jax.tree.map(lambda *a: jnp.stack(a), *single), 1e-5, "sweep")


@pytest.mark.x64
def test_differentiates_through_training():
    def final(scale):
        draw = lambda key, i: jnp.float64(i)  # noqa: E731
        loss = lambda p, batch, key: scale * (p - batch) ** 2  # noqa: E731
        return train.run(jax.random.key(0), loss, jnp.float64(1), draw, optimizer=DESCENT, num_steps=4).value

    shift = 1e-6
    expected = (final(0.5 + shift) - final(0.5 - shift)) / (2 * shift)
    np.testing.assert_allclose(jax.grad(final)(0.5), expected, rtol=1e-7)


# --- devices -----------------------------------------------------------------------------------------------


def with_metrics(params, batch, key):
    value = square(params, batch, key)
    return value, {"root": jnp.sqrt(value), "largest": jnp.max(jnp.abs(params["w"]))}


def test_two_devices_share_a_batch_and_train_as_one(key):
    alone = train.run(key, with_metrics, PARAMS, draw, optimizer=ADAM, num_steps=20)
    shared = train.run(key, with_metrics, PARAMS, draw, optimizer=ADAM, num_steps=20, mesh=MESH)
    contracts.assert_close(shared.state, alone.state, 1e-5, "state")
    losses, metrics = shared.history
    np.testing.assert_allclose(losses, alone.history[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["largest"], alone.history[1]["largest"], rtol=1e-5)
    # the mean over devices of what each computes from its rows: the root is below that of the whole
    assert np.all(metrics["root"] <= alone.history[1]["root"] * (1 + 1e-5))
    fitted = train.fit(key, with_metrics, PARAMS, draw, optimizer=ADAM, num_steps=20, mesh=MESH, progress=False)
    contracts.assert_close(fitted.state, shared.state, 1e-6, "fit")
    np.testing.assert_allclose(fitted.history[1]["largest"], metrics["largest"], rtol=1e-6)


def test_each_device_has_half_of_the_batch_and_a_stream_of_its_own(key):
    seen = []

    def loss(params, batch, key):
        seen.append(batch.shape)
        return jnp.mean(batch) * params, {"draw": jax.random.normal(key, ())}

    def run(mesh):
        return train.run(key, loss, 1.0, lambda key, i: jnp.ones(6), optimizer=DESCENT, num_steps=2, mesh=mesh)

    shared, alone = run(MESH), run(None)
    assert seen == [(3,), (6,)]
    np.testing.assert_allclose(shared.value, alone.value)
    first, second = (jax.random.fold_in(train._keys(key, 0)[1], i) for i in range(2))
    expected = (jax.random.normal(first, ()) + jax.random.normal(second, ())) / 2
    np.testing.assert_allclose(shared.history[1]["draw"][0], expected, rtol=1e-6)


# --- statuses, dtypes, compilations ------------------------------------------------------------------------


def test_a_step_that_is_not_finite_changes_nothing_but_the_status(key):
    def loss(p, batch, key):
        return jnp.where(batch == 2, jnp.nan, 1.0) * jnp.sum(p**2)

    def only_the_gradient(p, batch, key):  # at batch 2 the root is taken at 0, where its derivative is infinite
        return jnp.sum(jnp.sqrt(jnp.where(batch == 2, p - jax.lax.stop_gradient(p), p**4)))

    def run(function, num_steps, state=None):
        options = dict(optimizer=ADAM, num_steps=num_steps, state=state)
        return train.run(key, function, jnp.ones(2), lambda key, i: i, **options)

    for function in (loss, only_the_gradient):
        before, at = run(function, 2), run(function, 3)
        after = run(function, 2, at.state)
        contracts.assert_close(at.state[:2], before.state[:2], 0.0, "skipped")
        assert int(before.status) == 0 and int(at.status) == int(after.status) == status.NONFINITE_RESULT
        assert int(after.state.opt_state[0].count) == 4 and bool(jnp.all(jnp.isfinite(after.value)))
        assert bool(jnp.isnan(at.history[2])) == (function is loss)
        with pytest.raises(status.StatusError, match="non-finite result"):
            status.check(after)


@pytest.mark.parametrize(
    ("slope", "dtype", "optimizer"),
    [
        (1e3, "float32", optax.sgd(1e37)),  # the parameters overflow
        (1e20, "float32", optax.adam(0.1)),  # the second moment overflows: that parameter would never move again
        (300.0, "float16", optax.adam(0.1)),
        (1.0, "float16", optax.adam(0.1)),  # Adam's epsilon is zero in half precision: 0/0 from the second step on
    ],
)
def test_an_update_that_overflows_is_left_out(slope, dtype, optimizer, key):
    start = jnp.ones(2, dtype)

    def loss(p, i, key):
        return jnp.sum(p[:1] * jnp.where(i < 3, jnp.asarray(slope, dtype), 0))

    options = dict(optimizer=optimizer, num_steps=3)
    result = train.run(key, loss, start, lambda key, i: i, **options)
    assert int(result.status) == status.NONFINITE_UPDATE
    np.testing.assert_array_equal(result.value, start)
    contracts.assert_close(result.state.opt_state, optimizer.init(start), 0.0, "optimiser")
    fitted = train.fit(key, loss, start, lambda key, i: i, progress=False, **options)
    contracts.assert_close(fitted.state, result.state, 0.0, "fit")
    with pytest.raises(status.StatusError, match="non-finite update"):
        status.check(result)


def test_a_state_that_is_infinite_from_the_start_may_stay_so(key):
    class State(NamedTuple):
        best: jax.Array

    keep = Gradient(lambda p: State(jnp.float32(jnp.inf)), lambda g, s, p: (-0.1 * g, s))
    fall = Gradient(keep.init, lambda g, s, p: (-0.1 * g, State(jnp.abs(g))))
    for optimizer, best in ((keep, np.inf), (fall, 1.28)):
        result = train.run(key, lambda p, b, k: p**2, 1.0, lambda key, i: (), optimizer=optimizer, num_steps=3)
        assert int(result.status) == 0
        np.testing.assert_allclose(result.value, 0.8**3, rtol=1e-6)
        np.testing.assert_allclose(result.state.opt_state.best, best, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_dtypes_are_kept(dtype, key):
    params = jax.tree.map(lambda a: a.astype(dtype), PARAMS)
    loss = lambda p, batch, key: square(p, jax.tree.map(lambda a: a.astype(dtype), batch), key)  # noqa: E731
    result = train.run(key, loss, params, draw, optimizer=ADAM, num_steps=3)
    assert {a.dtype for a in jax.tree.leaves((result.value, result.history))} == {jnp.dtype(dtype)}
    assert jax.eval_shape(lambda s: s, result.state) == jax.eval_shape(lambda s: s, train.init(params, optimizer=ADAM))


def test_the_same_optimizer_compiles_once_and_the_loss_is_traced_once(key):
    calls = []

    def loss(params, batch, key):
        calls.append(1)
        return square(params, batch, key)

    run = lambda k, p: train.run(k, loss, p, draw, optimizer=ADAM, num_steps=4)  # noqa: E731
    jax.block_until_ready(run(key, PARAMS))
    other = jax.tree.map(lambda a: a + 1, PARAMS)
    with contracts.count_compilations() as events:
        jax.block_until_ready(run(jax.random.key(5), other))
    assert len(calls) == 1 and not events
    train.fit(key, loss, {**PARAMS, "b": 0.0}, draw, optimizer=ADAM, num_steps=40, progress=False)
    assert len(calls) == 1, "fit uses the same traced step"


# --- fit ---------------------------------------------------------------------------------------------------


def test_fit_equals_run(key, capsys):
    run = train.run(key, square, PARAMS, draw, optimizer=ADAM, num_steps=12)
    fit = train.fit(key, square, PARAMS, draw, optimizer=ADAM, num_steps=12)
    contracts.assert_close(fit.state, run.state, 1e-5, "state")
    np.testing.assert_allclose(fit.history, run.history, rtol=1e-4)
    assert "12/12" in capsys.readouterr().err
    train.fit(key, square, PARAMS, draw, optimizer=ADAM, num_steps=2, progress=False)
    assert not capsys.readouterr().err


_RUN = """
import jax, jax.numpy as jnp, numpy as np, optax
from jaxsci.core import train

def square(params, batch, key):
    x, y = batch
    return jnp.mean((x @ params["w"] - y + 0.01 * jax.random.normal(key)) ** 2)

def draw(key, i):
    x = jax.random.normal(key, (64, 50))
    return x, x.sum(1)

def fit(folder, num_steps, save_every):
    result = train.fit(
        jax.random.key(0), square, {"w": jnp.zeros(50)}, draw, optimizer=optax.adam(1e-3), num_steps=num_steps,
        checkpoint=folder, save_every=save_every, progress=False,
    )
    return np.asarray(result.value["w"]).tobytes(), result.history.tobytes()

if __name__ == "__main__":
    import sys
    fit(sys.argv[1], 10**9, 0.0)
"""


def test_kill_and_resume_give_the_same_bits(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_RUN)
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "killed")], cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while (checkpoint.latest(tmp_path / "killed") or 0) < 100 and time.monotonic() < deadline:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    reached = checkpoint.latest(tmp_path / "killed")
    num_steps = reached + 300
    fit = runpy.run_path(str(script))["fit"]
    resumed, whole = fit(tmp_path / "killed", num_steps, 60.0), fit(tmp_path / "whole", num_steps, 60.0)
    assert resumed == whole and len(whole[1]) == 4 * num_steps


def test_fit_continues_refuses_and_extends(key, tmp_path):
    options, optimizer = dict(checkpoint=tmp_path, progress=False), ADAM
    first = train.fit(key, square, PARAMS, draw, optimizer=optimizer, num_steps=10, **options)
    again = train.fit(key, square, PARAMS, draw, optimizer=optimizer, num_steps=10, **options)
    contracts.assert_close(again.state, first.state, 0.0, "finished")
    np.testing.assert_array_equal(again.history, first.history)
    longer = train.fit(key, square, PARAMS, draw, optimizer=optax.adam(0.1), num_steps=15, **options)
    whole = train.fit(key, square, PARAMS, draw, optimizer=optimizer, num_steps=15, progress=False)
    contracts.assert_close(longer.state, whole.state, 0.0, "extended")
    np.testing.assert_array_equal(longer.history, whole.history)

    def refused(match, key=key, loss=square, batches=draw, optimizer=optimizer, num_steps=15, **more):
        with pytest.raises(ValueError, match=match):
            train.fit(key, loss, PARAMS, batches, optimizer=optimizer, num_steps=num_steps, **options, **more)

    refused(r"num_steps must be >= the 15 steps in .*, got 14", num_steps=14)
    refused(r"\(step \(loss, optimizer\): saved <\w+>, now <\w+>\)", optimizer=optax.adam(0.2))
    refused(r"\(key: saved", key=jax.random.key(1))
    refused(r"\(step \(loss, optimizer\): saved", loss=lambda p, batch, key: 2 * square(p, batch, key))
    refused(r"\(batches: saved", batches=lambda key, i: jax.tree.map(lambda a: 2 * a, draw(key, i)))
    refused(r"\(width: saved absent, now 3\)", config={"width": 3})
    refused(r"\(devices that share a batch: saved 1, now 2\)", mesh=MESH)


def test_a_schedule_that_changes_its_closure_in_use_is_still_the_same_optimizer(key, tmp_path):
    def fitted(num_steps):  # a fresh optimiser each time, as in a new process
        optimizer = optax.sgd(optax.cosine_decay_schedule(0.1, 20))
        options = dict(optimizer=optimizer, num_steps=num_steps, progress=False)
        return train.fit(key, square, PARAMS, draw, checkpoint=tmp_path, **options)

    fitted(5)
    assert int(fitted(10).state.step) == 10


def test_a_rate_that_the_optimizer_keeps_in_its_state_counts(key, tmp_path):
    def fitted(rate):  # one program for every rate
        optimizer = optax.inject_hyperparams(optax.sgd)(rate)
        options = dict(optimizer=optimizer, num_steps=5, progress=False)
        return train.fit(key, square, PARAMS, draw, checkpoint=tmp_path, **options)

    fitted(0.1)
    with pytest.raises(ValueError, match="first state of the optimizer: saved"):
        fitted(0.2)


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_messages(key):
    def run(loss=square, params=PARAMS, optimizer=DESCENT, key=key, num_steps=2, batches=draw, mesh=None):
        return train.run(key, loss, params, batches, optimizer=optimizer, num_steps=num_steps, mesh=mesh)

    with pytest.raises(TypeError, match=r"params\['b'\] must be a floating array, got int32\[\]"):
        run(params={**PARAMS, "b": jnp.int32(1)})
    with pytest.raises(TypeError, match=r"params\['f'\] must be a floating array, got a \w+"):
        run(params={**PARAMS, "f": jnp.tanh})
    with pytest.raises(TypeError, match="optimizer must have functions init and update, got float"):
        run(optimizer=0.1)
    with pytest.raises(TypeError, match=r"loss must return a floating scalar, got float32\[3\]"):
        run(loss=lambda p, batch, key: p["w"])
    with pytest.raises(TypeError, match=r"optimizer.update must keep shapes and dtypes, but opt_state was int32\[\]"):
        run(optimizer=Gradient(lambda p: jnp.int32(0), lambda g, s, p: (g, s + 1.0)))
    with pytest.raises(TypeError, match="key must be a typed key, got int"):
        run(key=0)
    with pytest.raises(ValueError, match="num_steps must be an int >= 0, got -1"):
        run(num_steps=-1)
    with pytest.raises(ValueError, match="num_steps must be an int >= 0, got -1"):
        train.fit(key, square, PARAMS, draw, optimizer=DESCENT, num_steps=-1)
    with pytest.raises(ValueError, match=r"leading axis of batch\[0\] must be a multiple of the 2 devices .* \(3, 3\)"):
        run(batches=lambda key, i: (jnp.ones((3, 3)), jnp.ones(3)), mesh=MESH)
    with pytest.raises(ValueError, match=r"leading axis of batch must be .* got shape \(\)"):
        run(batches=lambda key, i: i, mesh=MESH)
    with pytest.raises(ValueError, match="the axes of mesh must be Auto"):
        explicit = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
        run(mesh=explicit)
    with pytest.raises(TypeError, match=r"metrics\['n'\] must be floating to be averaged over devices, got int32\[\]"):
        run(loss=lambda p, batch, key: (square(p, batch, key), {"n": jnp.int32(1)}), mesh=MESH)
