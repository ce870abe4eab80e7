"""What every public callable promises, as checks that run over `tests/registry.py`.

What users call is one of four kinds, named by its entry:

* `Compiled`: array arguments may be tracers. jit(vmap) = a loop of plain calls, traced once; a second plain call with
  other values compiles nothing; dtype kept; gradients equal differences.
* `Builder`: host float64. Deterministic, equal to an independent formula, refuses tracers by TypeError.
* `Driver`: host loop or host helper. Its bad inputs raise with their messages; kill and resume where it has one.
* `Family`: a factory of interchangeable things, checked once for all by `check_policy`, `check_method`, ...

Records (`registry.records`) need no entry: each has a docstring, whose section `Attributes:` names its fields.
"""

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tolerances
from budget import PROGRAM_EVENT


class Compiled(NamedTuple):
    """`make(key, dtype) -> (function, args)`: `function(*args)` calls the public name; args are pytrees of arrays."""

    make: Callable
    grad: tuple[int, ...] = ()
    """Positions in args whose gradient is compared with differences (in float64)."""
    tol: float | None = None
    """Replaces the table's tolerance; say the measured worst case beside it."""
    skip: dict[str, str] = {}
    """Check name -> reason; shown in the generated table."""


class Builder(NamedTuple):
    """`make() -> (function, args)` with concrete args; `truth(*args)` is an independent formula."""

    make: Callable
    truth: Callable
    tol: float = 1e-12
    skip: dict[str, str] = {}


class Bad(NamedTuple):
    """One wrong call of a driver: calling `call` (with a fresh folder) must raise `error` matching `match`."""

    call: Callable
    error: type[Exception]
    match: str


class Driver(NamedTuple):
    """A host function: what it refuses, and optionally `resume(folder)`, which kills it, resumes and compares."""

    bad: tuple[Bad, ...] = ()
    resume: Callable | None = None
    works: Callable | None = None
    """`works(folder)`: the smallest good call, with its own assertions."""
    skip: dict[str, str] = {}


class Family(NamedTuple):
    """`check(key, dtype)` calls one of the `check_*` functions below on this factory."""

    check: Callable
    skip: dict[str, str] = {}


class Record(NamedTuple):
    """A record that skips "docstring" or "fields"; all others go without an entry."""

    skip: dict[str, str]


# --- comparing ---------------------------------------------------------------------------------------------


def host(tree):
    """Every leaf as a numpy array, typed keys as their data: comparing compiles nothing."""

    def leaf(a):
        is_key = isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(a) if is_key else a)

    return jax.tree.map(leaf, tree)


def stacked(trees):
    """Trees of equal structure as one tree with a leading axis."""

    def leaf(*leaves):
        is_key = isinstance(leaves[0], jax.Array) and jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key)
        return jnp.stack(leaves) if is_key else jnp.asarray(np.stack([np.asarray(a) for a in leaves]))

    return jax.tree.map(leaf, *trees)


def _rng(key):
    """NumPy's generator from a typed key; None while tracing, where the key has no value."""
    if isinstance(key, jax.core.Tracer):
        return None
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel().tolist())


def normal(key, shape=(), dtype=None):
    """`jax.random.normal` drawn by NumPy: compiling a draw for each shape costs more than most checks."""
    rng = _rng(key)
    if rng is None:
        return jax.random.normal(key, shape, dtype)
    return jnp.asarray(rng.standard_normal(shape), dtype)


def uniform(key, shape=(), dtype=None, low=0.0, high=1.0):
    """`jax.random.uniform` drawn by NumPy."""
    rng = _rng(key)
    if rng is None:
        return jax.random.uniform(key, shape, dtype, low, high)
    return jnp.asarray(rng.uniform(low, high, shape), dtype)


def is_float(a) -> bool:
    """Whether an array holds real or complex floating numbers."""
    return jnp.issubdtype(a.dtype, jnp.inexact)


def assert_close(a, b, tol: float, what: str) -> None:
    """Equal structure, shapes and dtypes; integers exactly, floats to `tol` relative to the largest entry."""
    a, b = host(a), host(b)
    chex.assert_trees_all_equal_shapes_and_dtypes(a, b, custom_message=what)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        if is_float(x):
            finite = np.abs(y)[np.isfinite(y)]
            scale = max(1.0, float(finite.max())) if finite.size else 1.0
            np.testing.assert_allclose(x, y, rtol=tol, atol=tol * scale, err_msg=what)
        else:
            np.testing.assert_array_equal(x, y, err_msg=what)


@contextlib.contextmanager
def count_compilations():
    """A list that receives one entry per program XLA compiles (or takes from the persistent cache)."""
    events: list[str] = []

    def listener(name: str, seconds: float, **_):
        if name == PROGRAM_EVENT:
            events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)


# --- compiled ----------------------------------------------------------------------------------------------
# Compiling is nearly all that these checks cost, so two programs answer three questions: the function as the user
# calls it, and jit(vmap) of it.


def _transforms(entry: Compiled, key, dtype):
    cases = [entry.make(jax.random.fold_in(key, i), dtype) for i in range(3)]
    function = cases[0][0]
    outs = [jax.block_until_ready(function(*cases[0][1]))]
    with count_compilations() as events:
        outs += [jax.block_until_ready(function(*args)) for _, args in cases[1:]]
    assert not events, f"one trace: calls with other values compiled {len(events)} programs"

    @chex.assert_max_traces(n=1)
    def once(*args):
        return function(*args)

    if "vmap" in entry.skip:
        jitted, name, arguments, expected = jax.jit(once), "jit = eager", [args for _, args in cases], outs
    else:
        jitted, name = jax.jit(jax.vmap(once)), "jit(vmap) = loop"
        arguments, expected = (
            [stacked([trees[i] for i in order]) for order in ((0, 1, 2), (2, 0, 1))]
            for trees in ([args for _, args in cases], outs)
        )
    for args, out in zip(arguments, expected):
        assert_close(jitted(*args), out, entry.tol or tolerances.of(tolerances.VALUE, out), name)


def _dtype(entry: Compiled, key, dtype):
    def whole(key):
        function, args = entry.make(key, dtype)
        return function(*args)

    try:  # shapes and dtypes are enough, so nothing is compiled
        out = jax.eval_shape(whole, key)
    except Exception:  # the entry makes something on the host; a fault of the function shows again
        function, args = entry.make(key, dtype)
        out = jax.eval_shape(function, *args)
    for leaf in jax.tree.leaves(out):
        if is_float(leaf):
            assert leaf.dtype == dtype, f"dtype kept: inputs {dtype}, an output {leaf.dtype}"


def _grad(entry: Compiled, key, dtype):
    if dtype != np.dtype("float64") or not entry.grad:
        return
    function, args = entry.make(key, dtype)
    moving = [args[i] for i in entry.grad]

    def scalar(moving):
        full = list(args)
        for i, x in zip(entry.grad, moving):
            full[i] = x
        floats = [a for a in jax.tree.leaves(function(*full)) if is_float(jnp.asarray(a))]
        return sum((np.sin(1 + np.arange(a.size)).reshape(a.shape) * a).sum() for a in floats)

    slopes = jax.jit(jax.grad(scalar, allow_int=True))(moving)
    rng = np.random.default_rng(0)
    for which, position in enumerate(entry.grad):
        leaves, tree = jax.tree.flatten(moving[which])
        way = [rng.standard_normal(jnp.shape(a)) if is_float(jnp.asarray(a)) else None for a in leaves]

        def value(h, which=which, leaves=leaves, tree=tree, way=way):
            there = [a if w is None else jnp.asarray(np.asarray(a) + h * w) for a, w in zip(leaves, way)]
            return float(scalar([*moving[:which], tree.unflatten(there), *moving[which + 1 :]]))

        shift = 1e-6
        expected = (value(shift) - value(-shift)) / (2 * shift)
        found = [(w, np.asarray(g)) for w, g in zip(way, jax.tree.leaves(slopes[which])) if w is not None]
        got = sum(np.vdot(w, g) for w, g in found)
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=f"gradient of argument {position}")


COMPILED_CHECKS = {"transforms": _transforms, "dtype": _dtype, "grad": _grad}


def check_compiled(entry: Compiled, key, dtype, checks=tuple(COMPILED_CHECKS)) -> None:
    """Checks of a compiled function that its entry does not skip; a dtype's name skips them all in that dtype."""
    if np.dtype(dtype).name in entry.skip:
        pytest.skip(entry.skip[np.dtype(dtype).name])
    for name in checks:
        if name not in entry.skip:
            COMPILED_CHECKS[name](entry, key, np.dtype(dtype))


# --- builders and drivers ----------------------------------------------------------------------------------


def check_builder(entry: Builder) -> None:
    """Deterministic, float64, equal to the independent formula, and a tracer raises the TypeError with a remedy."""
    function, args = entry.make()
    first, second = function(*args), function(*args)
    assert_close(first, second, 0.0, "deterministic")
    for leaf in jax.tree.leaves(first):
        if np.issubdtype(np.asarray(leaf).dtype, np.inexact):
            assert np.asarray(leaf).dtype == np.float64, "a builder computes in float64"
    for x, y in zip(jax.tree.leaves(first), jax.tree.leaves(entry.truth(*args))):
        np.testing.assert_allclose(x, y, rtol=entry.tol, atol=entry.tol)
    if "tracer" not in entry.skip:
        # The second is what the type hook of `make test-types` says.
        with pytest.raises(TypeError, match="concrete|Type-check error"):
            jax.jit(function)(*args)


def check_driver(entry: Driver, folder) -> None:
    """Every bad input raises its message; the good call and the kill-and-resume run where the entry has them."""
    assert entry.bad or entry.works, "a driver's entry needs a bad input or a good call"
    for i, bad in enumerate(entry.bad):
        place = folder / f"bad{i}"
        place.mkdir()
        with pytest.raises(bad.error, match=bad.match):
            bad.call(place)
    for name in ("works", "resume"):
        action = getattr(entry, name)
        if action is not None:
            place = folder / name
            place.mkdir()
            action(place)


# --- families ----------------------------------------------------------------------------------------------


def check_policy(
    make: Callable,
    key,
    num_arms: int,
    *,
    hyper: tuple = (),
    context=None,
    losses=(0.0, 1.0),
    dtype="float32",
    learns: tuple = (),
):
    """A bandit policy keeps its promises.

    `make(*hyper)` builds it; every hyper-parameter is an array leaf. Actions lie in range and respect masks, the
    log-probability is a function of the arm alone (draws of an arm agree) and either 0 for all or belongs to
    probabilities that sum to at most 1, the state's structure never changes, and the policy runs under jit, scan and
    vmap over seeds and hyper-parameters with one compilation for all of their values.

    An update with a loss or a context that is not finite, of weight 0, or in which nothing was played returns the
    state leaf for leaf; `learns` names those of "nan", "inf", "context" from which a policy learns by design.
    """
    low, high = losses
    hyper = tuple(jnp.asarray(h, dtype) for h in hyper)
    policy = make(*hyper)
    state = policy.init(key)
    spec = jax.eval_shape(lambda s: s, state)
    decision = policy.select(jax.random.fold_in(key, 1), state, context)
    assert decision.action.shape == () and decision.action.dtype == jnp.int32
    assert 0 <= int(decision.action) < num_arms and float(decision.log_prob) <= 0
    again = policy.select(jax.random.fold_in(key, 1), state, context)
    assert_close(decision, again, 0.0, "select is pure")
    after = policy.update(state, decision, jnp.asarray(high, dtype), context)
    shapes = jax.eval_shape(lambda s: s, after)  # leaf by leaf: two equal Partials are not ==
    same = jax.tree.structure(shapes) == jax.tree.structure(spec) and jax.tree.leaves(shapes) == jax.tree.leaves(spec)
    assert same, "update keeps structure, shapes and dtypes"

    def run(key, *hyper):
        policy = make(*hyper)
        loss_of_arm = jnp.linspace(low, high, num_arms, dtype=dtype)

        def step(state, i):
            k = jax.random.fold_in(key, i)
            decision = policy.select(k, state, context)
            return policy.update(state, decision, loss_of_arm[decision.action], context), decision

        return jax.lax.scan(step, policy.init(key), jnp.arange(40))

    # Lanes: three seeds, and the first once more with other hyper-parameters.
    others = tuple(h * 1.1 for h in hyper)
    keys = jax.random.split(key, 3)[jnp.array([0, 1, 2, 0])]
    lanes = tuple(jnp.stack([h, h, h, o]) for h, o in zip(hyper, others))
    jitted = jax.jit(run)
    one = [jitted(keys[i], *hyper) for i in range(3)]
    with count_compilations() as events:
        one.append(jax.block_until_ready(jitted(keys[3], *others)))
    assert not events, "a new hyper-parameter value compiled again"
    batched, loop = jax.vmap(run)(keys, *lanes), stacked(one)
    assert_close(batched[1].action, loop[1].action, 0.0, "vmap over seeds and hyper-parameters plays the same arms")
    assert bool(jnp.all(jnp.isfinite(loop[1].log_prob) | (loop[1].log_prob <= 0)))
    for leaf in jax.tree.leaves(loop[0]):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            assert leaf.dtype == np.dtype(dtype), f"dtype kept: {leaf.dtype}"
    _check_rounds(policy, key, after, context, num_arms, jnp.asarray(high, dtype), learns)


def _check_rounds(policy, key, state, context, num_arms, loss, learns):
    """Draws, masks, and what teaches nothing, in one program."""
    hole = jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), context)
    last, nan, one = jnp.arange(num_arms) == num_arms - 1, jnp.nan * loss, jnp.ones_like(loss)
    bad = {
        "nan": (nan, context, one),
        "inf": (jnp.inf * loss, context, one),
        "weight 0": (loss, context, 0 * one),
        "NaN at weight 0": (nan, context, 0 * one),
        "NaN weight": (loss, context, nan),
        "context": (loss, hole, one),
    }
    if context is None:
        del bad["context"]

    @jax.jit
    def probe(policy, state, losses, contexts, weights):
        def select(k, mask=None):
            return policy.select(k, state, context, mask)

        draws = jax.random.split(key, 64)
        masked = jax.vmap(select, (0, None))(draws[:16], last)
        nothing = select(key, jnp.zeros(num_arms, bool))
        silent = policy.update(state, nothing, loss, context)
        kept = jax.vmap(policy.update, (None, None, 0, 0, 0))(state, select(key), losses, contexts, weights)
        return jax.vmap(select)(draws), masked, nothing, silent, kept, policy.select(key, state, hole)

    drawn, masked, nothing, silent, kept, blind = host(probe(policy, state, *stacked(list(bad.values()))))
    arms, first = np.unique(drawn.action, return_index=True)
    if np.any(drawn.log_prob != 0):
        of_arm = drawn.log_prob[first][np.searchsorted(arms, drawn.action)]
        np.testing.assert_allclose(drawn.log_prob, of_arm, rtol=1e-5, atol=1e-6, err_msg="one arm, one probability")
        assert np.exp(drawn.log_prob[first]).sum() <= 1 + 1e-5, "the arms drawn are likelier than 1 together"
    assert 0 <= blind.action < num_arms and blind.log_prob > -np.inf, "no arm in a context that is NaN"
    assert np.all(masked.action == num_arms - 1), "a masked arm was played"
    assert 0 <= nothing.action < num_arms and nothing.log_prob == -np.inf, "all arms masked"
    assert_close(silent, state, 0.0, "a round without a play changes nothing")
    for i, name in enumerate(bad):
        if name not in learns:
            assert_close(jax.tree.map(lambda a, i=i: a[i], kept), state, 0.0, f"an update with {name} changes nothing")


def check_method(make: Callable, key, dtype, *, tol: float):
    """A linear method solves a random SPD stencil system, reports it honestly, and survives bad right-hand sides."""
    from jaxsci import linear
    from jaxsci.core import status

    op = linear.operators.shifted_laplacian((4, 5), jnp.asarray(0.3, dtype))
    b = jax.random.normal(key, (4, 5), dtype)
    result = linear.solve(op, b, method=make(), tol=tol, max_steps=2000)
    assert int(result.status) == 0 and result.steps.dtype == jnp.int32
    true = jnp.linalg.norm(b - op.mv(result.value))
    assert float(true) <= 1.5 * tol * float(jnp.linalg.norm(b)) + 1e-30
    np.testing.assert_allclose(result.residual, true, rtol=1e-2, atol=10 * np.finfo(dtype).eps)
    zero = linear.solve(op, 0 * b, method=make(), tol=tol)
    assert int(zero.steps) == 0 and int(zero.status) == 0 and not bool(jnp.any(zero.value))
    nan = linear.solve(op, b.at[0, 0].set(jnp.nan), method=make(), tol=tol)
    assert int(nan.status) == status.NONFINITE_INPUT and bool(jnp.all(jnp.isfinite(nan.value)))
    assert float(nan.residual) == np.inf
    capped = linear.solve(op, b, method=make(), tol=tol, max_steps=1)
    assert int(capped.status) & status.MAX_STEPS and int(capped.steps) == 1


def check_resampler(resampler: Callable, key, dtype, *, least=None, most=None, repeats: int = 4000):
    """A resampler keeps its promises, over weight laws that share one program.

    Ancestors are int32, in range, sorted and a function of the key; a weight of zero has no offspring; the mean number
    of offspring is M W_i within standard errors; a constant added to log-weights changes nothing; the numbers of
    particles that come in and go out may differ. ``least(share)`` and ``most(share)`` bound the offspring of a particle
    with share M W_i; shares lie off whole numbers, where rounding decides. Weights without a law give all in turn.
    """
    num_in, num_out = 12, 20
    rng = np.random.default_rng(0)
    weights = np.stack([np.exp(rng.standard_normal(num_in) * spread) for spread in (1, 1, 4)])
    weights[1, [0, 3, 4, 5, 11]] = 0
    one = np.where(np.arange(num_in) == 7, 1.0, 0.0)
    with np.errstate(divide="ignore"):
        good = np.log(np.stack([*weights, one]))
    good = np.round(good * 256) / 256
    nan = np.where(np.arange(num_in) == 2, np.nan, good[0])
    without = [np.full(num_in, -np.inf), np.where(np.arange(num_in) == 2, np.inf, good[0])]
    rows = jnp.asarray(np.stack([*good, good[0] + 512, nan, *without]), dtype)
    keys = jax.random.split(key, repeats)
    many = jax.jit(jax.vmap(lambda row: jax.vmap(lambda k: resampler(k, row, num_out))(keys)))
    drawn = np.asarray(many(rows))
    assert drawn.dtype == np.int32 and drawn.min() >= 0 and drawn.max() < num_in
    assert np.all(np.diff(drawn[:-2], axis=-1) >= 0), "ancestors are sorted"
    counts = (drawn[..., None] == np.arange(num_in)).sum(-2)
    shares = np.exp(good - good.max(-1, keepdims=True))
    shares = num_out * shares / shares.sum(-1, keepdims=True)
    for row, share in enumerate(shares):
        found = counts[row]
        assert not found[:, share == 0].any(), "a weight of zero has no offspring"
        error = np.maximum(found.std(0), 1e-3) / np.sqrt(repeats)
        assert np.all(np.abs(found.mean(0) - share) <= tolerances.STANDARD_ERRORS * error + 1e-5), "unbiased"
        assert least is None or np.all(found >= least(share)), "too few offspring"
        assert most is None or np.all(found <= most(share)), "too many offspring"
    np.testing.assert_array_equal(drawn[4], drawn[0], err_msg="a constant added to the log-weights changes nothing")
    assert not counts[5][:, 2].any() and np.all(drawn[6:] == np.arange(num_out) % num_in)
    single = resampler(keys[3], rows[1], num_out)
    assert_close(single, drawn[1, 3], 0.0, "vmap = one call, a function of the key")
    np.testing.assert_array_equal(resampler(key, rows[0, :1], 3), [0, 0, 0])
    for wrong, match in (((rows, 3), "vector"), ((rows[0, :0], 3), "at least one"), ((rows[0], 0), "num_out")):
        # The second is what the type hook of `make test-types` says.
        with pytest.raises((ValueError, TypeError), match=f"{match}|Type-check error"):
            resampler(key, *wrong)


# --- records -----------------------------------------------------------------------------------------------


def lacks_docstring(record: type) -> bool:
    """Whether nobody wrote a docstring: `Name(field, ...)` is the one that Python makes."""
    return not record.__doc__ or record.__doc__.startswith(f"{record.__name__}(")


def fields(record: type) -> list[str]:
    """Names of the fields of a NamedTuple or an equinox Module, in their order; [] for other types."""
    named = [f.name for f in dataclasses.fields(record)] if dataclasses.is_dataclass(record) else []
    return list(getattr(record, "_fields", named))


def documented_fields(docstring: str) -> list[str]:
    """Names in the section `Attributes:`, one `name: meaning` each, whose further lines stand deeper."""
    section = re.search(r"^Attributes:\n((?: .*\n|\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return re.findall(r"^ {4}(?! )([^:\n]*)", section[1], re.MULTILINE) if section else []


RECORD_CHECKS = {
    "docstring": lambda record: not lacks_docstring(record),
    "fields": lambda record: documented_fields(record.__doc__ or "") == fields(record),
}


def failing_records(check: str, records: dict[str, type], entries) -> list[str]:
    """Names of the records that fail the check and have no entry that skips it."""
    failing = [name for name, record in records.items() if not RECORD_CHECKS[check](record)]
    return [name for name in failing if name not in entries or check not in entries[name].skip]
