"""The host's scan: equal to `lax.scan`, resumed to the same bits after any end, and refusals that say what differs."""

import functools
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import contracts
from jaxsci.core import checkpoint, drive

START = {"x": np.linspace(0.0, 1.0, 3, dtype=np.float32), "key": jax.random.key(3)}


def walk(rate, state, i):
    noise = jax.random.normal(jax.random.fold_in(state["key"], i), (3,))
    x = (1 - rate) * state["x"] + rate * noise
    return {**state, "x": x}, {"x": x, "count": i}


STEP = Partial(walk, jnp.float32(0.1))
scan = functools.partial(drive.scan, progress=False)


@functools.cache
def whole(num_steps=300):
    return scan(STEP, START, num_steps)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(contracts.host, a), jax.tree.map(contracts.host, b))


# --- truth -------------------------------------------------------------------------------------------------


def test_equals_scan():
    state, history = whole()
    expected, stacked = jax.jit(lambda s: jax.lax.scan(STEP, s, jnp.arange(300)))(START)
    contracts.assert_close(state["x"], expected["x"], 1e-5, "state")
    contracts.assert_close(history["x"], stacked["x"], 1e-5, "history")
    np.testing.assert_array_equal(history["count"], np.arange(300))
    assert isinstance(history["x"], np.ndarray) and history["x"].dtype == np.float32


def test_no_steps_and_nothing_returned():
    state, history = scan(STEP, START, 0)
    assert_same(state, START)
    assert history["x"].shape == (0, 3) and history["count"].dtype == np.int32
    state, history = scan(lambda s, i: (s + i, ()), jnp.int32(0), 4)
    assert int(state) == 6 and history == ()


def test_compiles_once_for_all_values_and_traces_once():
    calls = []

    def step(rate, s, i):
        calls.append(1)
        return s * rate, s

    scan(Partial(step, jnp.float32(0.5)), jnp.ones(2), 40)
    with contracts.count_compilations() as events:
        state, _ = scan(Partial(step, jnp.float32(2.0)), jnp.ones(2), 3)
    np.testing.assert_array_equal(state, 8.0)
    assert len(calls) == 1 and not events


# --- ends and resumes --------------------------------------------------------------------------------------


def stop_at(steps):
    def progress(done, total, text):
        if done >= steps:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_saves_and_the_next_call_continues_to_the_same_bits(tmp_path):
    for steps in (1, 60):
        with pytest.raises(KeyboardInterrupt):
            drive.scan(STEP, START, 300, checkpoint=tmp_path, save_every=1e9, progress=stop_at(steps))
        assert steps <= checkpoint.latest(tmp_path) < 300
    assert_same(scan(STEP, START, 300, checkpoint=tmp_path), whole())
    assert_same(scan(STEP, START, 300, checkpoint=tmp_path), whole())  # finished: nothing is left to do
    assert_same(scan(STEP, START, 320, checkpoint=tmp_path), whole(320))


def test_ctrl_c_between_a_state_and_its_outputs_saves_a_pair(tmp_path, monkeypatch):
    calls, reached = [], drive._Reached

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return reached(*args)

    monkeypatch.setattr(drive, "_Reached", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scan(STEP, START, 300, checkpoint=tmp_path)
    monkeypatch.undo()
    assert_same(scan(STEP, START, 300, checkpoint=tmp_path), whole())


def test_an_error_in_the_text_loses_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        scan(STEP, START, 300, checkpoint=tmp_path, text=lambda out: str(1 // int(out["count"] < 9)))
    assert 9 <= checkpoint.latest(tmp_path) < 300
    assert_same(scan(STEP, START, 300, checkpoint=tmp_path), whole())


_OTHER = """
import sys, time
import jax.numpy as jnp
from jaxsci.core import drive

def wait(done, total, text):
    if done >= 20:
        print("ready", flush=True)
        time.sleep(60)

drive.scan(lambda s, i: (s + i, s), jnp.float32(0), 500, checkpoint=sys.argv[1], save_every=0.0, progress=wait)
"""


def test_a_folder_in_use_is_refused_and_one_of_a_killed_process_is_not(tmp_path):
    command = [sys.executable, "-c", _OTHER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=pathlib.Path(__file__).parents[2], stdout=subprocess.PIPE, env=os.environ)
    try:
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(RuntimeError, match=rf"drive.scan: process {process.pid} is writing into"):
            scan(lambda s, i: (s + i, s), jnp.float32(0), 500, checkpoint=tmp_path)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert checkpoint.latest(tmp_path) > 0
    state, history = scan(lambda renamed, i: (renamed + i, renamed), jnp.float32(0), 500, checkpoint=tmp_path)
    assert float(state) == 499 * 250
    np.testing.assert_array_equal(history, np.arange(500) * (np.arange(500) - 1) / 2)


# --- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.bad_input
def test_messages(tmp_path):
    scan(STEP, START, 5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"num_steps must be >= the 5 steps in .*, got 4"):
        scan(STEP, START, 4, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another configuration \(step: saved <\w+>, now <\w+>\)"):
        scan(Partial(walk, jnp.float32(0.2)), START, 9, checkpoint=tmp_path)
    with pytest.raises(ValueError, match=r"\(first state: saved"):
        scan(STEP, {**START, "key": jax.random.key(4)}, 9, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="f: num_steps must be an int >= 0, got 2.5"):
        scan(STEP, START, 2.5, caller="f")
    with pytest.raises(TypeError, match=r"step must return \(state, out\), got dict"):
        scan(lambda s, i: s, START, 3)
    with pytest.raises(TypeError, match=r"step must keep shapes and dtypes, but state\['x'\] was float32\[3\]"):
        scan(lambda s, i: ({**s, "x": s["x"][:2]}, ()), START, 3)
    with pytest.raises(TypeError, match=r"out\['key'\] of step must be an array of numbers, got key<fry>\[\]"):
        scan(lambda s, i: (s, {"key": s["key"]}), START, 3)
