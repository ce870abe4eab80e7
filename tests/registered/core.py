"""Entries of jaxsci.core (those of provenance stand in a file of their own)."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

import contracts
import jaxsci
from contracts import Bad, Compiled, Driver
from jaxsci.core import (
    checkpoint,
    drive,
    extras,
    keys,
    loops,
    policies,
    precision,
    progress,
    protocols,
    static,
    status,
    train,
    tree,
    types,
)
from jaxsci.core.protocols import Decision

# --- tree --------------------------------------------------------------------------------------------------


def _nest(key, dtype):
    a, b = jax.random.split(key)
    return {"a": contracts.normal(a, (2, 3), dtype), "b": (contracts.normal(b, (4,), dtype),)}


def _two(key, dtype):
    return _nest(jax.random.fold_in(key, 1), dtype), _nest(jax.random.fold_in(key, 2), dtype)


def _axpy(key, dtype):
    return tree.axpy, (contracts.normal(key, (), dtype), *_two(key, dtype))


def _where(key, dtype):
    return tree.where, (jax.random.bernoulli(key), *_two(key, dtype))


def _numbers(key, dtype):
    return lambda x: tree.as_arrays({"x": x, "n": 2}), (contracts.normal(key, (), dtype),)


def _cast(key, dtype):
    other = jnp.ones(3, jnp.float16)
    return lambda x: tree.cast({"x": x, "y": other, "n": jnp.int32(2)}, x.dtype), (contracts.normal(key, (3,), dtype),)


def _index(key, dtype):
    return tree.dynamic_index, (contracts.normal(key, (5, 2), dtype), jax.random.randint(key, (), 0, 5))


def _product(function, right=(3, 2)):
    def make(key, dtype):
        a, b = jax.random.split(key)
        return function, (contracts.normal(a, (2, 3), dtype), contracts.normal(b, right, dtype))

    return make


PRODUCTS = {
    "matmul": _product(precision.matmul),
    "vdot": _product(precision.vdot, (2, 3)),
    "tensordot": _product(lambda a, b: precision.tensordot(a, b, 1)),
    "einsum": _product(lambda a, b: precision.einsum("ij,jk->ki", a, b)),
}


# --- status and keys ---------------------------------------------------------------------------------------


def _drawn_unrolled(key):
    return jax.random.bits(keys.unrolled(key), (3,))


def _wrapped(key, dtype):
    return lambda data: keys.wrap(data, "threefry2x32"), (jax.random.key_data(key),)


def _codes(function):
    return lambda key, dtype: (function, (jax.random.randint(key, (3,), 0, 1 << 20, jnp.int32),))


def _faults(folder):
    assert status.faults(status.MAX_STEPS) == status.MAX_STEPS and status.faults(0) == 0


def _bits(folder):
    assert [bit for bit, _ in status.bits("core")] == list(range(10))


def _explain(folder):
    assert status.explain(0) == "ok" and status.explain(8).startswith("stagnated: ")


# --- loops -------------------------------------------------------------------------------------------------


def _halve(carry):
    scale, x = carry
    return scale, scale * x


def _large(carry):
    return jnp.sum(jnp.abs(carry[1])) > 1


def _while(kind):
    def run(scale, x):
        (_, x), steps = loops.bounded_while(_large, _halve, (scale, x), max_steps=20, kind=kind)
        return x, steps

    def make(key, dtype):
        return run, (contracts.uniform(key, (), dtype, 0.3, 0.6), 5 + contracts.uniform(key, (3,), dtype))

    return make


def _add(carry, x):
    carry = jnp.sin(carry + x)
    return carry, carry**2


def _after(key, dtype):
    return lambda x: loops.after(x, jnp.array([jnp.nan, 1.0])), (contracts.normal(key, (3,), dtype),)


def _scan(key, dtype):
    def run(carry, xs):
        return loops.checkpointed_scan(_add, carry, xs, segment=3)

    return run, (contracts.normal(key, (2,), dtype), contracts.normal(key, (7, 2), dtype))


# --- train and checkpoint ----------------------------------------------------------------------------------


class _Descent:
    """Gradient descent with momentum, as a pair of functions."""

    @staticmethod
    def init(params):
        return jax.tree.map(jnp.zeros_like, params)

    @staticmethod
    def update(grads, velocity, params):
        velocity = jax.tree.map(lambda v, g: 0.5 * v - 0.1 * g, velocity, grads)
        return velocity, velocity


def _loss(params, batch, key):
    return jnp.sum((params["w"] - batch) ** 2)


def _batches(key, i):
    return contracts.normal(key, (3,), jnp.float32)


def _init(params):
    return train.init(params, optimizer=_Descent)


def _params(key, dtype):
    return {"w": contracts.normal(key, (3,), dtype)}


def _step(key, dtype):
    def run(key, params, batch):
        return train.step(key, _init(params), batch, loss=_loss, optimizer=_Descent)

    return run, (key, _params(key, dtype), contracts.normal(key, (3,), dtype))


def _run(key, dtype):
    def run(key, params):
        return train.run(key, _loss, params, _batches, optimizer=_Descent, num_steps=4)

    return run, (key, _params(key, dtype))


def _fit(folder, **options):
    args = dict(optimizer=_Descent, num_steps=6, checkpoint=folder, progress=False) | options
    return train.fit(jax.random.key(0), _loss, {"w": jnp.zeros(3)}, _batches, **args)


def _fit_works(folder):
    result = _fit(folder)
    assert int(result.state.step) == checkpoint.latest(folder) == len(result.history) == 6
    assert jnp.array_equal(_fit(folder).value["w"], result.value["w"])


def _count(state, i):
    return state + i, state


def _drive_works(folder):
    state, history = drive.scan(_count, jnp.int32(0), 5, checkpoint=folder, progress=False)
    assert int(state) == 10 and history.tolist() == [0, 0, 1, 3, 6] and checkpoint.latest(folder) == 5
    assert int(drive.scan(_count, jnp.int32(0), 6, checkpoint=folder, progress=False)[0]) == 15


def _progress_works(folder):
    told = []
    with progress.reporting("f", lambda *a: told.append(a), 3) as report:
        report(2, "half")
    assert told == [(2, 3, "half")]


def _other_config(folder):
    _fit(folder)
    _fit(folder, config={"width": 3})


def _save_works(folder):
    checkpoint.save(folder, {"x": jnp.arange(3)}, 4)
    assert checkpoint.latest(folder) == 4
    assert jnp.array_equal(checkpoint.restore(folder, {"x": jnp.zeros(3, jnp.int32)})["x"], jnp.arange(3))


def _vector(key, dtype):
    return contracts.normal(key, (3,), dtype)


def _scalar(key, dtype):
    return lambda x: types.as_scalar(x, "f", "x"), (contracts.normal(key, (), dtype),)


def _float_dtype(folder):
    assert types.float_dtype(1, jnp.int8(2)) == jnp.result_type(float)
    assert types.float_dtype({"a": jnp.bfloat16(1)}, 2.0) == jnp.bfloat16


def _as_partial(folder):
    """Functions with leaves keep them, and a bare one is equal to itself as a static thing."""
    scaled, layer = Partial(jnp.multiply, 2.0), eqx.nn.Lambda(jnp.sin)
    assert static.as_partial(scaled, "f", "g") is scaled and static.as_partial(layer, "f", "g") is layer
    bare = static.as_partial(jnp.sin, "f", "g")
    assert not jax.tree.leaves(bare) and bare(0.0) == 0
    assert jax.tree.structure(bare) == jax.tree.structure(static.as_partial(jnp.sin, "f", "g"))


# --- policies ----------------------------------------------------------------------------------------------


def _drawn(key, dtype):
    mask = jnp.array([True, False, True, True])
    return lambda key, p: policies.draw(key, p, mask), (key, contracts.uniform(key, (4,), dtype))


def _chosen(key, dtype):
    mask = jnp.array([True, False, True, True])
    return lambda scores: policies.choose_least(scores, mask), (contracts.normal(key, (4,), dtype),)


def _masks(function):
    return lambda key, dtype: (lambda mask: function(mask, 5), (jax.random.bernoulli(key, shape=(5,)),))


def _context(key, dtype):
    return lambda x: policies.as_context("f", x, (3,), x.dtype), (contracts.normal(key, (3,), dtype),)


def _finite_status(key, dtype):
    return lambda x: protocols.finite_status({"sum": x, "rounds": 3}), (contracts.normal(key, (3,), dtype),)


def _names_status(folder):
    names = "status", "state.process.status", "history.policy_status", "statuses", "status.x", "mystatus"
    assert [status.names_status(name) for name in names] == [True, True, True, False, False, False]


def _is_concrete(folder):
    assert types.is_concrete(({"a": 1.0, "b": jnp.ones(2)}, None, "text"))
    seen = []
    jax.jit(lambda x: seen.append(types.is_concrete((1.0, x))))(1.0)
    assert seen == [False]


def _other_arms(folder):
    key, policy = (
        jax.random.key(0),
        protocols.Policy(None, lambda key, state, context, mask: policies.allowed_arms(mask, 3), None),
    )
    policies.select_among("f", policy, key, None, None, 4)


def _bad_mask(folder):
    policies.allowed_arms(jnp.ones(3), 3)


def _played(key, dtype):
    return lambda p: policies.played(Decision(jnp.int32(0), p)), (contracts.normal(key, (), dtype),)


def _round_keys(key, dtype):
    def run(key, i):
        names = ("policy", "stream")
        return [jax.random.key_data(policies.round_key(key, n, j)) for n in names for j in (None, i)]

    return run, (key, jnp.int32(3))


def _sum_losses(state, decision, loss, context, weight):
    return state + weight * loss


def _update_rule(folder):
    """What teaches, what does not, and what an update may be told to put up with."""
    decision, nothing = Decision(jnp.int32(0), jnp.float32(0)), Decision(jnp.int32(0), jnp.float32(-jnp.inf))
    zero, hole = jnp.float32(0), jnp.float32(jnp.nan)
    strict = policies.as_update(_sum_losses)
    assert float(strict(zero, decision, 2.0, None, 3.0)) == 6 and float(strict(zero, decision, 2.0, 0.5, -1.0)) == -2
    idle = [(nothing, 2.0), (decision, hole), (decision, jnp.inf), (decision, 2.0, hole), (decision, 2.0, None, 0.0)]
    assert not any(float(strict(zero, *round_)) for round_ in idle)
    mild = policies.as_update(_sum_losses, unlearns=False, tolerates=("infinite loss", "context"))
    assert float(mild(zero, decision, jnp.inf)) == jnp.inf and float(mild(zero, decision, 2.0, hole)) == 2
    assert not float(mild(zero, decision, 2.0, None, -1.0)) and not float(mild(zero, decision, hole))


def _argmin(bias, key, state, context, mask):
    return policies.choose_least(state + bias + context, mask)


def _select_rule(folder):
    select = policies.as_select(Partial(_argmin, jnp.zeros(3)))
    decision = select(jax.random.key(0), jnp.array([0.0, 1.0, 2.0]), 0.5, [False, True, True])
    assert int(decision.action) == 1 and float(decision.log_prob) == 0


ENTRIES = {
    **{f"jaxsci.core.precision.{name}": Compiled(make, grad=(0, 1)) for name, make in PRODUCTS.items()},
    "jaxsci.core.tree.dot": Compiled(lambda key, dtype: (tree.dot, _two(key, dtype)), grad=(0, 1)),
    "jaxsci.core.tree.norm": Compiled(lambda key, dtype: (tree.norm, (_nest(key, dtype),)), grad=(0,)),
    "jaxsci.core.tree.as_arrays": Compiled(_numbers, grad=(0,)),
    "jaxsci.core.tree.cast": Compiled(_cast, grad=(0,)),
    "jaxsci.core.tree.axpy": Compiled(_axpy, grad=(0, 1, 2)),
    "jaxsci.core.tree.sub": Compiled(lambda key, dtype: (tree.sub, _two(key, dtype)), grad=(0, 1)),
    "jaxsci.core.tree.where": Compiled(_where, grad=(1, 2)),
    "jaxsci.core.tree.zeros_like": Compiled(lambda key, dtype: (tree.zeros_like, (_nest(key, dtype),))),
    "jaxsci.core.tree.all_finite": Compiled(lambda key, dtype: (tree.all_finite, (_nest(key, dtype),))),
    "jaxsci.core.tree.dynamic_index": Compiled(_index, grad=(0,)),
    "jaxsci.core.status.flag": Compiled(
        lambda key, dtype: (lambda c: status.flag(c, status.DIVERGED), (jax.random.bernoulli(key),))
    ),
    "jaxsci.core.protocols.finite_status": Compiled(_finite_status),
    "jaxsci.core.status.names_status": Driver(works=_names_status),
    "jaxsci.core.status.merge": Compiled(_codes(lambda c: status.merge(c, c + 1))),
    "jaxsci.core.status.reduce": Compiled(_codes(status.reduce)),
    "jaxsci.core.status.bits": Driver(works=_bits),
    "jaxsci.core.status.faults": Driver(works=_faults),
    "jaxsci.core.status.register": Driver(
        bad=(
            Bad(lambda folder: status.register("nobody", 3, "", "", ""), ValueError, r"must lie in \[16, 30\], got 3"),
            Bad(lambda folder: status.register("core", 2, "a", "b", "c"), ValueError, "is 'step cap reached' already"),
        )
    ),
    "jaxsci.explain": Driver(works=_explain),
    "jaxsci.check": Driver(
        bad=(
            Bad(lambda folder: jaxsci.check(3), ValueError, "got int without one"),
            Bad(lambda folder: jaxsci.check({"status": jnp.int32([0, 4])}), status.StatusError, "1 of 2 failed"),
            Bad(lambda folder: jax.jit(lambda s: jaxsci.check({"status": s}))(1), TypeError, "runs on the host"),
        )
    ),
    "jaxsci.core.types.as_float": Compiled(lambda key, dtype: (types.as_float, (_vector(key, dtype),)), grad=(0,)),
    "jaxsci.core.types.as_real": Compiled(
        lambda key, dtype: (lambda x: types.as_real(x, dtype), (_vector(key, dtype),)), grad=(0,)
    ),
    "jaxsci.core.types.as_scalar": Compiled(_scalar, grad=(0,)),
    "jaxsci.core.types.as_count": Driver(
        bad=(Bad(lambda folder: types.as_count(2.5, "f", "n"), ValueError, "f: n must be a whole number, got 2.5"),),
        works=lambda folder: types.as_count(2, "f", "n"),
    ),
    "jaxsci.core.types.is_complex": Driver(works=lambda folder: types.is_complex(1j)),
    "jaxsci.core.types.float_dtype": Driver(works=_float_dtype),
    "jaxsci.core.types.require_double": Driver(
        bad=(
            Bad(
                lambda folder: types.require_double("f", jnp.dtype("float32"), False, "which is coarse"),
                ValueError,
                r'f: expected float64, got float32, which is coarse; add jax.config.update\("jax_enable_x64", True\)',
            ),
        ),
        works=lambda folder: types.require_double("f", jnp.dtype("float32"), True, "which is coarse"),
    ),
    "jaxsci.core.precision.largest": Compiled(
        lambda key, dtype: (precision.largest, (contracts.normal(key, (4,), dtype),))
    ),
    "jaxsci.core.precision.powers_of_two": Compiled(
        lambda key, dtype: (precision.powers_of_two, (contracts.uniform(key, (), dtype),))
    ),
    "jaxsci.core.types.is_concrete": Driver(works=_is_concrete),
    "jaxsci.core.types.concrete": Driver(
        bad=(
            Bad(
                lambda folder: jax.jit(lambda x: types.concrete(x, "rule", "num", "use f"))(1.0),
                TypeError,
                "rule: num must be concrete .* got a traced value; use f",
            ),
        )
    ),
    "jaxsci.core.static.as_partial": Driver(
        bad=(Bad(lambda folder: static.as_partial(3, "sde", "drift"), TypeError, "sde: drift must be a function"),),
        works=_as_partial,
    ),
    "jaxsci.core.static.warn_of_new_objects": Driver(
        works=lambda folder: static.warn_of_new_objects(lambda x: x, "f", "g")
    ),
    "jaxsci.core.static.bind": Driver(
        bad=(Bad(lambda folder: static.bind(max, a=jnp.ones(2)), TypeError, "a must be hashable to be static"),)
    ),
    "jaxsci.core.static.check_size": Driver(
        bad=(
            Bad(lambda folder: static.check_size("f", "num", 2.0), ValueError, "f: num must be an int >= 1, got 2.0"),
            Bad(lambda folder: static.check_size("f", "num", True), ValueError, "got True"),
            Bad(lambda folder: static.check_size("f", "num", -1, least=0), ValueError, "must be an int >= 0, got -1"),
        )
    ),
    "jaxsci.core.policies.draw": Compiled(_drawn),
    "jaxsci.core.policies.choose_least": Compiled(_chosen),
    "jaxsci.core.policies.allowed_arms": Compiled(_masks(policies.allowed_arms)),
    "jaxsci.core.policies.as_context": Compiled(_context, grad=(0,)),
    "jaxsci.core.policies.select_among": Driver(bad=(Bad(_other_arms, ValueError, "f: the policy must play as many"),)),
    "jaxsci.core.policies.sleeping_arms": Compiled(_masks(policies.sleeping_arms)),
    "jaxsci.core.policies.played": Compiled(_played),
    "jaxsci.core.policies.round_key": Compiled(_round_keys),
    "jaxsci.core.policies.as_select": Driver(
        bad=(Bad(_bad_mask, ValueError, r"mask must be Bool of shape \(3,\).* got float32"),), works=_select_rule
    ),
    "jaxsci.core.policies.as_update": Driver(
        bad=(
            Bad(lambda folder: policies.as_update(_sum_losses, tolerates=("nan",)), ValueError, "tolerates must name"),
        ),
        works=_update_rule,
    ),
    "jaxsci.core.policies.check_num_arms": Driver(
        bad=(Bad(lambda folder: policies.check_num_arms("ucb1", 0), ValueError, "ucb1: num_arms must be an int >= 1"),)
    ),
    "jaxsci.core.extras.require": Driver(
        bad=(
            Bad(
                lambda folder: extras.require("no_such_package", "plot", "plot.lines"),
                ImportError,
                r"plot.lines needs 'no_such_package', which is not installed: pip install 'jaxsci\[plot\]'",
            ),
        )
    ),
    "jaxsci.core.keys.as_typed_key": Driver(
        bad=(
            Bad(lambda folder: keys.as_typed_key(0, "f"), TypeError, r"f: key must be a typed key, got int"),
            Bad(lambda folder: keys.as_typed_key(jnp.zeros(2), "f"), TypeError, r"got an array of float32\[2\]"),
            Bad(lambda folder: keys.as_typed_key(jax.random.split(jax.random.key(0)), "f"), ValueError, "use jax.vmap"),
        )
    ),
    "jaxsci.core.keys.per_item": Compiled(lambda key, dtype: (lambda k: keys.per_item(k, 4), (key,))),
    "jaxsci.core.keys.unrolled": Compiled(lambda key, dtype: (_drawn_unrolled, (key,))),
    "jaxsci.core.keys.like": Compiled(lambda key, dtype: (lambda k: keys.like(keys.unrolled(k), k), (key,))),
    "jaxsci.core.keys.generator": Driver(
        bad=(Bad(lambda folder: keys.generator(jnp.zeros(2)), TypeError, r"keys.generator: key must be a typed key"),)
    ),
    "jaxsci.core.keys.wrap": Compiled(_wrapped),
    "jaxsci.core.loops.bounded_while": Compiled(_while("checkpointed"), grad=(0, 1)),
    "jaxsci.core.loops.after": Compiled(_after, grad=(0,)),
    "jaxsci.core.loops.checkpointed_scan": Compiled(_scan, grad=(0, 1)),
    "jaxsci.core.train.init": Compiled(lambda key, dtype: (_init, (_params(key, dtype),))),
    "jaxsci.core.train.step": Compiled(_step, grad=(1, 2)),
    "jaxsci.core.train.run": Compiled(_run, grad=(1,)),
    "jaxsci.core.train.fit": Driver(
        bad=(Bad(_other_config, ValueError, r"belongs to another configuration \(width: saved absent, now 3\)"),),
        works=_fit_works,
    ),
    "jaxsci.core.drive.scan": Driver(
        bad=(
            Bad(lambda folder: drive.scan(_count, 0, -1), ValueError, "drive.scan: num_steps must be an int >= 0"),
            Bad(lambda folder: drive.scan(lambda s, i: s, 0, 1), TypeError, r"step must return \(state, out\)"),
        ),
        works=_drive_works,
    ),
    "jaxsci.core.progress.reporting": Driver(works=_progress_works),
    "jaxsci.core.checkpoint.save": Driver(
        bad=(Bad(lambda folder: checkpoint.save(folder, 1.0, 1, keep=0), ValueError, "keep must be an int >= 1"),),
        works=_save_works,
    ),
    "jaxsci.core.checkpoint.restore": Driver(
        bad=(Bad(lambda folder: checkpoint.restore(folder, 1.0), FileNotFoundError, "no checkpoint in"),)
    ),
    "jaxsci.core.checkpoint.latest": Driver(works=lambda folder: _save_works(folder)),
}
