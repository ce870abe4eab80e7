"""What a fingerprint reaches: other modules, running code, classes, library objects, rules, versions."""

import enum
import functools
import importlib
import sys
import textwrap
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsci import linear
from jaxsci.core import provenance
from jaxsci.core.provenance import fingerprint, source_of
from jaxsci.core.static import bind


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write and import a module of the user's own; call again for another text under the same name."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode  # else a text of equal size looks unchanged
        try:
            return importlib.import_module(name)
        finally:
            sys.dont_write_bytecode = before

    yield load
    for name in ("reach_helper", "reach_study"):
        sys.modules.pop(name, None)


STUDY = """
    import reach_helper
    def point(x):
        return reach_helper.step(x)
    def inside(x):
        import reach_helper as h
        from reach_helper import step
        return step(x)
"""


@pytest.mark.parametrize("name", ["point", "inside"])
@pytest.mark.parametrize("change", [("1.0", "5.0"), ("x *", "x /")])
def test_modules_of_the_user_are_followed(module, name, change):
    found, plain = [], "RATE = 1.0\ndef step(x): return x * RATE"
    for text in (plain, plain.replace(*change), plain):
        module("reach_helper", text)
        found.append(source_of(getattr(module("reach_study", STUDY), name)))
    assert found[0] == found[2] != found[1]


def test_the_running_code_counts_not_the_file(module, tmp_path):
    study = module("reach_study", "def point(x):\n    return x * 1.0\n")
    before = source_of(study.point)
    (tmp_path / "reach_study.py").write_text("def point(x):\n    return x * 9.0\n")
    stale = source_of(study.point)
    assert stale != source_of(module("reach_study", "def point(x):\n    return x * 9.0\n").point)
    assert before.splitlines()[-1] == stale.splitlines()[-1]  # the bytecode


def test_a_lambda_is_its_body_not_the_call_around_it():
    def passed(f, **_):
        return source_of(f)

    assert passed(lambda x: x**2, progress=True) == passed(lambda x: x**2, progress=False)
    assert "x**2" in passed(lambda x: x**2)
    assert passed(lambda x: x**2) != passed(lambda x: x**3)
    assert passed(lambda x: x**2) != passed(lambda y: y**2)


def make_class(rate, *, slots=(), base=object):
    def __init__(self, *values):
        for name, value in zip(slots, values):
            setattr(self, name, value)

    def __call__(self, x):
        return x * helper(x)

    space = {"helper": (lambda x: x + 1) if rate == 1 else (lambda x: x + 2)}
    __call__ = types.FunctionType(__call__.__code__, space)
    return type("Made", (base,), {"__init__": __init__, "__call__": __call__, "__slots__": slots, "__module__": "made"})


helper = None


def test_classes_count_by_methods_attributes_bases_and_slots():
    one, other = make_class(1), make_class(2)
    assert fingerprint(one()) != fingerprint(other())  # a global of a method
    assert fingerprint(one()) == fingerprint(make_class(1)())
    assert fingerprint(make_class(1, base=one)()) != fingerprint(make_class(1, base=other)())
    slotted = make_class(1, slots=("a",))
    assert fingerprint(slotted(1)) != fingerprint(slotted(2))
    assert fingerprint(type("C", (), {"rate": 1.0})) != fingerprint(type("C", (), {"rate": 2.0}))
    first, second = enum.Enum("Mode", {"A": 1}), enum.Enum("Mode", {"A": 2})
    assert fingerprint(first.A) != fingerprint(second.A)


def _library_pairs():
    from jax.experimental.sparse import BCOO
    from scipy import sparse
    from scipy.interpolate import CubicSpline

    long = np.arange(5000.0)
    xarray = pytest.importorskip("xarray")
    return {
        "csr": (sparse.csr_matrix(np.eye(2)), sparse.csr_matrix(2 * np.eye(2))),
        "bcoo": (BCOO.fromdense(jnp.eye(2)), BCOO.fromdense(2 * jnp.eye(2))),
        "spline": (CubicSpline([0, 1, 2], [0, 1, 4]), CubicSpline([0, 1, 2], [0, 1, 5])),
        "generator": (np.random.default_rng(0), np.random.default_rng(1)),
        "namespace": (types.SimpleNamespace(a=long), types.SimpleNamespace(a=np.where(long == 2500, 0, long))),
        "small": (types.SimpleNamespace(a=1.0), types.SimpleNamespace(a=1 + 1e-12)),
        "polynomial": (np.polynomial.Polynomial([1, 2]), np.polynomial.Polynomial([1, 2 + 1e-9])),
        "masked": (np.ma.array([1, 2], mask=[0, 0]), np.ma.array([1, 2], mask=[0, 1])),
        "dataarray": (xarray.DataArray([1], {"x": [1]}), xarray.DataArray([1], {"x": [2]})),
        "dataset": (xarray.Dataset({"a": 1}), xarray.Dataset({"a": 2})),
        "partial": (functools.partial(optax.sgd, 0.1), functools.partial(optax.sgd, 0.2)),
    }


LIBRARY = "csr bcoo spline generator namespace small polynomial masked dataarray dataset partial".split()


@pytest.mark.parametrize("name", LIBRARY)
def test_objects_of_libraries_count_by_content(name):
    one, other = _library_pairs()[name]
    again, _ = _library_pairs()[name]
    assert fingerprint(one) == fingerprint(again) != fingerprint(other)


def test_what_cannot_be_read_counts_by_its_type():
    assert fingerprint(threading.Lock()) == fingerprint(threading.Lock())


def sized(x, size):
    return x * size


def test_static_arguments_inside_a_partial_count():
    def made(size):
        return jax.tree_util.Partial(bind(sized, size=size), 1.0)

    assert fingerprint(made(3)) == fingerprint(made(3)) != fingerprint(made(4))
    assert source_of(made(3)) == source_of(made(3)) != source_of(made(4))
    heat = linear.streams.heat
    assert fingerprint(heat(25)) == fingerprint(heat(25)) != fingerprint(heat(24))


def _with_rule(slope):
    @jax.custom_vjp
    def f(x):
        return x**2

    f.defvjp(lambda x: (f(x), x), lambda r, g: (slope * r * g,))
    return f


def test_rules_of_custom_derivatives_count():
    assert fingerprint(_with_rule(2.0)) == fingerprint(_with_rule(2.0)) != fingerprint(_with_rule(3.0))


def test_versions_of_libraries_that_are_met_are_told():
    def point(x):
        return optax.sgd(x)

    line = next(line for line in source_of(point).splitlines() if line.startswith("version of optax"))
    assert line.split()[-1] == importlib.metadata.version("optax")
    assert "version of" not in source_of(lambda x: jnp.sin(x) + np.pi + time.time())


class Node:
    def __init__(self):
        self.neighbours = []


def test_graphs_take_time_in_proportion_to_their_size():
    def mesh(n):
        nodes = [[Node() for _ in range(n)] for _ in range(n)]
        for i in range(n):
            for j in range(n):
                nodes[i][j].neighbours = [nodes[(i + 1) % n][j], nodes[i][(j + 1) % n], nodes[i - 1][j]]
        return nodes[0][0]

    nest = [1]
    for _ in range(100):
        nest = [nest, nest]
    counted = []
    plain = provenance._Describer._object
    try:
        provenance._Describer._object = lambda self, x: counted.append(x) or plain(self, x)
        fingerprint(mesh(6))
    finally:
        provenance._Describer._object = plain
    assert len(counted) == 36
    assert fingerprint(nest) == fingerprint(nest)
    assert fingerprint([[1], [1]]) == fingerprint([[1]] * 2)  # the same list twice is no other value
