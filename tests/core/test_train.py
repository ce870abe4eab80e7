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
    assert resumed == whole and len(whole[1]) == 8 * num_steps


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


def test_ctrl_c_saves(key, tmp_path, monkeypatch):
    calls = []

    class Bar(train._NoBar):
        """A bar at whose third update somebody presses Ctrl-C."""

        def update(self, count):
            super().update(count)
            calls.append(count)
            if len(calls) > 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(train, "_bar", lambda progress, total: Bar())
    with pytest.raises(KeyboardInterrupt):
        train.fit(key, square, PARAMS, draw, optimizer=DESCENT, num_steps=10_000, checkpoint=tmp_path, save_every=1e9)
    assert checkpoint.latest(tmp_path) == sum(calls) > 0


def test_ctrl_c_between_a_state_and_its_losses_saves_a_pair(key, tmp_path, monkeypatch):
    calls, append = [], np.append

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return append(*args)

    def fit(checkpoint=tmp_path):
        options = {"optimizer": DESCENT, "num_steps": 300, "progress": False}
        return train.fit(key, square, PARAMS, draw, checkpoint=checkpoint, **options)

    monkeypatch.setattr(train.np, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit()
    monkeypatch.undo()
    np.testing.assert_array_equal(fit().history, fit(None).history)


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_messages(key):
    def run(loss=square, params=PARAMS, optimizer=DESCENT, key=key, num_steps=2):
        return train.run(key, loss, params, draw, optimizer=optimizer, num_steps=num_steps)

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
