"""`run` against a Python loop, its statuses, modes and messages."""

import collections
import itertools
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import sweep
from jaxsci.core import status
from jaxsci.sweep import _program


class Result(NamedTuple):
    value: jax.Array
    steps: jax.Array
    status: jax.Array


TABLES = {"ddim": {"w": jnp.float32([1, 2, 3])}, "unipc": {"w": jnp.float32([0, 1, -1])}}


def study(key, lr, table, dt, mode):
    """Uses all four kinds of axes; integer, vector and Boolean outputs."""
    seed = jax.random.key_data(key)[-1].astype(lr.dtype)  # real draws take seconds to compile, four times
    x = seed * lr * table["w"] + dt
    return {"x": x, "deep": {"s": jnp.sum(x) * (2 if mode == "b" else 1), "n": jnp.int32(3)}, "flag": x[0] > dt}


def study_space(num_keys=4):
    return sweep.product(
        lr=np.geomspace(1e-3, 1, 3),
        table=sweep.stack(TABLES, dims=("solver",)),
        dt=sweep.static([0.2, 0.1], unit="s"),
        mode=sweep.static(["a", "b"]),
        key=sweep.keys(num_keys, seed=7),
    )


def test_static_traced_stacked_keys_gives_the_dataset_of_a_python_loop():
    space = study_space()
    ds = sweep.run(study, space, dims={"x": ("node",)}, units={"x": "K", "lr": "1/s"}, meta={"n": 1}, progress=False)
    assert dict(ds.sizes) == {"lr": 3, "solver": 2, "dt": 2, "mode": 2, "key": 4, "node": 3}
    assert ds["x"].dims == ("lr", "solver", "dt", "mode", "key", "node")
    assert ds["deep.s"].dims == ds["status"].dims == ("lr", "solver", "dt", "mode", "key")
    assert (ds["x"].dtype, ds["deep.n"].dtype, ds["flag"].dtype) == (np.float32, np.int32, bool)
    assert ds["x"].attrs["units"] == "K" and ds["lr"].attrs["units"] == "1/s" and ds["dt"].attrs["units"] == "s"
    assert json.loads(ds.attrs["meta"]) == {"n": 1}
    one = jax.jit(study, static_argnames=("dt", "mode"))
    for (i, lr), s, dt, mode, k in itertools.product(
        enumerate(space.coords["lr"].values), TABLES, [0.2, 0.1], "ab", range(7, 11)
    ):
        want = one(jax.random.key(k), jnp.float32(lr), TABLES[s], dt, mode)
        found = ds.sel(solver=s, dt=dt, mode=mode, key=k).isel(lr=i)
        np.testing.assert_allclose(found["x"], want["x"], rtol=1e-6)
        np.testing.assert_allclose(found["deep.s"], want["deep"]["s"], rtol=1e-5)
        assert found["deep.n"] == 3 and found["flag"] == want["flag"]
    assert jaxsci.check(ds) is ds


def compilations(point, space, **options):
    from contracts import count_compilations

    with count_compilations() as events:
        ds = sweep.run(point, space, progress=False, **options)
    return len(events), ds


def test_one_trace_and_one_compilation_for_every_static_combination(monkeypatch):
    traces = []

    def counted(**axes):
        traces.append(axes["dt"])
        return study(**axes)

    compilations(counted, study_space(3), lanes=5)  # also compiles the helpers that make keys
    monkeypatch.setattr(_program, "_kept", collections.OrderedDict())
    traces.clear()
    assert compilations(counted, study_space(3), lanes=5)[0] == 4  # dispatches of 10 for 18 points, the last one padded
    assert len(traces) == 4


def test_a_process_compiles_a_point_once(monkeypatch):
    monkeypatch.setattr(_program, "_kept", collections.OrderedDict())
    monkeypatch.setattr(_program, "_MAX_KEPT", 3)

    def found(scale, values, power=2, **options):
        shift = jnp.full(3, scale)  # captured
        space = sweep.product(x=values, n=sweep.static([power]))
        count, ds = compilations(lambda x, n: {"y": x**n + shift.sum()}, space, devices=1, **options)
        np.testing.assert_allclose(ds["y"].isel(n=0), np.asarray(values) ** power + 3 * scale, rtol=1e-6)
        return count

    found(5.0, [1.0, 2.0], lanes=2)  # also compiles the helpers
    _program._kept.clear()
    assert found(1.0, [1.0, 2.0], lanes=2) == 1
    assert found(1.0, [1.0, 2.0], lanes=2) == 0
    assert found(7.0, [3.0, 4.0], lanes=2) == 0, "values and captured arrays are no part of the program"
    assert found(1.0, [1.0, 2.0], 3, lanes=2) == 1
    assert found(1.0, [1.0, 2.0], lanes=1) == 1
    assert found(1.0, [1.0, 2.0], lanes=2) == 0
    assert found(1.0, [1.0, 2.0], 4, lanes=2) == 1 and len(_program._kept) == 3
    assert found(1.0, [1.0, 2.0], 3, lanes=2) == 1, "the least recently used one has gone"


def test_host_functions_are_never_taken_from_another_call():
    def run(function):
        def point(x):
            return jax.pure_callback(function, jax.ShapeDtypeStruct((), jnp.float32), x, vmap_method="sequential")

        return sweep.run(point, sweep.product(x=[1.0, 2.0]), lanes=2, devices=1, progress=False)["value"]

    np.testing.assert_array_equal(run(lambda x: np.float32(x + 1)), [2, 3])
    np.testing.assert_array_equal(run(lambda x: np.float32(x * 5)), [5, 10])


@pytest.mark.x64
def test_double_precision():
    space = sweep.product(lr=np.geomspace(1e-3, 1, 3), n=sweep.static([1, 2]), i=[2**40, 1])
    ds = sweep.run(lambda lr, n, i: {"x": lr**n, "j": i + 1}, space, progress=False)
    assert ds["x"].dtype == np.float64 and ds["j"].dtype == np.int64
    np.testing.assert_allclose(ds["x"].isel(i=0), np.geomspace(1e-3, 1, 3)[:, None] ** [1, 2], rtol=1e-15)
    assert ds["j"].sel(i=2**40, n=1).isel(lr=0) == 2**40 + 1
    assert json.loads(ds.attrs["provenance"])["x64"] is True


def test_provenance():
    ds = sweep.run(lambda x, key: x, sweep.product(x=[1.0, 2.0], key=sweep.keys(3, seed=5)), progress=False)
    found = json.loads(ds.attrs["provenance"])
    assert found["versions"]["jax"] == jax.__version__ and found["device"]["platform"] == "cpu"
    assert found["seeds"] == {"key": [5, 7]} and found["x64"] is False and found["function"] == "<lambda>"
    assert (found["batch"], found["lanes"], found["devices"], found["points"]) == ("vmap", 3, 2, 6)
    assert found["compile_seconds"] > 0 and found["run_seconds"] > 0 and found["started"] <= found["finished"]


# --- outputs -----------------------------------------------------------------------------------------------


def test_a_record_a_lone_array_and_python_numbers():
    def solve(x):
        return Result(x * jnp.ones(2), jnp.int32(3), jnp.int32(0))

    ds = sweep.run(solve, sweep.product(x=[1.0, 2.0]), progress=False)
    assert set(ds.data_vars) == {"value", "steps", "status"} and ds["value"].dims == ("x", "value_0")
    lone = sweep.run(lambda x: x + 1, sweep.product(x=[1.0]), progress=False)
    assert lone["value"].values.tolist() == [2.0]
    constant = sweep.run(lambda x: {"a": 1, "b": 2.5, "c": True}, sweep.product(x=[1.0, 2.0]), progress=False)
    assert constant["a"].values.tolist() == [1, 1] and constant["c"].values.tolist() == [True, True]
    nested = sweep.run(lambda x: [x, {"r": solve(x)}], sweep.product(x=[1.0]), progress=False)
    assert set(nested.data_vars) == {"0", "1.r.value", "1.r.steps", "1.r.status", "status"}


def test_small_floats_become_float32():
    ds = sweep.run(lambda x: x.astype(jnp.bfloat16), sweep.product(x=[1.0, 2.5]), progress=False)
    assert ds["value"].dtype == np.float32 and ds["value"].values.tolist() == [1.0, 2.5]


def test_complex_outputs(tmp_path):
    import xarray

    ds = sweep.run(lambda x: jnp.exp(1j * x), sweep.product(x=[0.0, 1.0]), out=tmp_path, progress=False)
    np.testing.assert_allclose(ds["value"], np.exp(1j * np.array([0, 1])), rtol=1e-6)
    assert sweep.load(tmp_path)["value"].dtype == np.complex64
    with xarray.open_dataset(tmp_path / "results.nc", engine="h5netcdf") as saved:  # netCDF has no complex numbers
        np.testing.assert_array_equal(saved["value.imag"], ds["value"].imag)


# --- statuses ----------------------------------------------------------------------------------------------


def test_the_points_own_statuses_are_merged_and_bad_values_are_flagged():
    def solve(x):
        capped = status.flag(x > 2, status.MAX_STEPS)
        inner = Result(jnp.log(x), jnp.int32(1), status.flag(x < 0, status.DIVERGED))
        return {"status": capped, "inner": inner}

    ds = sweep.run(solve, sweep.product(x=[-1.0, 1.0, 3.0]), progress=False)
    bad = status.DIVERGED | status.NONFINITE_RESULT
    assert ds["status"].values.tolist() == [bad, 0, status.MAX_STEPS]
    assert ds["inner.status"].values.tolist() == [status.DIVERGED, 0, 0] and ds["inner.status"].dtype == np.int32
    for name in ("status", "inner.status"):
        attrs = ds[name].attrs
        meanings = attrs["flag_meanings"].split(" ")
        assert attrs["flag_masks"].dtype == np.int32 and len(meanings) == len(attrs["flag_masks"])
        assert meanings[list(attrs["flag_masks"]).index(status.MAX_STEPS)] == "step_cap_reached"
    with pytest.raises(status.StatusError, match=r"x=-1.0: .*diverged"):
        jaxsci.check(ds)


def test_statuses_over_time_stay_and_are_merged():
    def solve(x):
        return {"status": jnp.int32([0, 4, 2]) * (x > 1), "y": x}

    ds = sweep.run(solve, sweep.product(x=[1.0, 2.0]), dims={"point.status": ("step",)}, progress=False)
    assert ds["status"].values.tolist() == [0, 6] and ds["point.status"].values[1].tolist() == [0, 4, 2]


def test_padding_with_nan_is_allowed_where_it_is_declared():
    def solve(x):
        return {"r": {"history": jnp.stack([x, jnp.nan])}, "y": jnp.log(x)}

    space = sweep.product(x=[1.0, 0.0])
    assert (sweep.run(solve, space, progress=False)["status"] & status.NONFINITE_RESULT).all()
    for names in ("history", ("r.history",), ["r"]):
        ds = sweep.run(solve, space, allow_nan=names, progress=False)
        assert ds["status"].values.tolist() == [0, status.NONFINITE_RESULT]


def test_fail_fast_names_the_points():
    space = sweep.product(x=np.arange(8.0), n=sweep.static([1, 2]))
    with pytest.raises(status.StatusError, match=r"1 of the 2 points just computed failed:\n  x=5.0, n=1: non-finite"):
        sweep.run(lambda x, n: 1 / (x - 5), space, lanes=1, fail_fast=True, progress=False)
    assert not sweep.run(lambda x, n: 1 / (x + 5), space, fail_fast=True, progress=False)["status"].any()


# --- batch modes -------------------------------------------------------------------------------------------


def collatz(x):
    """A loop whose length depends on the point."""

    def step(c):
        n, count = c
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return {"steps": jax.lax.while_loop(lambda c: c[0] != 1, step, (x, jnp.int32(0)))[1]}


def test_all_modes_agree_and_auto_sees_uneven_loops():
    space = sweep.product(x=np.arange(1, 28))
    found = {m: sweep.run(collatz, space, batch=m, progress=False) for m in ("vmap", "map", "loop", "auto")}
    assert found["vmap"]["steps"].sel(x=27) == 111
    for ds in found.values():
        np.testing.assert_array_equal(ds["steps"], found["vmap"]["steps"])
    assert json.loads(found["auto"].attrs["provenance"])["batch"] == "map"
    assert sweep.plan(collatz, space).batch == "map"

    def even(x):
        return jax.lax.fori_loop(0, 10, lambda i, y: y * 0.5, x)

    assert sweep.plan(even, sweep.product(x=[1.0, 2.0])).batch == "vmap"


@pytest.mark.parametrize("batch", ["vmap", "map"])
def test_lanes_and_devices_do_not_change_the_points(batch):
    space = sweep.product(x=np.linspace(0, 1, 11), n=sweep.static([1, 3]))
    results = [
        sweep.run(lambda x, n: {"y": (x + 1) ** n}, space, batch=batch, lanes=lanes, devices=devices, progress=False)
        for lanes, devices in ((4, 1), (4, 2), (4, [jax.local_devices()[1]]), (1, 2), (50, None))
    ]
    for other in results[1:3]:
        np.testing.assert_array_equal(other["y"], results[0]["y"])  # equal lanes: equal bits on any devices
    for other in results[3:]:
        np.testing.assert_allclose(other["y"], results[0]["y"], rtol=1e-6)


def test_loop_takes_any_python_function_and_records_exceptions():
    seen = []

    def fragile(x, key, n, table):
        seen.append((x, n))
        assert type(x) is float and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
        if x == 2.0:
            raise ZeroDivisionError("two is bad")
        return {"y": x * n, "label": {"n": n}, "w": np.asarray(table["w"]), "ok": x > 0}

    space = sweep.product(
        x=[2.0, 1.0], key=sweep.keys(2), n=sweep.static([10, 20]), table=sweep.stack(TABLES, dims=("solver",))
    )
    ds = sweep.run(fragile, space, batch="loop", dims={"w": ("node",)}, progress=False)
    assert len(seen) == 16
    np.testing.assert_array_equal(ds["y"].sel(x=1.0, n=20), np.full((2, 2), 20.0))
    assert np.isnan(ds["y"].sel(x=2.0)).all() and not ds["label.n"].sel(x=2.0).any()
    np.testing.assert_array_equal(ds["w"].sel(x=1.0, solver="unipc").isel(key=0, n=0), [0, 1, -1])
    assert (ds["status"].sel(x=2.0) == 1 << 30).all() and not ds["status"].sel(x=1.0).any()
    assert "point raised [sweep]" in status.explain(1 << 30, "sweep")
    errors = json.loads(ds.attrs["errors"])
    assert errors["x=2.0, key=0, n=10, solver=ddim"] == "ZeroDivisionError: two is bad" and len(errors) == 8


def test_a_loop_of_which_no_point_works_raises_the_first_exception():
    with pytest.raises(RuntimeError, match="every point of <lambda> raised, the first ZeroDivisionError") as raised:
        sweep.run(lambda x: 1 / 0, sweep.product(x=[1.0, 2.0]), batch="loop", progress=False)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_an_interrupt_is_no_failed_point(capsys):
    def stop(x):
        if x == 2.0:
            raise KeyboardInterrupt
        return x

    with pytest.raises(KeyboardInterrupt):
        sweep.run(stop, sweep.product(x=[1.0, 2.0]), batch="loop", progress=False)
    assert "nothing was kept. With out='folder'" in capsys.readouterr().err


# --- progress ----------------------------------------------------------------------------------------------


def test_progress(capsys):
    space = sweep.product(x=np.arange(6.0), n=sweep.static([1, 2]))

    def point(x, n):
        return x**n

    told = []
    sweep.run(point, space, lanes=2, devices=1, progress=lambda *a: told.append(a))
    assert told == [
        (0, 12, "tracing n=1"), (0, 12, "tracing n=2"),
        (2, 12, "n=1"), (4, 12, "n=1"), (6, 12, "n=1"), (8, 12, "n=2"), (10, 12, "n=2"), (12, 12, "n=2"),
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")
    sweep.run(point, space)
    found = capsys.readouterr()
    assert found.out == "" and "12/12" in found.err and "n=2" in found.err


# --- bad input ---------------------------------------------------------------------------------------------


def shapes(x, n):
    return {"y": x * jnp.ones(n)}


X = sweep.product(x=[1.0, 2.0])
SIZES = sweep.product(x=[1.0], n=sweep.static([3, 4]))
BAD = [
    (lambda: sweep.run(3, X), TypeError, "point must be a function of the axes, got int"),
    (lambda: sweep.run(lambda x: x, [1, 2]), TypeError, "expected a space made by .*, got list"),
    (lambda: sweep.run(lambda rate: rate, sweep.product(rat=[1.0])), ValueError, "'rat'.*did you mean 'rate'"),
    (lambda: sweep.run(lambda x, y: x, X), ValueError, "needs 'y', and the space has no such axis; it has x"),
    (lambda: sweep.run(lambda x, /: x, X), ValueError, "takes 'x' by position only"),
    (lambda: sweep.run(shapes, SIZES), ValueError, r"'y' is float32\[3\] for n=3 and float32\[4\] for n=4"),
    (lambda: sweep.run(lambda x: "text", X), TypeError, "output 'value' of <lambda> is a str"),
    (lambda: sweep.run(lambda x: {"a": [x, object()]}, X), TypeError, "output 'a.1' of <lambda> is a object"),
    (lambda: sweep.run(lambda x: None, X), TypeError, r"returned no arrays \(got NoneType\)"),
    (lambda: sweep.run(lambda x: jax.random.key(0), X), TypeError, r"is a typed key; return jax.random.key_data"),
    (lambda: sweep.run(lambda x: {"a/b": x}, X), ValueError, "must be unique and without /"),
    (lambda: sweep.run(lambda x: {"a": {"b": x}, "a.b": x}, X), ValueError, "must be unique and without /"),
    (lambda: sweep.run(lambda x: {"x": x}, X), ValueError, "'x' is both an output and an axis"),
    (lambda: sweep.run(lambda status: status, sweep.product(status=[1.0])), ValueError, "'status' is both an output"),
    (lambda: sweep.run(lambda x: x, X, batch="fast"), ValueError, "batch must be one of .*, got 'fast'"),
    (lambda: sweep.run(lambda x: x, X, lanes=0), ValueError, "lanes must be a positive integer or None, got 0"),
    (lambda: sweep.run(lambda x: x, X, chunk=-1), ValueError, "chunk must be a positive integer or None"),
    (lambda: sweep.run(lambda x: x, X, devices=99), ValueError, "devices must be 1 to 2"),
    (lambda: sweep.run(lambda x: x, X, devices=[]), ValueError, "devices is an empty list"),
    (lambda: sweep.run(lambda x: x, X, dims={"y": ("a",)}), ValueError, "dims names 'y'; the outputs are value"),
    (lambda: sweep.run(lambda x: x, X, dims={"value": ("a",)}), ValueError, "has 0 dimensions .*, dims names 1"),
    (lambda: sweep.run(lambda x: x[None], X, dims={"value": ("x",)}), ValueError, "'x' of output 'value' has size 1"),
    (
        lambda: sweep.run(lambda x: {"a": jnp.ones(2), "b": jnp.ones(3)}, X, dims={"a": ["t"], "b": ["t"]}),
        ValueError,
        "dimension 't' of output 'b' has size 3, but output 'a' has one of that name, of size 2",
    ),
    (lambda: sweep.run(lambda x: x, X, units={"z": "m"}), ValueError, "units names 'z'; outputs and axes are value, x"),
    (lambda: sweep.run(lambda x: x, X, units={"x": 3}), TypeError, "unit of 'x' must be text, got int"),
    (lambda: sweep.run(lambda x: x, X, meta={"f": object()}), TypeError, "meta must be plain data"),
    (lambda: sweep.run(lambda x: x, X, meta="x" * 70_000), ValueError, "meta has 70002 characters"),
    (lambda: sweep.run(lambda x: x, X, allow_nan="history"), ValueError, "allow_nan names 'history'"),
    (lambda: sweep.run(lambda x: x, X, dims={"y": "a"}, batch="loop"), ValueError, "dims names 'y'"),
    (
        lambda: sweep.run(lambda x: np.ones(int(x)), X, batch="loop"),
        ValueError,
        r"'value' is float64\[1\] for earlier points and float64\[2\] for x=2.0",
    ),
    (lambda: sweep.run(lambda x: {"y": x + np.ones((2,)) @ np.ones((3,))}, X), ValueError, "matmul"),
    (lambda: sweep.run(lambda x: np.ma.array([x], mask=[1]), X, batch="loop"), TypeError, "'value' .* a masked array"),
    (lambda: sweep.run(lambda x: [x, np.ma.array([1.0], mask=[1])], X), TypeError, "output '1' .* a masked array"),
    (lambda: sweep.run(lambda x: x, X, out=""), ValueError, "sweep.run: expected a path, got empty text"),
    (lambda: sweep.load(""), ValueError, "sweep: expected a path, got empty text"),
]  # fmt: skip


@pytest.mark.bad_input
@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()


@pytest.mark.bad_input
def test_an_exception_while_tracing_names_the_combination():
    def point(x, n):
        if n == 2:
            raise ValueError("odd sizes only")
        return x

    with pytest.raises(ValueError, match="odd sizes only") as raised:
        sweep.run(point, sweep.product(x=[1.0], n=sweep.static([1, 2])), progress=False)
    assert "sweep: while tracing point for n=2" in raised.value.__notes__


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "point",
    [
        lambda x: 1.0 if x > 0 else -1.0,
        lambda x: float(x),
        lambda x: np.sin(np.asarray(x)),
        lambda x: sum(range(x.astype(int))),
        lambda x: jnp.arange(3.0)[jnp.arange(3) < x],
    ],
    ids=["if", "float", "numpy", "range", "mask"],
)
def test_a_function_that_needs_numbers_is_told_of_the_loop(point):
    with pytest.raises((jax.errors.JAXTypeError, jax.errors.JAXIndexError)) as raised:
        sweep.run(point, sweep.product(x=[0.5]), progress=False)
    assert any('batch="loop"' in note for note in raised.value.__notes__)


def test_defaults_and_bound_arguments_need_no_axis():
    import functools

    def point(x, scale=2.0, *, shift):
        return scale * x + shift

    ds = sweep.run(functools.partial(point, shift=1.0), X, progress=False)
    assert ds["value"].values.tolist() == [3.0, 5.0]
    ds = sweep.run(jax.tree_util.Partial(point, shift=jnp.float32(1.0)), sweep.product(X, scale=[3.0]), progress=False)
    assert ds["value"].values.tolist() == [[4.0], [7.0]]
