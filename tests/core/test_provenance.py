"""Fingerprints of values and source texts: equal for equal things in every process, different where values differ."""

import enum
import functools
import os
import subprocess
import sys
import textwrap
import threading
import types
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci import linear
from jaxsci.core import provenance
from jaxsci.core.provenance import fingerprint, source_of
from jaxsci.core.static import bind

SCALE = 2.0


def scaled(x, tol=1e-3):
    return SCALE * x + tol


def uses_helper(x):
    return scaled(x) + 1


def make(n):
    def inner(x):
        return x**n

    return inner


class Options(eqx.Module):
    rate: jax.Array
    name: str = eqx.field(static=True)


class Pair(NamedTuple):
    left: float
    right: object


class Holder:
    def __init__(self, value):
        self.value = value

    def method(self, x):
        return x + self.value


class Slotted:
    __slots__ = ("a",)

    def __init__(self, a):
        self.a = a


STUDY = """
    import functools, jax, numpy as np, equinox as eqx, jax.numpy as jnp
    from jaxsci.core.provenance import fingerprint
    N = 3
    class M(eqx.Module):
        a: jax.Array
        s: str = eqx.field(static=True)
    class Plain:
        def __init__(self): self.x = {"b", "a", "c"}
    def helper(x): return x + N
    def point(x, opts={"one", "two", "three"}): return helper(x) + jnp.sin(x)
    big = np.arange(100.)
    def outer():
        return lambda x: (x * big).sum() + helper(x)
    things = [point, outer(), functools.partial(point, opts=None), jax.tree_util.Partial(point, jnp.ones(3)),
              M(jnp.ones(2), "x"), Plain(), {"u": {"b", "a"}, 3: jnp.float32}, np.dtype("float32"), jax.random.key(3),
              jax.jit(point), Plain().__init__, np.random.normal, np.ones(2).dot]
    print(fingerprint(things))
"""


def test_equal_in_two_processes_with_other_hash_seeds(tmp_path):
    script = tmp_path / "study.py"
    script.write_text(textwrap.dedent(STUDY))
    found = set()
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, str(script)], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found.add(done.stdout.strip())
    assert len(found) == 1 and len(found.pop()) == 64


@pytest.mark.parametrize(
    "pair",
    [
        (1, 1.0), (1, True), (1.0, np.float32(1)), (0.0, -0.0), ("a", b"a"), ([1], (1,)), ({"a": 1}, {"a": 2}),
        (np.float32([1, 2]), np.float64([1, 2])), (np.zeros((2, 3)), np.zeros((3, 2))),
        (np.arange(99), np.arange(99) + 1), (np.ma.array([1, 2], mask=[0, 0]), np.ma.array([1, 2], mask=[0, 1])),
        (jax.random.key(0), jax.random.key(1)), (np.dtype("f4"), np.dtype("f8")), (jnp.float32, jnp.float64),
        (make(2), make(3)), (functools.partial(scaled, tol=1.0), functools.partial(scaled, tol=2.0)),
        (jax.tree_util.Partial(scaled, jnp.ones(2)), jax.tree_util.Partial(scaled, jnp.zeros(2))),
        (jax.tree_util.Partial(bind(scaled, tol=3), 1), jax.tree_util.Partial(bind(scaled, tol=4), 1)),
        (Options(jnp.ones(1), "a"), Options(jnp.ones(1), "b")), (Slotted(1), Slotted(2)),
        (Options(jnp.ones(1), "a"), Options(jnp.zeros(1), "a")),
        (Pair(1.0, scaled), Pair(1.0, uses_helper)), (Holder(1), Holder(2)), (Holder(1).method, Holder(2).method),
        (jax.jit(make(2)), jax.jit(make(3))), (lambda x: x + 1, lambda x: x + 2),
        ({1, 2}, {1, 3}), (None, 0), (jnp.sin, jnp.cos),
        (jnp.add, jnp.multiply), (np.add, np.subtract), (max, min), (slice(1), slice(2)),
        (np.add.reduce, np.multiply.reduce), (np.ones(2).dot, np.zeros(2).dot), ({"a": 1}.get, {"a": 2}.get),
        (Holder(np.add.reduce), Holder(np.multiply.reduce)),
        (functools.partial(optax.sgd, 0.1), functools.partial(optax.sgd, 0.2)),
        (enum.Enum("Mode", {"A": 1}).A, enum.Enum("Mode", {"A": 2}).A),
        (np.random.default_rng(0), np.random.default_rng(1)), (np.random.normal, np.random.uniform),
        (np.polynomial.Polynomial([1, 2]), np.polynomial.Polynomial([1, 2 + 1e-9])),
        (types.SimpleNamespace(a=np.arange(5000.0)), types.SimpleNamespace(a=np.arange(5000.0) % 4999)),
    ],
)  # fmt: skip
def test_a_change_that_matters_changes_it(pair):
    a, b = pair
    assert fingerprint(a) != fingerprint(b)
    assert fingerprint([a, {"k": a}]) != fingerprint([a, {"k": b}])


@pytest.mark.parametrize(
    "build",
    [
        lambda: make(2), lambda: functools.partial(scaled, tol=1.0), lambda: np.add.reduce, lambda: np.random.normal,
        lambda: jax.tree_util.Partial(make(2), jnp.ones(40)), lambda: np.random.default_rng(3),
        lambda: Options(jnp.ones(3), "a"), lambda: Holder({"a": [1, {2, 3}]}), lambda: Holder(1).method,
        lambda: jax.jit(make(2)), lambda: linear.streams.heat(25), lambda: threading.Lock(), lambda: np.ones(3).dot,
        lambda: eqx.filter_jit(make(2)), lambda: object(), lambda: {"f": make(1), "k": jax.random.key(7)},
    ],
)  # fmt: skip
def test_equal_things_built_twice_are_equal(build):
    assert fingerprint(build()) == fingerprint(build())


def test_order_of_dictionaries_and_kind_of_array_do_not_matter():
    assert fingerprint({"a": 1, "b": {2, 3}}) == fingerprint({"b": {3, 2}, "a": 1})
    assert fingerprint(np.float32([1, 2])) == fingerprint(jnp.float32([1, 2]))
    shared = [1, 2]
    assert fingerprint([shared, shared]) == fingerprint([[1, 2], [1, 2]])


def test_the_source_names_what_a_function_hangs_on(monkeypatch):
    text = source_of(uses_helper)
    assert "global SCALE = 2.0" in text and "return SCALE * x + tol" in text, "a helper is followed"
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert "global SCALE = 3.0" in source_of(uses_helper)
    assert "default tol = 0.001" in source_of(scaled)
    assert "closure n = 2" in source_of(make(2))
    assert "argument tol = 0.5" in source_of(functools.partial(scaled, tol=0.5))
    assert "argument 0 = float32[2] [1.0, 1.0]" in source_of(jax.tree_util.Partial(scaled, jnp.ones(2)))
    assert "Holder" in source_of(Holder(1).method) and "bound to" in source_of({}.get)
    assert source_of(jnp.linalg.norm).splitlines()[-1].startswith("library jax.")
    assert source_of(make(2)) != source_of(make(3))


def test_a_lambda_is_its_body_not_the_call_around_it():
    def passed(f, **_):
        return source_of(f)

    assert passed(lambda x: x**2, progress=True) == passed(lambda x: x**2, progress=False)
    assert "x**2" in passed(lambda x: x**2)
    assert passed(lambda x: x**2) != passed(lambda x: x**3)


def test_code_without_a_source_file_still_counts():
    spaces = [{} for _ in range(3)]
    for space, body in zip(spaces, ("x + 1", "x + 1", "x + 2")):
        exec(f"def f(x): return {body}", space)
    first, same, other = (fingerprint(space["f"]) for space in spaces)
    assert first == same != other


def test_packages_of_another_environment_count_by_name(tmp_path, monkeypatch):
    """A `.pth` file may reach them; their sources lead to all the sources of what they import."""
    folder = tmp_path / "other" / "site-packages"
    folder.mkdir(parents=True)
    (folder / "far_away.py").write_text("def twice(x):\n    return 2 * x\n")
    monkeypatch.syspath_prepend(folder)
    import far_away

    try:
        assert source_of(far_away.twice) == "library far_away.twice"
    finally:
        del sys.modules["far_away"]


def test_recursion_ends_and_shared_parts_take_no_second_time():
    def even(n):
        return n == 0 or odd(n - 1)

    def odd(n):
        return n != 0 and even(n - 1)

    loop = [1]
    loop.append(loop)
    holder = Holder(None)
    holder.value = holder
    assert len({fingerprint(even), fingerprint(odd), fingerprint(loop), fingerprint(holder)}) == 4
    nest = [1]
    for _ in range(100):
        nest = [nest, nest]
    assert fingerprint(nest) == fingerprint(nest)


def test_versions_settings_and_device():
    import jaxsci

    found = provenance.versions()
    assert found["jax"] == jax.__version__ and found["numpy"] == np.__version__
    assert found["jaxsci"] == jaxsci.__version__
    device = provenance.device_description()
    assert device["platform"] == "cpu" and device["count"] == len(jax.local_devices()) and device["processor"]
    assert provenance.device_description(jax.devices()[:1])["count"] == 1
    with jax.enable_x64(True):
        assert provenance.settings()["x64"] is True


@pytest.mark.bad_input
def test_bad_input():
    with pytest.raises(TypeError, match="expected a callable, got int"):
        source_of(3)
    with pytest.raises(TypeError, match="got a traced one"):
        jax.jit(lambda x: fingerprint({"x": x}) and x)(1.0)
