"""The contract checks over every public name, and proof that each of them can fail."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
import registry

NAMES, ENTRIES = registry.public_names(), registry.entries()
RECORDS = registry.records(NAMES)


def _of(kind):
    return sorted(name for name, entry in ENTRIES.items() if isinstance(entry, kind))


def test_every_public_name_is_registered():
    assert not registry.missing(NAMES, ENTRIES), "public names without an entry in tests/registered/"
    assert not registry.stale(NAMES, ENTRIES), "entries whose public name is gone"


def test_skips_carry_reasons():
    print(registry.table())
    assert all(len(reason) > 10 for entry in ENTRIES.values() for reason in entry.skip.values())


@pytest.mark.parametrize("name", _of(contracts.Compiled))
def test_compiled_float32(name, key):
    contracts.check_compiled(ENTRIES[name], key, "float32")


@pytest.mark.x64
@pytest.mark.parametrize("name", _of(contracts.Compiled))
def test_compiled_x64(name, key):
    if not {"dtype", "float32"} & set(ENTRIES[name].skip):
        contracts.check_compiled(ENTRIES[name], key, "float32", ("dtype",))
    contracts.check_compiled(ENTRIES[name], key, "float64", ("dtype",))


@pytest.mark.slow  # compiles everything once more, and every gradient; the gate runs it on one of the two Pythons
@pytest.mark.x64
@pytest.mark.parametrize("name", _of(contracts.Compiled))
def test_compiled_float64(name, key):
    contracts.check_compiled(ENTRIES[name], key, "float64", ("transforms", "grad"))


@pytest.mark.parametrize("name", _of(contracts.Builder))
def test_builder(name):
    contracts.check_builder(ENTRIES[name])


@pytest.mark.parametrize("name", _of(contracts.Driver))
def test_driver(name, tmp_path):
    contracts.check_driver(ENTRIES[name], tmp_path)


@pytest.mark.parametrize("name", _of(contracts.Family))
def test_family_float32(name, key):
    ENTRIES[name].check(key, "float32")


@pytest.mark.slow
@pytest.mark.x64
@pytest.mark.parametrize("name", _of(contracts.Family))
def test_family_float64(name, key):
    ENTRIES[name].check(key, "float64")


def test_records_have_docstrings():
    assert not contracts.failing_records("docstring", RECORDS, ENTRIES)


def test_the_docstring_of_a_record_names_its_fields():
    failing = contracts.failing_records("fields", RECORDS, ENTRIES)
    assert not failing, "\n".join(["`Attributes:` must name all fields, in their order, in:", *failing])


# --- the checks themselves can fail ------------------------------------------------------------------------


def _normal(key, dtype):
    return (jax.random.normal(key, (3,), dtype),)


def test_a_missing_entry_is_found():
    class Plain:
        __module__ = "jaxsci.linear"

    names = {"solve": max, "brand_new": jax.jit(max), "Plain": Plain, "Pair": _Pair, "Kind": dict[str, int], "SIZE": 3}
    assert registry.missing(names, {"solve": None}) == ["Plain", "brand_new"]
    assert registry.stale({}, {"jaxsci.gone": None}) == ["jaxsci.gone"]


class _Pair(NamedTuple):
    """Two numbers.

    Attributes:
        left: the first,
            said at length: twice.

        right: the second.

    Further words.
    """

    left: float
    right: float


class _Bare(NamedTuple):
    left: float


def test_a_record_that_is_not_described_is_found():
    forms = {"whole": _Pair, "bare": _Bare}
    for old, new in (("right: the", "wrong: the"), ("left: the", "left the"), ("right: the second.", "")):
        text = _Pair.__doc__.replace(old, new)
        forms[f"{old} -> {new}"] = type("_Other", (), {"_fields": _Pair._fields, "__doc__": text})
    skipped = {"bare": contracts.Record({"fields": "shown here without"})}
    assert contracts.failing_records("docstring", forms, {}) == ["bare"]
    assert contracts.failing_records("fields", forms, skipped) == list(forms)[2:]


@pytest.mark.parametrize(
    ("check", "reason", "function"),
    [
        # a Python branch on a value: works eagerly, breaks while tracing
        ("transforms", "traced array", lambda x: x if float(x.sum()) > 0 else -x),
        # depends on whether it is traced
        ("transforms", "jit", lambda x: x + isinstance(x, jax.core.Tracer)),
        # a fresh loop body each call compiles again
        ("transforms", "one trace", lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 1.5, x)),
        # promotes
        ("dtype", "dtype kept", lambda x: x.astype(jnp.float16)),
    ],
)
@pytest.mark.parametrize("skip", [{}, {"vmap": "shown here without"}])
def test_a_broken_function_fails(check, reason, function, skip, key):
    entry = contracts.Compiled(lambda k, d: (function, _normal(k, d)), skip=skip)
    with pytest.raises((AssertionError, jax.errors.ConcretizationTypeError), match=re.escape(reason)):
        contracts.COMPILED_CHECKS[check](entry, key, np.dtype("float32"))


def test_a_function_that_couples_its_lanes_fails(key):
    entry = contracts.Compiled(lambda k, d: (_coupled, _normal(k, d)))
    with pytest.raises(AssertionError, match="jit\\(vmap\\) = loop"):
        contracts.COMPILED_CHECKS["transforms"](entry, key, np.dtype("float32"))


@jax.custom_batching.custom_vmap
def _coupled(x):
    return x


@_coupled.def_vmap
def _(axis_size, in_batched, x):
    return x - x.mean(0, keepdims=True), True


@pytest.mark.x64
def test_a_wrong_gradient_fails(key):
    @jax.custom_jvp
    def twice(x):
        return 2 * x

    twice.defjvp(lambda primals, tangents: (2 * primals[0], 3 * tangents[0]))
    entry = contracts.Compiled(lambda k, d: (twice, _normal(k, d)), grad=(0,))
    with pytest.raises(AssertionError, match="gradient"):
        contracts.COMPILED_CHECKS["grad"](entry, key, np.dtype("float64"))


def test_a_builder_that_takes_tracers_fails():
    entry = contracts.Builder(lambda: (lambda x: x * 1.0, (np.ones(3),)), truth=lambda x: x)
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        contracts.check_builder(entry)


def test_a_driver_without_its_message_fails(tmp_path):
    entry = contracts.Driver(bad=(contracts.Bad(lambda folder: None, ValueError, "no"),))
    with pytest.raises(BaseException, match="DID NOT RAISE"):
        contracts.check_driver(entry, tmp_path)
