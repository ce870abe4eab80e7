"""Loops: equal to their plain counterparts, frozen lanes, O(sqrt) memory, one trace of the body."""

from functools import partial
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from jaxsci.core import loops

KINDS = ["lax", "checkpointed"]


class Count(NamedTuple):
    i: jax.Array
    x: jax.Array


def _collatz(n, kind, max_steps=200):
    """Steps of 3n + 1 down to 1: a loop whose length is erratic and known."""
    return loops.bounded_while(
        lambda n: n > 1, lambda n: jnp.where(n % 2 == 0, n // 2, 3 * n + 1), n, max_steps=max_steps, kind=kind
    )


def _collatz_steps(n):
    steps = 0
    while n > 1:
        n, steps = (n // 2 if n % 2 == 0 else 3 * n + 1), steps + 1
    return steps


# --- bounded_while: truth ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_counts_exactly_and_freezes_finished_lanes(kind):
    n = jnp.arange(1, 60, dtype=jnp.int32)
    last, steps = jax.vmap(lambda n: _collatz(n, kind))(n)
    np.testing.assert_array_equal(steps, [_collatz_steps(int(k)) for k in n])
    assert bool(jnp.all(last == 1)) and steps.dtype == jnp.int32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_steps", [0, 1, 2, 3, 7, 8, 9, 10, 100])
def test_the_cap_is_exact(kind, max_steps):
    carry, steps = loops.bounded_while(lambda c: c < 9, lambda c: c + 1, 0, max_steps=max_steps, kind=kind)
    assert int(carry) == int(steps) == min(9, max_steps)


def test_a_traced_cap_per_lane():
    caps = jnp.arange(5)
    run = partial(loops.bounded_while, lambda c: c < 3, lambda c: c + 1, 0)
    carry, steps = jax.jit(jax.vmap(lambda cap: run(max_steps=cap)))(caps)
    np.testing.assert_array_equal(carry, [0, 1, 2, 3, 3])
    np.testing.assert_array_equal(steps, carry)


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(0, 30), st.integers(0, 30))
def test_both_kinds_equal_python(limit, max_steps):
    n, x = 0, np.float32(1)
    while n < limit and n < max_steps:
        n, x = n + 1, np.float32(x * np.float32(1.25))
    for kind in KINDS:
        carry, steps = loops.bounded_while(
            _below, _grow, (jnp.int32(limit), Count(0, 1.0)), max_steps=max_steps, kind=kind
        )
        assert int(steps) == int(carry[1].i) == n
        np.testing.assert_allclose(carry[1].x, x, rtol=1e-6)


def _below(c):
    return c[1].i < c[0]


def _grow(c):
    return c[0], Count(c[1].i + 1, c[1].x * 1.25)


@pytest.mark.parametrize("kind", KINDS)
def test_typed_keys_travel_in_the_carry(kind, key):
    def body(c):
        k, total = c
        k, sub = jax.random.split(k)
        return k, total + jax.random.uniform(sub)

    run = lambda k: loops.bounded_while(lambda c: c[1] < 3, body, (k, 0.0), max_steps=20, kind=kind)  # noqa: E731
    (k, total), steps = jax.vmap(run)(jax.random.split(key, 3))
    k_1, total_1, n = jax.random.split(key, 3)[1], 0.0, 0
    while total_1 < 3:
        (k_1, total_1), n = body((k_1, total_1)), n + 1
    assert int(steps[1]) == n and bool(k[1] == k_1)
    np.testing.assert_allclose(total[1], total_1, rtol=1e-6)


# --- bounded_while: gradients ------------------------------------------------------------------------------


@pytest.mark.x64
def test_gradient_of_a_newton_iteration_equals_the_unrolled_one():
    def loop(a, x):
        carry, _ = loops.bounded_while(
            lambda x: abs(x * x - a) > 0.5, lambda x: (x + a / x) / 2, x, max_steps=30, kind="checkpointed"
        )
        return carry

    def unrolled(a, x):
        for _ in range(4):  # 20 -> 10.2 -> 5.4 -> 3.4 -> 2.7, within .5 of 7 when squared
            x = (x + a / x) / 2
        return x

    a, x = jnp.float64(7.0), jnp.float64(20.0)
    got, expected = jax.jit(jax.grad(loop, (0, 1)))(a, x), jax.jit(jax.grad(unrolled, (0, 1)))(a, x)
    np.testing.assert_allclose(got, expected, rtol=1e-13)
    forward = jax.jit(lambda a, x: jax.jvp(loop, (a, x), (1.0, 0.0))[1])(a, x)
    np.testing.assert_allclose(forward, got[0], rtol=1e-13)


@pytest.mark.x64
def test_gradient_of_finished_lanes_is_finite_where_the_body_is_singular():
    # The last step lands on 0 exactly, where the derivative of the square root is infinite: a loop that went
    # on evaluating the body there would give NaN to the lane and to p, which all lanes share.
    def loss(p, x):
        def one(x):
            carry, steps = loops.bounded_while(
                lambda x: x > 0.5, lambda x: jnp.sqrt(x) * p - 1, x, max_steps=9, kind="checkpointed"
            )
            return carry * (1 + steps)

        return jnp.sum(jax.vmap(one)(x))

    def plain(p, x):
        def step(x):
            return jnp.sqrt(x) * p - 1

        return 2 * step(x[0]) + 3 * step(step(x[1])) + x[2]

    p, x = jnp.float64(1.0), jnp.array([1.0, 9.0, 0.0])  # 1 -> 0; 9 -> 2 -> .414; 0 takes no step
    got, expected = jax.jit(jax.grad(loss, (0, 1)))(p, x), jax.jit(jax.grad(plain, (0, 1)))(p, x)
    assert bool(jnp.isfinite(got[0])) and bool(jnp.all(jnp.isfinite(got[1])))
    contracts.assert_close(got, expected, 1e-13, "gradient")


def _temporary_bytes(function, *args):
    return jax.jit(jax.grad(function)).lower(*args).compile().memory_analysis().temp_size_in_bytes


def _while_loss(x, steps):
    (y, _), _ = loops.bounded_while(
        lambda c: c[1] < steps,
        lambda c: (jnp.sin(c[0]), c[1] + 1),
        (x, 0),
        max_steps=steps,
        kind="checkpointed",
    )
    return jnp.sum(y)


def _scan_loss(x, steps, scan=loops.checkpointed_scan):
    return jnp.sum(scan(lambda c, _: (jnp.sin(c), None), x, None, length=steps)[0])


@pytest.mark.parametrize("loss", [_while_loss, _scan_loss])
def test_reverse_mode_memory_grows_like_the_square_root(loss):
    x = jnp.linspace(0, 1, 10_000)
    small, large = (_temporary_bytes(partial(loss, steps=n), x) for n in (64, 1024))
    assert large < 5 * small, f"{small} -> {large} bytes for 16 times the steps"
    plain = _temporary_bytes(partial(_scan_loss, steps=1024, scan=jax.lax.scan), x)
    assert plain > 8 * large, f"a plain scan keeps {plain} bytes, this {large}"


# --- checkpointed_scan -------------------------------------------------------------------------------------


def _recurrence(p, carry, x):
    h = jnp.tanh(p * carry["h"] + x["u"])
    return {"h": h, "n": carry["n"] + 1}, (jnp.sum(h), carry["n"])


@pytest.mark.x64
@pytest.mark.parametrize(("length", "segment"), [(1, None), (7, None), (7, 3), (12, 1), (12, 5), (12, 50)])
def test_equals_scan_in_value_and_gradient(length, segment, key):
    xs = {"u": jax.random.normal(key, (length, 3))}
    carry = {"h": jnp.array([0.1, -0.2, 0.3]), "n": jnp.int32(4)}

    def run(scan, p, h, u):
        return scan(partial(_recurrence, p), {"h": h, "n": carry["n"]}, {"u": u})

    ours = partial(run, partial(loops.checkpointed_scan, segment=segment))
    theirs = partial(run, jax.lax.scan)
    args = (jnp.float64(0.7), carry["h"], xs["u"])

    def value_and_slopes(run):
        def scalar(*args):
            carry, (sums, counts) = run(*args)
            return jnp.sum(carry["h"] ** 2) + jnp.sum(jnp.cos(sums)), (carry, sums, counts)

        return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))(*args)

    contracts.assert_close(value_and_slopes(ours), value_and_slopes(theirs), 1e-13, "value and gradient")


def test_no_steps_and_keys_as_inputs(key):
    carry, ys = loops.checkpointed_scan(lambda c, x: (c + x, x), 1.0, jnp.zeros((0,)))
    assert float(carry) == 1 and ys.shape == (0,)
    keys = jax.random.split(key, 5)
    draw = lambda c, k: (c + jax.random.normal(k), k)  # noqa: E731
    ours, theirs = (scan(draw, jnp.float32(0), keys) for scan in (loops.checkpointed_scan, jax.lax.scan))
    contracts.assert_close(ours, theirs, 1e-6, "keys")


# --- one trace ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.0, jnp.float32(0)], ids=["weak", "strong"])
@pytest.mark.parametrize("kind", [*KINDS, "scan"])
@pytest.mark.parametrize("transform", ["eager", "jit", "vmap", "grad"])
def test_the_user_body_is_traced_once(start, kind, transform):
    if kind == "lax" and transform == "grad":
        transform = "jvp"
    calls = {"body": 0, "cond": 0}

    def cond(c):
        calls["cond"] += 1
        return c < 3

    def body(c, x=None):
        calls["body"] += 1
        new = c + 1.0
        return new if x is None else (new, new * x)

    def run(scale):
        carry = jax.tree.map(lambda s: s, start)
        if kind == "scan":
            return loops.checkpointed_scan(body, carry, scale * jnp.arange(7.0), segment=3)[1].sum()
        return scale * loops.bounded_while(cond, body, carry, max_steps=9, kind=kind)[0]

    one = jnp.float32(1)
    {
        "eager": lambda: run(one),
        "jit": lambda: jax.jit(run)(one),
        "vmap": lambda: jax.vmap(run)(jnp.ones(2)),
        "grad": lambda: jax.grad(run)(one),
        "jvp": lambda: jax.jvp(run, (one,), (one,)),
    }[transform]()
    assert calls == {"body": 1, "cond": int(kind != "scan")}


def test_a_python_number_takes_the_dtype_of_the_carry():
    with jax.enable_x64(True):
        carry, _ = loops.bounded_while(
            lambda c: c[1] < 3, lambda c: (0.5, c[1] + 1), (jnp.bfloat16(1), jnp.int32(0)), max_steps=5
        )
    assert carry[0].dtype == jnp.bfloat16 and float(carry[0]) == 0.5 and carry[1].dtype == jnp.int32


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("body", "match"),
    [
        (lambda c: Count(c.i, c.x.astype("f2")), r"carry\.x was float32\[3\] and came back as float16\[3\]"),
        (lambda c: Count(c.i, c.x[:2]), r"carry\.x was float32\[3\] and came back as float32\[2\]"),
        (lambda c: Count(c.i + 0.5, c.x), r"carry\.i was int32\[\] and came back as float32\[\]"),
        (lambda c: (c.i, c.x), "must keep the structure of carry"),
    ],
)
def test_a_carry_that_changes_is_named(kind, body, match):
    with pytest.raises(TypeError, match=match):
        loops.bounded_while(lambda c: c.i < 3, body, Count(0, jnp.zeros(3)), max_steps=4, kind=kind)
    with pytest.raises(TypeError, match=match):
        loops.checkpointed_scan(lambda c, _: (body(c), None), Count(0, jnp.zeros(3)), length=3)


@pytest.mark.bad_input
def test_messages():
    def run(**options):
        return loops.bounded_while(lambda c: c < 1, lambda c: c, 0.0, **options)

    with pytest.raises(ValueError, match="kind must be one of .* got 'eqx'"):
        run(max_steps=3, kind="eqx")
    with pytest.raises(ValueError, match="max_steps must be >= 0, got -1"):
        run(max_steps=-1)
    with pytest.raises(TypeError, match="max_steps must be static"):
        jax.jit(lambda n: run(max_steps=n, kind="checkpointed"))(3)
    with pytest.raises(TypeError, match=r"cond must return a Boolean scalar, got bool\[2\]"):
        loops.bounded_while(lambda c: c < 1, lambda c: c, jnp.zeros(2), max_steps=3)
    with pytest.raises(TypeError, match=r"cond must return a Boolean scalar, got a tuple"):
        loops.bounded_while(lambda c: (c < 1,), lambda c: c, 0.0, max_steps=3)
    scan = loops.checkpointed_scan
    with pytest.raises(ValueError, match="segment must be an int >= 1, got 0"):
        scan(lambda c, x: (c, x), 0.0, jnp.arange(3), segment=0)
    with pytest.raises(ValueError, match="pass length"):
        scan(lambda c, x: (c, x), 0.0)
    with pytest.raises(ValueError, match=r"xs\['b'\] has leading axis 4, expected 3"):
        scan(lambda c, x: (c, x), 0.0, {"a": jnp.arange(3), "b": jnp.arange(4)})
    with pytest.raises(ValueError, match="is a scalar"):
        scan(lambda c, x: (c, x), 0.0, jnp.float32(1))
    with pytest.raises(TypeError, match=r"body must return \(carry, y\), got ShapeDtypeStruct"):
        scan(lambda c, x: c, 0.0, jnp.arange(3))
