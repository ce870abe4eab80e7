"""Spaces: which points they hold, how they are labelled, and what they refuse."""

import itertools
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep


class Table(eqx.Module):
    weights: jax.Array
    shift: jax.Array
    corrected: bool = eqx.field(static=True)


class Pair(NamedTuple):
    left: object
    right: object


def echo(**axes):
    """The point itself."""
    return {f"out_{name}": value for name, value in axes.items()}


def points(space, **options):
    """The arguments of every point, by the index of the point."""
    return sweep.run(echo, space, progress=False, batch="loop", **options)


# --- which points ------------------------------------------------------------------------------------------


def test_product_is_the_cartesian_product_in_order():
    space = sweep.product(a=[1.0, 2.0, 3.0], b=sweep.static([10, 20]), c=np.arange(2))
    assert space.sizes == {"a": 3, "b": 2, "c": 2} and space.num_points == 12
    ds = points(space)
    assert ds["status"].dims == ("a", "b", "c")
    for (i, a), (j, b), (k, c) in itertools.product(enumerate([1.0, 2.0, 3.0]), enumerate([10, 20]), enumerate([0, 1])):
        found = ds.isel(a=i, b=j, c=k)
        assert (found["out_a"], found["out_b"], found["out_c"]) == (a, b, c)


def test_zip_pairs_along_the_first_axis_and_product_renames_it():
    paired = sweep.zip(lr=[0.1, 0.2], decay=[1.0, 0.5])
    ds = points(sweep.product(paired, n=[1, 2, 3]))
    assert dict(ds.sizes) == {"lr": 2, "n": 3} and ds["decay"].dims == ("lr",)
    assert ds["out_decay"].sel(lr=0.2, n=3) == 0.5
    named = points(sweep.product(n=[1, 2, 3], pair=paired))
    assert named["status"].dims == ("n", "pair") and named["lr"].dims == ("pair",)
    np.testing.assert_array_equal(named["out_lr"], np.tile([0.1, 0.2], (3, 1)))


def test_zip_flattens_products_first_dimension_slowest():
    grid = sweep.product(x=[1.0, 2.0, 3.0], y=sweep.static(["u", "v"]))
    ds = sweep.run(lambda x, y, w: {"xw": x * w, "long": y == "v"}, sweep.zip(grid, w=np.arange(6.0)), progress=False)
    assert dict(ds.sizes) == {"x": 6}
    np.testing.assert_array_equal(ds["xw"], np.repeat([1.0, 2.0, 3.0], 2) * np.arange(6))
    np.testing.assert_array_equal(ds["long"], [False, True] * 3)
    assert list(ds["y"].values) == ["u", "v"] * 3


def test_a_repeated_static_value_in_a_zip_is_one_combination():
    traces = []

    def point(solver, x):
        traces.append(solver)
        return x + (solver == "b")

    space = sweep.zip(solver=sweep.static(["a", "b", "a"]), x=[1.0, 2.0, 3.0])
    ds = sweep.run(point, space, progress=False)
    np.testing.assert_array_equal(ds["value"], [1.0, 3.0, 3.0])
    assert sorted(traces) == ["a", "b"]


def test_products_nest():
    left, right = sweep.product(a=[1, 2]), sweep.product(b=[1, 2, 3], c=[1])
    assert sweep.product(left, right, d=[5]).sizes == {"a": 2, "b": 3, "c": 1, "d": 1}


def test_the_repr_is_short():
    assert repr(sweep.product(a=np.arange(10**6), b=[1.0, 2.0])) == "Space(2000000 points = a: 1000000 x b: 2)"


# --- static ------------------------------------------------------------------------------------------------


def test_static_labels():
    def slow(x):
        return x

    assert sweep.static([1, 2]).labels.dtype.kind == "i"
    assert sweep.static([1, 2.5]).labels.tolist() == [1.0, 2.5]
    assert sweep.static([True, False]).labels.dtype == bool
    assert sweep.static([1, "a", None]).labels.tolist() == ["1", "a", "None"]
    assert sweep.static([slow, jnp.sin, jax.tree_util.Partial(jnp.cos)]).labels.tolist() == ["slow", "sin", "cos"]
    assert sweep.static([jnp.float32, (1, 2)]).labels.tolist() == ["float32", "(1, 2)"]
    assert sweep.static({"small": [1], "large": {"n": [2]}}).labels.tolist() == ["small", "large"]


def test_static_values_may_be_unhashable_and_reach_the_point_as_they_are():
    space = sweep.product(
        cfg=sweep.static({"one": {"n": [1, 2]}, "two": {"n": [3]}}),
        f=sweep.static([jnp.sin, jnp.cos]),
        table=sweep.static({"t": Table(jnp.ones(2), jnp.zeros(2), True)}),
    )
    ds = sweep.run(lambda cfg, f, table: f(0.0) + sum(cfg["n"]) + table.weights.sum(), space, progress=False)
    np.testing.assert_allclose(ds["value"].values[..., 0], [[5, 6], [5, 6]])


# --- stack -------------------------------------------------------------------------------------------------


def test_stack_of_modules_partials_and_records():
    tables = {n: Table(jnp.full(2, w), jnp.float32(s), True) for n, w, s in (("a", 1.0, 0.5), ("b", 2.0, -1.0))}
    policies = {
        "double": jax.tree_util.Partial(lambda_scale, jnp.float32(2.0)),
        "treble": jax.tree_util.Partial(lambda_scale, jnp.float32(3.0)),
    }
    records = {"p": Pair(jnp.float32(1), {"deep": 7}), "q": Pair(jnp.float32(2), {"deep": 8})}

    @chex.assert_max_traces(n=1)
    def point(table, policy, record, x):
        return policy(x) + table.weights.sum() * table.shift + record.left * record.right["deep"]

    space = sweep.product(
        table=sweep.stack(tables, dims=("solver",)),
        policy=sweep.stack(policies),
        record=sweep.stack(records),
        x=[1.0, 10.0],
    )
    ds = sweep.run(point, space, progress=False)
    assert ds["value"].dims == ("solver", "policy", "record", "x")
    for s, p, r, x in itertools.product(tables, policies, records, [1.0, 10.0]):
        want = point(tables[s], policies[p], records[r], x)
        np.testing.assert_allclose(ds["value"].sel(solver=s, policy=p, record=r, x=x), want, rtol=1e-6)


def lambda_scale(factor, x):
    return factor * x


def test_stack_spans_a_grid_of_two_dimensions():
    entries = {(s, n): {"w": jnp.float32(10 * i + n)} for i, s in enumerate("ab") for n in (1, 2, 3)}
    ds = sweep.run(
        lambda table, x: table["w"] * x,
        sweep.product(x=[1.0, 2.0], table=sweep.stack(entries, dims=("solver", "order"))),
        progress=False,
    )
    assert ds["value"].dims == ("x", "solver", "order")
    assert ds["value"].sel(x=2.0, solver="b", order=3) == 26.0
    flat = sweep.zip(sweep.product(table=sweep.stack(entries, dims=("solver", "order"))), y=np.arange(6.0))
    assert points_equal(sweep.run(lambda table, y: table["w"] + 100 * y, flat, progress=False)["value"].values)


def points_equal(values):
    want = [w + 100 * i for i, w in enumerate([1, 2, 3, 11, 12, 13])]
    return np.array_equal(values, np.float32(want))


def test_stack_pads_unequal_lengths_where_asked():
    entries = {"short": {"t": np.array([1.0, 2.0]), "n": 2}, "long": {"t": np.arange(1.0, 5.0), "n": 4}}
    with pytest.raises(ValueError, match=r"\['t'\] differs in shape \(short: \(2,\), long: \(4,\)\)"):
        sweep.stack(entries)
    space = sweep.product(table=sweep.stack(entries, pad=-1.0))
    ds = sweep.run(lambda table: {"t": table["t"], "n": table["n"]}, space, progress=False)
    np.testing.assert_array_equal(ds["t"], [[1, 2, -1, -1], [1, 2, 3, 4]])
    assert ds["n"].values.tolist() == [2, 4] and ds["n"].dtype == np.int32


def test_stack_takes_the_union_of_features():
    entries = {"plain": Table(jnp.ones(2), jnp.zeros(()), False), "full": Table(jnp.ones(2), jnp.ones(()), True)}
    with pytest.raises(ValueError, match="'plain' and 'full' have different structures; static parts differ"):
        sweep.stack(entries)

    def unify(tables):
        return [Table(t.weights, t.shift, any(u.corrected for u in tables)) for t in tables]

    ds = sweep.run(
        lambda table: table.shift + table.corrected,
        sweep.product(table=sweep.stack(entries, unify=unify)),
        progress=False,
    )
    assert ds["value"].values.tolist() == [1.0, 2.0]


def test_stack_holds_typed_keys():
    entries = {"a": {"key": jax.random.key(1)}, "b": {"key": jax.random.key(2)}}
    space = sweep.product(s=sweep.stack(entries))
    ds = sweep.run(lambda s: jax.random.bits(s["key"], (2,)), space, progress=False)
    for label, seed in (("a", 1), ("b", 2)):
        np.testing.assert_array_equal(ds["value"].sel(s=label), jax.random.bits(jax.random.key(seed), (2,)))


# --- keys --------------------------------------------------------------------------------------------------


def test_keys_are_those_of_their_seeds_and_common_to_all_points():
    ds = sweep.run(
        lambda key, lr: jax.random.bits(key, (2,)),
        sweep.product(lr=[0.1, 0.2, 0.3], key=sweep.keys([5, 2**31 - 1, 0])),
        progress=False,
    )
    assert ds["key"].values.tolist() == [5, 2**31 - 1, 0]
    for seed in (5, 2**31 - 1, 0):
        want = jax.random.bits(jax.random.key(seed), (2,))
        for i in range(3):
            np.testing.assert_array_equal(ds["value"].sel(key=seed).isel(lr=i), want)


def test_independent_keys_differ_at_every_point_and_do_not_depend_on_the_size_of_the_space():
    def bits(key, lr):
        return jax.random.bits(key, ())

    def found(n, m, **options):
        space = sweep.product(lr=np.arange(1.0, n + 1), key=sweep.keys(m, seed=3, independent=True))
        return sweep.run(bits, space, progress=False, **options)["value"].values

    small, big = found(2, 3), found(3, 4)
    assert len(np.unique(big)) == 12
    np.testing.assert_array_equal(big[:2, :3], small)
    np.testing.assert_array_equal(found(2, 3, batch="loop"), small)


# --- bad input ---------------------------------------------------------------------------------------------

BAD = [
    (lambda: sweep.product(), ValueError, "the space is empty; name at least one axis"),
    (lambda: sweep.zip(), ValueError, "the space is empty"),
    (lambda: sweep.product(a=[]), ValueError, "axis 'a' is empty"),
    (lambda: sweep.product(a=np.ones((2, 3))), ValueError, r"axis 'a' must be one-dimensional, got shape \(2, 3\)"),
    (lambda: sweep.product(a=1.0), ValueError, r"got shape \(\); .*\[x\] for a single value"),
    (lambda: sweep.product(a=[[1, 2], [3]]), ValueError, "axis 'a' is ragged"),
    (lambda: sweep.product(a="xyz"), TypeError, "axis 'a' must be an array of numbers, got str; use sweep.static"),
    (lambda: sweep.product(a=["x", "y"]), TypeError, r"must hold real numbers, got dtype <U1; use sweep.static"),
    (lambda: sweep.product(a=[jnp.sin]), TypeError, r"must hold real numbers, got dtype object; use sweep.static"),
    (lambda: sweep.product(a={"x": 1}), TypeError, "sweep.stack"),
    (lambda: sweep.product(a=[1j]), TypeError, "two axes for real and imaginary parts"),
    (lambda: sweep.product(a=jax.random.split(jax.random.key(0), 2)), TypeError, r"typed keys; sweep.keys\(n"),
    (lambda: sweep.product(key=jax.random.PRNGKey(0)), TypeError, r"raw uint32 keys; use sweep.keys"),
    (lambda: sweep.product(k=jax.random.split(jax.random.PRNGKey(0), 3)), TypeError, "raw uint32 keys"),
    (lambda: sweep.product([1, 2]), TypeError, "positional arguments are spaces, got list"),
    (lambda: sweep.product(sweep.product(a=[1]), a=[2]), ValueError, "dimension 'a' appears twice"),
    (lambda: sweep.zip(sweep.product(a=[1]), a=[2]), ValueError, "axis 'a' appears twice"),
    (
        lambda: sweep.product(t=sweep.stack({"x": 1}, dims=("a",)), a=[1]),
        ValueError,
        "dimension 'a' appears twice",
    ),
    (lambda: sweep.product(g=sweep.product(a=[1], b=[2])), ValueError, "of 2 dimensions; pass it positionally"),
    (lambda: sweep.zip(g=sweep.product(a=[1], b=[2])), ValueError, "pass the space 'g' positionally"),
    (lambda: sweep.zip(a=[1, 2], b=[1, 2, 3]), ValueError, "equal lengths, got a: 2, b: 3"),
    (lambda: sweep.product(a=np.arange(2**16), b=np.arange(2**16)), ValueError, "exceed 2.31 - 1"),
    (lambda: jax.jit(lambda x: sweep.product(a=x))(jnp.ones(2)), TypeError, "axis 'a' is traced"),
    (lambda: sweep.static([]), ValueError, "the axis is empty"),
    (lambda: sweep.static("abc"), TypeError, "put it into a list"),
    (lambda: sweep.static([np.ones(2)]), TypeError, "a ndarray has no natural label; give labels"),
    (lambda: sweep.static([{"a": 1}]), TypeError, "a dict has no natural label"),
    (lambda: sweep.static([lambda x: x, lambda x: -x]), ValueError, "two different values are labelled '<lambda>'"),
    (lambda: sweep.stack({}), ValueError, "the axis is empty"),
    (lambda: sweep.stack([1, 2]), TypeError, "expected {label: pytree}, got list"),
    (lambda: sweep.stack({"a": {"x": 1}, "b": {"y": 1}}), ValueError, r"'a' and 'b' have different .*\['x'\] is in"),
    (lambda: sweep.stack({"a": "text"}), TypeError, "the value itself of 'a' is a str, not an array"),
    (lambda: sweep.stack({"a": (), "b": ()}), ValueError, "hold no arrays"),
    (lambda: sweep.stack({"a": True, "b": 1.0}), ValueError, r"differs in kind \(a: bool, b: float64\)"),
    (
        lambda: sweep.stack({"a": np.ones((2, 2)), "b": np.ones((2, 3))}, pad=0.0),
        ValueError,
        "differs beyond its leading axis",
    ),
    (
        lambda: sweep.stack({("a", 1): 1, ("b", 2): 2}, dims=("s", "n")),
        ValueError,
        "do not fill the grid .* is missing",
    ),
    (lambda: sweep.stack({"a": 1}, dims=("s", "n")), ValueError, "need labels of 2 parts"),
    (lambda: sweep.keys(0), ValueError, "the axis is empty"),
    (lambda: sweep.keys([1, -2]), ValueError, r"seeds must lie in \[0, 2\^31\), got -2 to 1"),
    (lambda: sweep.keys(2, seed=2**31), ValueError, "seeds must lie in"),
    (lambda: sweep.keys([0.5]), TypeError, "list of integer seeds, got float64"),
    # what would silently become something else
    (lambda: sweep.product(a=np.ma.array([1.0, 2.0], mask=[0, 1])), TypeError, "axis 'a' is a masked array"),
    (lambda: sweep.stack({"a": np.ma.array([1.0], mask=[1])}), TypeError, "the value itself of 'a' is a masked array"),
    (lambda: sweep.stack({1: np.ones(2), "1": np.ones(2)}), ValueError, "the labels 1 and '1' are both '1'"),
    (
        lambda: sweep.stack({(s, n): 1.0 for s in "ab" for n in (1, "1")}, dims=("s", "n")),
        ValueError,
        "the labels 1 and '1' are both '1'",
    ),
    (lambda: _padded(np.int64, 0.5), ValueError, "pad=0.5 is no int64, which leaf the value itself holds"),
    (lambda: _padded(np.int64, np.nan), ValueError, "pad=nan is no int64"),
    (lambda: _padded(np.uint8, -1), ValueError, "pad=-1 is no uint8"),
    (lambda: _padded(np.float32, 1e300), ValueError, "pad=1e[+]300 is no float32"),
    (lambda: _padded(np.float64, "x"), ValueError, "pad='x' is no float64"),
]


def _padded(dtype, pad):
    return sweep.stack({"a": np.ones(1, dtype), "b": np.ones(2, dtype)}, pad=pad)


@pytest.mark.bad_input
@pytest.mark.parametrize("case", range(len(BAD)))
def test_bad_input(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=match):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("values", "match"),
    [
        ([1, 2**40], "axis 'n' exceeds int32: it holds 1099511627776"),
        ([1.0, 1e300], "axis 'n' exceeds float32: it holds 1e[+]300"),
        ([0.0, 1e-60], "axis 'n' exceeds float32: it holds 1e-60"),
    ],
)
def test_numbers_that_jax_would_change_raise(values, match):
    """Rounding is no change; infinity, zero and another integer are. A function on the host gets them as they are."""
    space, seen = sweep.product(n=values), []
    with pytest.raises(ValueError, match=match):
        sweep.run(lambda n: n, space, progress=False)
    with pytest.raises(ValueError, match="an output of <lambda> exceeds"):
        sweep.run(lambda m: np.asarray(values) * 1, sweep.product(m=[1.0]), progress=False)
    sweep.run(lambda n: seen.append(n) or 1.0, space, batch="loop", progress=False)
    assert seen == values
    ds = sweep.run(lambda x: x, sweep.product(x=[0.1, np.inf, np.nan, 0.0]), allow_nan="value", progress=False)
    np.testing.assert_array_equal(ds["value"], np.float32([0.1, np.inf, np.nan, 0.0]))
