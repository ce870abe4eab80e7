"""Checkpoints: the same bits back, a kill in the middle of a save, and messages that name what does not fit."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci.core import checkpoint


class Pair(NamedTuple):
    a: jax.Array
    b: object


class Net(eqx.Module):
    weight: jax.Array
    activation: object
    size: int = eqx.field(static=True)


def _tree(key):
    return {
        "bf16": jax.random.normal(key, (3, 2), jnp.bfloat16),
        "int8": jnp.arange(-4, 4, dtype=jnp.int8),
        "f32": jnp.array([np.nan, np.inf, -0.0, 1e-45]),
        "bool": jnp.array(True),
        "key": key,
        "keys": Pair(jax.random.split(key, 3), jax.random.key(7, impl="rbg")),
        "numpy": np.arange(3, dtype=np.float64) / 3,
        "numbers": (3, 2.5, True, np.float32(1.5)),
        "empty": (jnp.zeros((0, 2)), None, ()),
        "net": Net(jnp.ones((2, 2)), jnp.tanh, 2),
    }


def _assert_same(a, b):
    """Equal structure, types, dtypes and bytes."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert type(x) is type(y)
        if isinstance(x, (jax.Array, np.ndarray, np.generic)):
            assert x.dtype == y.dtype
            x, y = (contracts.host(a) if isinstance(a, jax.Array) else a for a in (x, y))
            assert np.asarray(x).tobytes() == np.asarray(y).tobytes()
        else:
            assert x == y


# --- the same bits back ------------------------------------------------------------------------------------


def test_all_kinds_of_leaves_come_back(key, tmp_path):
    tree = _tree(key)
    checkpoint.save(tmp_path, tree, 5)
    like = {
        **tree, "net": Net(jnp.zeros((2, 2)), jnp.tanh, 2), "f32": jnp.zeros(4), "int8": jnp.zeros(8, jnp.int8),
        "bf16": jnp.zeros((3, 2), jnp.bfloat16), "bool": jnp.array(False), "key": jax.random.key(99),
        "keys": Pair(jax.random.split(jax.random.key(1), 3), jax.random.key(8, impl="rbg")),
        "numpy": np.zeros(3), "numbers": (0, 0.0, False, np.float32(0)),
    }  # fmt: skip
    _assert_same(checkpoint.restore(tmp_path, like), tree)


@pytest.mark.x64
def test_double_precision(key, tmp_path):
    tree = {"x": jax.random.normal(key, (4,), jnp.float64), "n": jnp.int64(2**40), "z": jnp.complex128(1 + 2j)}
    checkpoint.save(tmp_path, tree, 0)
    _assert_same(checkpoint.restore(tmp_path, jax.tree.map(jnp.zeros_like, tree)), tree)


def test_shapes_alone_are_enough_to_restore(key, tmp_path):
    tree = {"x": jnp.arange(3.0), "k": jax.random.split(key, 2), "none": jnp.zeros((0,))}
    checkpoint.save(tmp_path, tree, 0)
    _assert_same(checkpoint.restore(tmp_path, jax.eval_shape(lambda: tree)), tree)


def test_restores_onto_the_devices_of_like(tmp_path):
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("i"))
    x = jax.device_put(jnp.arange(6.0), spread)
    checkpoint.save(tmp_path, x, 1)
    back = checkpoint.restore(tmp_path, jax.device_put(jnp.zeros(6), spread))
    assert back.sharding == spread and bool(jnp.all(back == x))
    alone = checkpoint.restore(tmp_path, jnp.zeros(6))
    assert alone.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(alone, np.arange(6.0))


def test_steps_and_keep(tmp_path):
    folder = tmp_path / "new" / "deep"
    assert checkpoint.latest(folder) is None
    for step in (1, 2, 10):
        checkpoint.save(folder, jnp.float32(step), step, keep=2)
        assert checkpoint.latest(folder) == step
    assert float(checkpoint.restore(folder, jnp.float32(0))) == 10
    assert float(checkpoint.restore(folder, jnp.float32(0), step=2)) == 2
    with pytest.raises(FileNotFoundError, match=r"no step 1 in .*; complete steps there: \[2, 10\]"):
        checkpoint.restore(folder, jnp.float32(0), step=1)


def test_nothing_is_pickled(key, tmp_path):
    checkpoint.save(tmp_path, _tree(key), 1, config={"f": jnp.tanh})
    for file in (f for f in tmp_path.rglob("*") if f.is_file()):
        assert not file.name.endswith((".pkl", ".pickle"))
        assert not file.read_bytes().startswith(b"\x80\x04"), f"{file} starts like a pickle"


# --- bits that rot -----------------------------------------------------------------------------------------


_FLIPS = """
import pathlib, sys
import jax, numpy as np
from jaxsci.core import checkpoint

folder = pathlib.Path(sys.argv[1])
tree = {"x": np.random.default_rng(0).random((40, 50)), "key": jax.random.key(5), "n": np.arange(7, dtype=np.int8)}
checkpoint.save(folder, tree, 3, config={"rate": 0.1})
files = sorted(f for f in (folder / "3").rglob("*") if f.is_file() and f.stat().st_size)
largest = max(files, key=lambda f: f.stat().st_size)
rng, outcomes = np.random.default_rng(1), []
for number in range(60):
    file = largest if number < 40 else files[number % len(files)]
    whole = file.read_bytes()
    at = int(rng.integers(8 * len(whole)))
    flipped = bytearray(whole)
    flipped[at // 8] ^= 1 << at % 8
    file.write_bytes(flipped)
    try:
        found = checkpoint.restore(folder, tree, config={"rate": 0.1})
    except (ValueError, FileNotFoundError) as error:
        outcomes.append("refused" if str(folder) in str(error) else f"no path in: {error}")
    else:
        same = jax.tree.map(lambda a, b: np.array_equal(np.asarray(a), np.asarray(b)),
                            {**found, "key": jax.random.key_data(found["key"])},
                            {**tree, "key": jax.random.key_data(tree["key"])})
        outcomes.append("no effect" if all(jax.tree.leaves(same)) else f"wrong values from {file} {at}")
    file.write_bytes(whole)
print(*outcomes, sep=chr(10))
"""


def test_a_flipped_bit_is_refused_or_has_no_effect(tmp_path):
    # in a process of its own: the reader's threads complain about damaged files on their own account
    command = [sys.executable, "-c", _FLIPS, str(tmp_path)]
    ended = subprocess.run(command, cwd=pathlib.Path(__file__).parents[2], capture_output=True, text=True, check=True)
    outcomes = ended.stdout.splitlines()
    assert set(outcomes) == {"refused", "no effect"} and len(outcomes) == 60
    assert outcomes[:40].count("refused") >= 36, "almost all of the largest file is data"


def test_a_damaged_step_tells_which_one_may_be_whole(tmp_path):
    for step in (1, 2):
        checkpoint.save(tmp_path, np.arange(3.0), step)
    (tmp_path / "2" / "about" / "metadata").write_text("{}")
    with pytest.raises(ValueError, match=r"2 is damaged \(its desc.* read\); step 1 may be whole: remove"):
        checkpoint.restore(tmp_path, np.zeros(3))
    np.testing.assert_array_equal(checkpoint.restore(tmp_path, np.zeros(3), step=1), np.arange(3.0))


# --- a kill in the middle of a save --------------------------------------------------------------------------

_SAVER = """
import itertools, sys
import numpy as np
from jaxsci.core import checkpoint
for step in itertools.count(1):
    checkpoint.save(sys.argv[1], {"x": np.random.default_rng(step).random(1_500_000)}, step)
"""


def test_kill_in_the_middle_of_a_save(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", _SAVER, str(tmp_path)], cwd=pathlib.Path(__file__).parents[2])
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:  # until step 2 stands and the files of a later one are being written
            names = os.listdir(tmp_path)
            if "2" in names and any("tmp" in name for name in names):
                break
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    left = [name for name in os.listdir(tmp_path) if "tmp" in name]
    assert left, "the kill came too late to leave an unfinished save"
    last = checkpoint.latest(tmp_path)
    like = {"x": np.zeros(1_500_000)}
    found = checkpoint.restore(tmp_path, like)["x"]
    np.testing.assert_array_equal(found, np.random.default_rng(last).random(1_500_000))
    checkpoint.save(tmp_path, like, last + 1)  # the step that was cut off can be written again
    assert checkpoint.latest(tmp_path) == last + 1
    assert not any("tmp" in name for name in os.listdir(tmp_path)), "the unfinished save is cleaned up"


# --- messages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("like", "match"),
    [
        (Pair(jnp.zeros(3), {"w": jnp.zeros((2, 1))}), r"b\['w'\] was saved as float32\[2\], expected float32\[2, 1\]"),
        (Pair(jnp.zeros(3), {"w": jnp.int32([0, 1])}), r"b\['w'\] was saved as float32\[2\], expected int32\[2\]"),
        (Pair(jnp.zeros(3), {"v": jnp.zeros(2)}), r"it has no leaf tree\.b\['v'\]"),
        (Pair(jnp.zeros(3), {}), r"it holds a leaf tree\.b\['w'\] \(float32\[2\]\) that `like` has not"),
        (Pair(jnp.zeros(3), {"w": jnp.zeros(2), "z": 1}), r"it has no leaf tree\.b\['z'\]"),
        (Pair(jax.random.key(0), {"w": jnp.zeros(2)}), r"tree\.a was saved as float32\[3\], expected key<fry>\[\]"),
    ],
)
def test_a_tree_that_does_not_fit_is_named(like, match, tmp_path):
    checkpoint.save(tmp_path, Pair(jnp.zeros(3), {"w": jnp.zeros(2)}), 1)
    with pytest.raises(ValueError, match=match):
        checkpoint.restore(tmp_path, like)


class Config(NamedTuple):
    rate: float
    widths: tuple
    table: object


def test_another_configuration_is_refused(tmp_path):
    config = Config(0.1, (2, 3), np.arange(3))
    checkpoint.save(tmp_path, jnp.zeros(1), 1, config=config)
    checkpoint.restore(tmp_path, jnp.zeros(1), config=Config(0.1, (2, 3), np.arange(3)))
    checkpoint.restore(tmp_path, jnp.zeros(1))
    with pytest.raises(ValueError, match=r"\(rate: saved 0\.1, now 0\.2; widths: saved \(2, 3\), now \(2, 4\)\)"):
        checkpoint.restore(tmp_path, jnp.zeros(1), config=Config(0.2, (2, 4), np.arange(3)))
    with pytest.raises(ValueError, match=r"\(table: saved <[0-9a-f]{12}>, now <[0-9a-f]{12}>\)"):
        checkpoint.restore(tmp_path, jnp.zeros(1), config=config._replace(table=np.arange(4)))
    with pytest.raises(ValueError, match=r"extra: saved absent, now 1"):
        checkpoint.restore(tmp_path, jnp.zeros(1), config={**config._asdict(), "extra": 1})
    net = Net(jnp.ones(2), jnp.tanh, 3)
    checkpoint.save(tmp_path, jnp.zeros(1), 2, config=net)
    with pytest.raises(ValueError, match=r"\(size: saved 3, now 4\)"):
        checkpoint.restore(tmp_path, jnp.zeros(1), config=Net(jnp.ones(2), jnp.tanh, 4))


@pytest.mark.bad_input
def test_messages(tmp_path):
    with pytest.raises(ValueError, match="keep must be an int >= 1, got 0"):
        checkpoint.save(tmp_path, jnp.zeros(1), 1, keep=0)
    for step in (float("nan"), -1, 2.5, True, "3"):  # such a step would never be found again
        with pytest.raises(ValueError, match=f"checkpoint.save: step must be an int >= 0, got {step!r}"):
            checkpoint.save(tmp_path, jnp.zeros(1), step)
    with pytest.raises(TypeError, match="got a traced leaf; call it outside jit"):
        jax.jit(lambda x: checkpoint.save(tmp_path, x, 1))(jnp.zeros(1))
    checkpoint.save(tmp_path, jnp.zeros(1), 1)
    with pytest.raises(ValueError, match="holds step 1 already"):
        checkpoint.save(tmp_path, jnp.zeros(1), 1)
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        checkpoint.restore(tmp_path / "nothing", jnp.zeros(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        checkpoint.save(tmp_path / "file", jnp.zeros(1), 1)
