"""Statuses: bits that merge, texts that explain, a check that names the failing entries."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsci
from jaxsci import gp
from jaxsci.core import status


class Result(NamedTuple):
    value: object
    status: object


class Outer(NamedTuple):
    inner: object
    status: object


CORE = [
    status.NONFINITE_INPUT, status.NONFINITE_RESULT, status.MAX_STEPS, status.STAGNATED, status.DIVERGED,
    status.DEGENERATE, status.OUT_OF_RANGE, status.SINGULAR, status.NOT_RUN,
    status.NONFINITE_UPDATE,
]  # fmt: skip


def test_bits_are_distinct_powers_of_two_with_text():
    assert CORE == [1 << i for i in range(10)] and status.OK == 0
    for code in CORE:
        name, _, rest = jaxsci.explain(code).partition(": ")
        cause, remedy = rest.split("; ")
        assert name and cause and remedy and "unknown" not in name


def test_flag_merge_and_reduce():
    codes = jax.vmap(lambda x: status.flag(x > 1, status.DIVERGED))(jnp.arange(4))
    assert codes.dtype == jnp.int32
    np.testing.assert_array_equal(codes, [0, 0, 16, 16])
    merged = status.merge(codes, jnp.int32([1, 0, 16, 2]), jnp.int32([0, 0, 1, 0]))
    np.testing.assert_array_equal(merged, [1, 0, 17, 18])
    table = jnp.int32([[1, 0], [4, 4]])
    assert int(status.reduce(table)) == 5
    np.testing.assert_array_equal(status.reduce(table, axis=0), [5, 4])
    np.testing.assert_array_equal(status.reduce(table, axis=1), [1, 4])


def test_explain():
    assert jaxsci.explain(0) == "ok"
    assert jaxsci.explain(jnp.int32(6)).splitlines() == [jaxsci.explain(2), jaxsci.explain(4)]
    assert "unknown bits 0x40000000: set by a room that is not loaded here" in jaxsci.explain(1 << 30, "nobody")


def test_rooms_share_positions(monkeypatch):
    monkeypatch.setattr(status, "_TABLE", dict(status._TABLE))
    assert status.register("one", 20, "first", "a", "b") == 1 << 20
    assert status.register("one", 20, "first", "a", "b") == 1 << 20, "registering again is harmless"
    assert status.register("two", 20, "second", "c", "d") == 1 << 20
    assert jaxsci.explain(1 << 20, "two") == "second [two]: c; d"
    assert jaxsci.explain((1 << 20) | 1, "one").splitlines()[1] == "first [one]: a; b"
    assert "first" in jaxsci.explain(1 << 20) and "second" in jaxsci.explain(1 << 20)
    with pytest.raises(ValueError, match="bit 20 of room 'one' is 'first' already, got 'other'"):
        status.register("one", 20, "other", "a", "b")
    for room, bit in (("one", 15), ("one", 31), ("core", 16)):
        with pytest.raises(ValueError, match=rf"must lie in \[\d+, \d+\], got {bit}"):
            status.register(room, bit, "x", "a", "b")


def test_notices_pass_the_check_and_are_explained(monkeypatch):
    monkeypatch.setattr(status, "_TABLE", dict(status._TABLE))
    note = status.register("one", 22, "patched", "a", "b", notice=True)
    assert jaxsci.explain(note, "one") == "patched [one], a notice: a; b"
    assert status.faults(note) == 0 and status.faults(note | status.DIVERGED) == status.DIVERGED
    np.testing.assert_array_equal(status.faults(np.array([0, note, note | 1], np.int32)), [0, 0, 1])
    result = Result(0, jnp.int32([note, 0]))
    assert jaxsci.check(result) is result
    with pytest.raises(status.StatusError, match=r"1 of 2 failed\n  \[1\]: diverged.* \| patched \[one\], a notice"):
        jaxsci.check(Result(0, jnp.int32([note, note | status.DIVERGED])))
    fault = status.register("two", 22, "broken", "c", "d")
    assert status.faults(note) == fault, "of two readings the fault counts"
    assert status.faults(note, "one") == 0


def test_a_repeated_point_is_a_notice_of_gp():
    process = gp.condition(gp.kernels.rbf(1.0), np.zeros((3, 1), np.float32), np.ones(3, np.float32), noise=1e-12)
    assert int(process.status) == gp.JITTERED and jaxsci.check(process) is process


@pytest.mark.bad_input
def test_what_cannot_be_registered_is_not_stored():
    before = dict(status._TABLE)
    for arguments in (("me", 16.0, "a", "b", "c"), ("me", True, "a", "b", "c"), ("me", 20, "a", None, "c")):
        with pytest.raises(TypeError, match="status.register: "):
            status.register(*arguments)
    assert status._TABLE == before and jaxsci.explain(1 << 16)


def test_check_returns_what_is_fine():
    result = Result(jnp.ones(3), jnp.zeros(3, jnp.int32))
    assert jaxsci.check(result) is result
    assert jaxsci.check({"a": [result, result]})


def test_check_names_the_failing_entries():
    codes = jnp.zeros((3, 4), jnp.int32).at[1, 2].set(status.MAX_STEPS).at[2, 0].set(status.DIVERGED)
    with pytest.raises(jaxsci.core.status.StatusError) as error:
        jaxsci.check(Outer(Result(0, codes), jnp.int32(0)))
    lines = str(error.value).splitlines()
    assert lines[0] == "inner.status: 2 of 12 failed"
    assert lines[1].startswith("  [1, 2]: step cap reached") and lines[2].startswith("  [2, 0]: diverged")
    with pytest.raises(status.StatusError, match=r"status: 1 of 1 failed\n  the result: stagnated"):
        jaxsci.check(Result(0, jnp.int32(8)))
    with pytest.raises(status.StatusError, match="and 15 more"):
        jaxsci.check({"a": Result(0, np.full(20, 4))})
    with pytest.raises(status.StatusError, match=r"0\.status: 1 of 2"):
        jaxsci.check([Result(0, np.array([0, 1]))])


def test_check_names_coordinates_of_a_dataset():
    xarray = pytest.importorskip("xarray")
    codes = np.zeros((2, 3), np.int32)
    codes[1, 2] = status.SINGULAR
    ds = xarray.Dataset(
        {"x": ("rate", [1.0, 2.0]), "out.status": (("rate", "seed"), codes)}, coords={"rate": [0.1, 0.2]}
    )
    with pytest.raises(status.StatusError, match=r"out\.status: 1 of 6 failed\n  rate=0.2, seed=2: singular"):
        jaxsci.check(ds)
    assert jaxsci.check(ds.isel(seed=[0, 1])) is not None


@pytest.mark.bad_input
def test_check_messages():
    with pytest.raises(ValueError, match="expected a result with a field 'status', got dict without one"):
        jaxsci.check({"a": 1})
    with pytest.raises(TypeError, match="inside jit or vmap read the field 'status'"):
        jax.vmap(lambda s: jaxsci.check(Result(0, s)).status)(jnp.zeros(2, jnp.int32))


def test_check_reads_dataclasses():
    @dataclasses.dataclass
    class Result:
        value: float
        status: np.ndarray

    with pytest.raises(status.StatusError, match=r"\[1\]: diverged"):
        status.check(Result(1.0, np.array([0, int(status.DIVERGED)])))


def test_arrays_of_statuses_are_explained_and_checked_by_index():
    codes = np.array([0, 4, 6], np.int32)
    text = jaxsci.explain(codes)
    assert "non-finite result (1 of 3)" in text and "step cap reached (2 of 3)" in text
    assert jaxsci.explain(np.zeros(3, int)) == jaxsci.explain(np.zeros(0, int)) == "ok"
    with pytest.raises(status.StatusError, match=r"2 of 3 failed\n  \[1\]: step cap"):
        jaxsci.check(codes)
    assert jaxsci.check(jnp.zeros((2, 2), jnp.int32)).shape == (2, 2)
    with pytest.raises(TypeError, match="explain: expected an integer status .*, got float"):
        jaxsci.explain(4.0)


def test_a_cut_data_set_still_names_the_failing_entry():
    xarray = pytest.importorskip("xarray")
    codes = (("x", "y"), np.array([[0, 4], [0, 0]], np.int32))
    ds = xarray.Dataset({"status": codes}, coords={"x": [0.1, 0.2], "y": ["a", "b"]})
    with pytest.raises(status.StatusError, match="  x=0.1, y=b: step cap"):
        jaxsci.check(ds.isel(x=0))
    with pytest.raises(status.StatusError, match="  x=0.1, y=b: step cap"):
        jaxsci.check(ds.isel(x=0, y=1))
