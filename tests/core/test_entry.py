"""Errors on the way into the library: who is blamed, who is not, and what the wrapper leaves as it was."""

import functools
import importlib
import inspect
import pickle
import pydoc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from jaxtyping import install_import_hook

import registry
from jaxsci import bandits, core, gp, pfn, quadrature, smc
from jaxsci.core import entry, provenance, tree

pytestmark = pytest.mark.bad_input

# A module of ours, as the rooms are written.
_SOURCE = '''
from typing import NamedTuple, SupportsIndex
import jax, jax.numpy as jnp, numpy as np, equinox as eqx
from collections.abc import Callable
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree

class Pair(NamedTuple):
    left: Float[Array, "n"]
    right: Float[Array, "n"]

@eqx.filter_jit
def add(x: Float[ArrayLike, "n"], y: Float[ArrayLike, "n"], *, scale: ArrayLike = 1.0) -> Float[Array, "n"]:
    """Sum.

    >>> 1 + 1
    2
    """
    return jnp.add(x, y) * scale

@jax.jit
def jitted(x: Float[ArrayLike, "n"]):
    return jnp.sum(x, axis=0)

def apply(f: Callable, x: Float[ArrayLike, "n"]):
    return jax.lax.map(f, jnp.asarray(x))

def nested(x: Float[ArrayLike, "n"], y: PyTree = None):
    return add(x, y)

def both(x, y):
    return add(x, y)

def repeat(x: Float[ArrayLike, "n"], times: SupportsIndex):
    return [x for _ in range(times)]

def branch(x: Float[ArrayLike, "n"], flag: bool):
    return x if flag else -x

def total(pair: Pair, key: Key[Array, ""]):
    return jnp.dot(pair.left, pair.right) + jax.random.normal(key)

def own(x: Float[ArrayLike, "n"]):
    raise ValueError("own: x must be sorted, got " + repr(x) + "; use jnp.sort")

def words(x: Float[ArrayLike, "n"]):
    raise ValueError("some helper: no good")

def opens(path: str, x: Float[ArrayLike, "n"] = 1):
    return open(path)

def scaled(rate: Float[ArrayLike, ""], x: ArrayLike):
    return jax.lax.cond(jnp.asarray(rate) > 0, lambda: x, lambda: x)

def loop(x: PyTree):
    return jax.lax.fori_loop(0, 3, lambda i, y: y + i, x)

def kept(x):
    yield x

def set_up(x, y, *, kind):
    return x + y if kind == "sum" else x - y

__all__ = ["Pair", "add", "apply", "both", "branch", "jitted", "kept", "loop", "nested", "opens", "own", "repeat",
           "scaled", "set_up", "total", "words"]
'''
ours = types.ModuleType("jaxsci.made_up")
exec(compile(_SOURCE, "made_up.py", "exec"), vars(ours))
PLAIN = dict(vars(ours))
entry.guard(vars(ours))

X, Y, BATCH = np.ones(3, np.float32), np.ones(4, np.float32), np.ones((2, 3), np.float32)
KEY = jax.random.key(0)


def notes(error):
    """The notes of ours; JAX adds one about frames that it left out."""
    return [note for note in getattr(error, "__notes__", ()) if "was called with" in note]


def refused(call, *args, **kwargs):
    with pytest.raises(Exception) as caught:
        call(*args, **kwargs)
    return caught.value


# --- blamed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ours.add(X, Y), "made_up.add: y must be Float[n], got float32[4], with x float32[3]"),
        (lambda: ours.add(X, "abc"), "made_up.add: y must be Float[n], got 'abc'"),
        (lambda: ours.add(X, None), "made_up.add: y must be Float[n], got None"),
        (lambda: ours.add([1.0] * 3, X), "made_up.add: x must be Float[n], got a list of length 3; use jnp.asarray"),
        (lambda: ours.add(BATCH, X), "made_up.add: x must be Float[n], got float32[2,3]; use jax.vmap over a batch"),
        (lambda: ours.add(X, X, scale=Y), "made_up.add: scale must be a scalar, got float32[4]"),
        (lambda: ours.add(X), "made_up.add: missing a required argument: 'y'; its arguments are (x, y, *, scale=1.0)"),
        (lambda: ours.add(X, X, sacle=2.0), "made_up.add: got an unexpected keyword argument 'sacle'"),
        (lambda: ours.apply(3.0, X), "made_up.apply: f must be a function, got 3.0"),
        (lambda: ours.nested(X, Y), "made_up.nested was called with x=float32[3], y=float32[4]"),
        (lambda: ours.nested("abc", X), "made_up.nested: x must be Float[n], got 'abc'"),
        (lambda: ours.repeat(X, 2.5), "made_up.repeat: times must be a static int, got 2.5"),
        (lambda: jax.jit(ours.repeat)(X, 2), "made_up.repeat: times must be a static int, got a traced i32[]; keep it"),
        (lambda: jax.jit(ours.branch)(X, True), "made_up.branch: flag must be True or False, got a traced bool[]"),
        (lambda: jax.vmap(ours.jitted)(X), "made_up.jitted: x must be Float[n], got a traced f32[]"),
        (lambda: ours.total(ours.Pair, KEY), "made_up.total: pair must be a Pair, got the class Pair, not an instance"),
        (lambda: ours.total(ours.Pair(X, "a"), KEY), "made_up.total: pair has a field right that must be Float[n]"),
        (lambda: ours.total(KEY, ours.Pair(X, X)), "made_up.total: pair must be a Pair, got a typed key"),
        (lambda: ours.total(ours.Pair(X, X), 3), "made_up.total: key must be a typed key, jax.random.key(seed), got 3"),
        (lambda: ours.scaled(Y, X), "made_up.scaled: rate must be a scalar (Float), got float32[4]; use jax.vmap"),
        (lambda: ours.loop({"a": 1.0, "b": "text"}), "made_up.loop: x must hold arrays and numbers, got 'text'"),
        (lambda: functools.partial(ours.add, X)(Y), "made_up.add: y must be Float[n], got float32[4]"),
        (lambda: jax.grad(lambda x: ours.add(x, Y).sum())(X), "made_up.add: y must be Float[n], got float32[4]"),
    ],
)  # fmt: skip
def test_the_argument_is_named(call, words):
    error = refused(call)
    assert words in "\n".join([str(error), *getattr(error, "__notes__", ())]), (error, notes(error))
    assert isinstance(error, (TypeError, ValueError))


def test_where_several_could_be_meant_none_is_blamed():
    """Of two Nones neither is known to be wrong; text that sets a keyword is what the room calls its options."""
    for call in (lambda: ours.set_up(None, None, kind="sum"), lambda: ours.set_up(X, Y, kind="sum")):
        assert "made_up.set_up was called with x=" in notes(refused(call))[0]
    assert "made_up.set_up: y must be arrays and numbers, got None" in str(refused(ours.set_up, X, None, kind="sum"))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: pfn.load(3), "pfn.load: source must be text or a PathLike, got 3"),
        (lambda: pfn.curves.predict("lc-small", np.ones(5), 3), "pfn.curves.predict: model must be a Model"),
        (lambda: smc.interop.to_arviz(jax.random.key(0), "r"), "smc.interop.to_arviz: result must be a Result"),
    ],
)
def test_checks_that_were_needless_beside_it(call, words):
    """Checks by hand of types, tried one by one: of 75 these said no more."""
    with pytest.raises(TypeError, match=words):
        call()


def test_the_first_error_is_the_cause():
    assert "incompatible shapes" in str(refused(ours.add, X, Y).__cause__)


def test_the_outermost_function_explains():
    """`both` has no hints, so it can say no more than a note; `add` inside it is not asked."""
    error = refused(ours.both, X, Y)
    assert "made_up.both was called with x=float32[3], y=float32[4]" in notes(error)[0] and len(notes(error)) == 1
    assert "add" not in str(error).split("\n")[0].replace("add got incompatible", "")


def test_what_families_hold_explains():
    policy = bandits.policies.exp3(3)
    state = policy.init(KEY)
    decision = policy.select(KEY, state)
    for call, words in (
        (lambda: policy.select(state, KEY), "key must be a typed key"),
        (lambda: policy.select("abc", state), "key must be a typed key, got str"),
        (lambda: policy.update(state, decision, np.ones(2)), "loss must be a scalar (Real), got float64[2]"),
        (lambda: policy.update(decision, state, 0.5), "decision must be a Decision, got a ExponentialState"),
        (lambda: policy.update(state, decision), "missing a required argument: 'loss'"),
    ):
        assert words in str(refused(call)), refused(call)


# --- not blamed --------------------------------------------------------------------------------------------


class Mine(Exception):
    """An error of the user's."""


def _raises(error):
    def callback(x):
        raise error

    return callback


@pytest.mark.parametrize("error", [Mine("mine"), TypeError("mine"), ValueError("mine"), KeyError("mine")])
@pytest.mark.parametrize("jitted", [False, True])
def test_errors_of_callbacks_stay(error, jitted):
    call = jax.jit(ours.apply, static_argnums=0) if jitted else ours.apply
    assert refused(call, _raises(error), X) is error and not notes(error)


def test_errors_inside_a_callback_of_the_users_stay():
    """The callback asks JAX, NumPy or a function of ours for something wrong: that is no argument of `apply`."""
    numpy = refused(ours.apply, lambda x: np.zeros(2) @ np.zeros(3), X)
    assert "matmul" in str(numpy) and not notes(numpy)
    inner = refused(ours.apply, lambda x: ours.add(X, Y), X)
    assert "made_up.add: y must be" in str(inner) and not notes(inner)


def test_errors_of_objects_of_the_users_stay():
    class Array:
        def __array__(self, dtype=None, copy=None):
            raise Mine("mine")

    assert type(refused(ours.scaled, 1.0, Array())) in (Mine, TypeError)

    class Stops(Partial):
        def __call__(self, x):
            raise Mine("mine")

    assert isinstance(refused(ours.apply, Stops(jnp.sin), X), Mine)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_no_exception_passes_by(kind):
    error = kind()
    with pytest.raises(kind) as caught:
        ours.apply(_raises(error), X)
    assert caught.value is error and error.__cause__ is None and not notes(error)


def test_our_own_words_stay():
    assert str(refused(ours.own, "abc")) == "own: x must be sorted, got 'abc'; use jnp.sort"
    error = refused(ours.words, "abc")
    assert str(error) == "some helper: no good" and notes(error) == ["made_up.words was called with x='abc'"]


def test_the_machine_is_not_an_argument(tmp_path):
    error = refused(ours.opens, str(tmp_path / "none"), "abc")
    assert isinstance(error, FileNotFoundError) and not notes(error)


def test_a_callback_that_fails_while_the_program_runs():
    def point(x):
        return jax.pure_callback(_raises(Mine("mine")), jax.ShapeDtypeStruct((), np.float32), x)

    error = refused(lambda: jax.block_until_ready(ours.apply(point, X)))
    assert "mine" in str(error) and not notes(error)


def test_looking_for_words_never_raises():
    class Hostile:
        shape = property(_raises(RuntimeError("hostile")))

        def __repr__(self):
            raise RuntimeError("hostile")

        __eq__ = __hash__ = __bool__ = __len__ = __index__ = __repr__

    for call in (lambda: ours.add(X, Hostile()), lambda: ours.repeat(X, Hostile()), lambda: ours.loop(Hostile())):
        assert isinstance(refused(call), Exception)


def test_what_is_cast_is_not_blamed():
    """The wrong argument comes last; numbers, integers, NumPy, Booleans before it are what people pass."""
    for good in (np.arange(4), np.ones(4, bool), jnp.ones(4, jnp.bfloat16), np.ones(4)):
        assert str(refused(ours.add, good, X)).startswith("made_up.add: y must be")
    assert "x must be Float[n], got 1.0" in str(refused(ours.add, 1.0, "a"))
    error = refused(ours.repeat, X, np.float32(2))
    assert "times must be" in str(error)
    assert ours.repeat(X, np.int64(2)) and ours.add(X, 1.0).shape == (3,)  # no hint is enforced where all is well


# --- what stays as it was ----------------------------------------------------------------------------------


def test_every_public_function_has_it():
    own = {"jaxsci.core.entry", "jaxsci.demo", "pallas_kernels"}  # the kernels stand below core
    without = {
        name
        for name, value in registry.public_names().items()
        if entry.is_plain_callable(value) and not entry.is_guarded(value)
        and not any(name.startswith(f"{prefix}.") or name == prefix for prefix in own)
    }  # fmt: skip
    assert not without
    assert entry.is_guarded(gp.condition) and entry.is_guarded(bandits.policies.exp3) and entry.is_guarded(core.check)


def test_signature_documentation_and_names():
    for name in ("add", "jitted", "branch"):
        guarded, plain = getattr(ours, name), PLAIN[name]
        assert inspect.signature(guarded) == inspect.signature(plain)
        assert guarded.__doc__ == plain.__doc__ and guarded.__name__ == name and guarded.__qualname__ == name
        assert guarded.__annotations__ == inspect.unwrap(plain).__annotations__
    assert inspect.getsource(gp.condition).startswith(("@", "def condition"))
    assert entry.guarded(ours.add, "jaxsci.other", "add") is ours.add is entry.guarded(PLAIN["add"], "a", "b")
    assert ours.Pair is PLAIN["Pair"] and ours.kept is PLAIN["kept"] and list(ours.kept(1)) == [1]


def test_signatures_print_the_aliases_of_the_source():
    """Of every function and record of ours; modules of equinox print what equinox makes of them."""
    spelt_out, longest = {}, 0
    for name, value in registry.public_names().items():
        record = isinstance(value, type) and hasattr(value, "_fields")
        if name.startswith("pallas_kernels.") or not (entry.is_guarded(value) or record):
            continue
        signature = inspect.signature(value)
        if any(word in str(signature) for word in ("Union[", "jaxlib", "typing.", "numpy.", "<class")):
            spelt_out[name] = str(signature)
        for p in signature.parameters.values():
            if p.annotation is not p.empty:
                longest = max(longest, len(str(p.replace(default=p.empty))) - len(f"{p.name}: "))
    assert not spelt_out
    assert longest <= 80  # characters of an annotation; the longest is a choice of three kinds of models


def test_a_printed_signature_holds_the_annotations_of_the_function():
    signature = inspect.signature(gp.condition)
    assert "y: Float[ArrayLike, 'n']" in pydoc.plain(pydoc.render_doc(gp.condition))
    y = signature.parameters["y"]
    assert str(y) == "y: Float[ArrayLike, 'n']"  # IPython prints one after the other
    assert y.annotation == inspect.unwrap(gp.condition).__annotations__["y"]
    assert str(y.replace(annotation=int)) == "y: int"
    held = inspect.signature(functools.partial(gp.condition, size=3)).parameters["size"]
    assert str(held) == "size: int | None = 3"
    assert str(inspect.signature(smc.State)).startswith("(cloud: Cloud, eves: Int[Array, 'N'], ")
    made = eval("lambda x, y=1: x")  # without a source
    assert str(inspect.signature(entry.guarded(made, "jaxsci.room", "made"))) == "(x, y=1)"


def test_pickling():
    for function in (gp.condition, gp.kernels.rbf, quadrature.rules.simpson, tree.dot, smc.run):
        assert pickle.loads(pickle.dumps(function)) is function
    assert pickle.loads(pickle.dumps(tree.dot.__wrapped__)) is tree.dot.__wrapped__
    for made in (bandits.policies.exp3(3), gp.kernels.rbf(1.0)):
        again = pickle.loads(pickle.dumps(made))
        assert jax.tree.structure(again) == jax.tree.structure(made)


def test_sources_and_labels_stay():
    assert provenance.source_of(tree.dot) == provenance.source_of(tree.dot.__wrapped__)


def test_one_trace_and_the_jitted_objects_offers():
    traces = []

    def plain(x):
        traces.append(x)
        return x + 1

    counted = entry.guarded(jax.jit(plain), "jaxsci.made_up", "counted")
    for x in (X, X + 1, 2 * X):
        counted(x)
    jax.jit(counted)(X)
    assert len(traces) == 1 and counted.lower(X).compile() is not None and counted.eval_shape(X).shape == (3,)
    assert jax.jit(ours.branch, static_argnames="flag")(X, flag=True).shape == (3,)
    assert jax.vmap(ours.jitted)(BATCH).shape == (2,) and jax.grad(ours.jitted)(X).shape == (3,)


def test_under_a_hook_that_checks_types(tmp_path, monkeypatch):
    """The hook decorates the wrapper too, as every function of its module; wrapped functions answer as before."""
    (tmp_path / "hooked_entry.py").write_text(inspect.getsource(entry))
    monkeypatch.syspath_prepend(tmp_path)
    with install_import_hook("hooked_entry", "beartype.beartype"):
        hooked = importlib.import_module("hooked_entry")
    assert hasattr(hooked.guarded, "__wrapped__"), "the hook did not run"
    counted = hooked.guarded(jax.jit(lambda x: x + 1), "jaxsci.made_up", "hooked")
    assert np.array_equal(counted(X), X + 1) and hooked.is_guarded(counted)
