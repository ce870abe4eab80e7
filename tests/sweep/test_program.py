"""The compiled chunk: no communication between devices, captured arrays as arguments, lanes by memory and work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.sweep import _cost, _points, _prepare, _program, _trace


def uneven(x):
    """A loop of 4000 steps or more; its condition depends on the point."""
    return jax.lax.while_loop(lambda c: c[0] < 4000 + x, lambda c: (c[0] + 1, c[1] * 0.999 + x), (jnp.float32(0), x))


def program(point, space, lanes=4, devices=2, batch="vmap"):
    combination = _points.combinations(space)[0]
    traced = _trace.trace(point, space, combination)
    return _program.compile_chunk(space, combination, traced, jax.devices()[:devices], lanes, batch, ())


@pytest.mark.parametrize("batch", ["vmap", "map"])
def test_devices_do_not_meet_inside_a_loop(batch):
    space = sweep.product(x=np.linspace(0, 10, 8))
    chunk = program(uneven, space, batch=batch)
    text = chunk.compiled.as_text()
    assert "while" in text and not any(word in text for word in ("all-reduce", "all-gather", "collective"))
    values, codes = chunk(np.arange(8))
    assert values["0"].tolist() == [4000.0 + k for k in np.ceil(np.linspace(0, 10, 8))] and not codes.any()


def test_a_sharded_vmap_would_make_them_meet():
    """Why shard_map: the same loop under plain vmap on sharded inputs has an all-reduce in its condition."""
    mesh = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    x = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P("i")))
    assert "all-reduce" in jax.jit(jax.vmap(uneven)).lower(x).compile().as_text()


def test_captured_arrays_are_arguments_not_constants():
    big = jnp.arange(50_000.0)
    chunk = program(lambda x: x * big[:3] + big.sum(), sweep.product(x=np.arange(8.0)))
    assert any(leaf.nbytes == big.nbytes for leaf in jax.tree.leaves(chunk.arguments))
    assert len(chunk.compiled.as_text()) < 100_000
    np.testing.assert_allclose(chunk(np.arange(2))[0]["value"][1], np.arange(3) + big.sum(), rtol=1e-6)


def test_the_last_chunk_is_padded_with_its_last_point():
    chunk = program(lambda x: x, sweep.product(x=np.arange(11.0)))
    values, codes = chunk(np.asarray([8, 9, 10]))
    assert values["value"].tolist() == [8.0, 9.0, 10.0] and codes.shape == (3,)


def cost(function, *args):
    return _cost.cost_of(jax.make_jaxpr(function)(*args).jaxpr)


def test_cost_counts_loops_products_and_branches():
    a = jnp.ones((20, 30))
    product = cost(lambda a: a @ a.T, a).operations
    assert 2 * 20 * 20 * 30 <= product < 1.1 * 2 * 20 * 20 * 30
    body = cost(lambda x: jnp.sin(x) + 1, jnp.ones(100)).operations
    loop = cost(lambda x: jax.lax.fori_loop(0, 50, lambda i, x: jnp.sin(x) + 1, x), jnp.ones(100))
    assert 50 * body <= loop.operations <= 80 * body and not loop.uneven
    assert cost(lambda x: jax.lax.cond(x[0] > 0, jnp.sin, lambda x: x, x), jnp.ones(100)).operations < 2 * body
    nested = cost(lambda x: jax.jit(lambda y: jax.lax.while_loop(lambda z: z < 9, lambda z: z + 1, y))(x), 1.0)
    assert nested.uneven and nested.operations >= 100
    assert cost(lambda x: x[:, None] * x[None], jnp.ones(100)).bytes == 40_000


def test_lanes_shrink_with_work_and_memory_and_fill_dispatches_evenly():
    def lanes(point, n, **options):
        found = sweep.plan(point, sweep.product(x=np.arange(float(n))), **options)
        return found.lanes, found.dispatches

    assert lanes(lambda x: x, 100_000) == (1021, 49)
    assert lanes(lambda x: x, 10, devices=1) == (10, 1)
    assert lanes(lambda x: jax.lax.fori_loop(0, 10**7, lambda i, y: y * 0.9, x), 100_000)[0] == 8
    assert lanes(lambda x: x * jnp.ones(10**7), 1000)[0] == 1, "40 MB for each point"
    assert lanes(lambda x: x, 7, lanes=3) == (3, 2)
    assert lanes(lambda x: x, 7, batch="loop") == (1, 7)
    accelerator = [type("Device", (), {"platform": "gpu"})()]
    traces = [_trace.trace(lambda x: x, sweep.product(x=[1.0]), _points.combinations(sweep.product(x=[1.0]))[0])]
    assert _prepare._lanes("vmap", traces, accelerator, 10**6) > 10_000


def test_plan():
    space = sweep.product(
        x=np.arange(10.0),
        t=sweep.stack({"a": np.ones(100, np.float32), "b": np.ones(100, np.float32)}),
        n=sweep.static([1, 2, 3]),
    )
    traces = []

    def point(x, t, n):
        traces.append(n)
        return {"y": x * n, "z": t + x}

    found = sweep.plan(point, space)
    assert (found.points, found.combinations, found.compilations, found.devices) == (60, 3, 3, 2)
    assert traces == [1, 2, 3] and found.batch == "vmap"
    assert found.bytes_per_point == 4 + 400 + 4 and found.output_bytes == 60 * 408 and found.stack_bytes == 800
    assert found.variables == {"y": "float32[]", "z": "float32[100]"}
    assert found.lanes * found.devices * found.dispatches >= 60
    text = str(found)
    assert "24.5 kB" in text and "800 B" in text and "z            float32[100]" in text
    assert "known after the first point" in str(sweep.plan(point, space, batch="loop"))


def test_summary():
    def point(x, key):
        return {"loss": (x - 2) ** 2 / (x - 3), "v": jnp.ones(2) * x}

    ds = sweep.run(point, sweep.product(x=[1.0, 2.0, 3.0, 5.0], key=sweep.keys(2)), progress=False)
    found = sweep.summary(ds, "loss")
    assert found.best == (-0.5, {"x": 1.0, "key": 0}) and found.worst == (4.5, {"x": 5.0, "key": 0})
    assert sweep.summary(ds, "loss", mode="max").best[0] == 4.5
    assert (found.points, found.ok) == (8, 6)
    ((cause, (count, where)),) = found.failures.items()
    assert cause.startswith("non-finite result") and count == 2 and where[1] == {"x": 3.0, "key": 1}
    assert found.run_seconds > 0 and found.compile_seconds > 0
    text = str(found)
    assert "6 of 8 points ok" in text and "best  -0.5 at x=1.0, key=0" in text and "2 points: non-finite result" in text
    none = sweep.summary(sweep.run(lambda x: x / 0, sweep.product(x=[0.0]), progress=False), "value")
    assert none.best is None and "best  none" in str(none)
    zipped = sweep.run(lambda a, b: a * b, sweep.product(p=sweep.zip(a=[1.0, 2.0], b=[3.0, 1.0])), progress=False)
    assert sweep.summary(zipped, "value").best == (2.0, {"a": 2.0, "b": 1.0})


@pytest.mark.bad_input
def test_summary_bad_input():
    ds = sweep.run(lambda x: x * jnp.ones(3), sweep.product(x=[1.0]), progress=False)
    with pytest.raises(ValueError, match=r"'value' has dimensions of its own, \('value_0',\); reduce them first"):
        sweep.summary(ds, "value")
    with pytest.raises(ValueError, match="mode must be 'min' or 'max', got 'best'"):
        sweep.summary(ds, "value", mode="best")
    with pytest.raises(ValueError, match="unknown variable 'loss'"):
        sweep.summary(ds, "loss")
    with pytest.raises(ValueError, match="has no status"):
        sweep.summary(ds.drop_vars("status"), "value")
