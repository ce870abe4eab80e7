"""An op together with the rule of its derivative, of which no transformation loses sight.

`jax.custom_jvp` drops its rule where a loop is split into what is known and what is linear: the derivative of the
gradient of a `lax.scan`, as in `jax.hessian`, then meets the kernel itself, which has none. The rule of a primitive
stays.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

_op_p = Primitive("pallas_kernels_op")
_op_p.multiple_results = True


def with_tangent(tangent: Callable[..., tuple]) -> Callable[[Callable[..., tuple]], Callable[..., tuple]]:
    """Give ``function(*arrays, **static)``, which returns a tuple of arrays, a derivative.

    Args:
        tangent: ``tangent(primals, slopes, **static)``, linear in the slopes, in plain jax.numpy; a slope is None where
            the array is one of integers. It returns a slope for each output, None for integers and constants.
    """

    def decorate(function):
        def op(*arrays, **static):
            return tuple(_bind(functools.partial(function, **static), functools.partial(tangent, **static), arrays))

        return functools.update_wrapper(op, function)

    return decorate


def _bind(function, tangent, arrays):
    return _op_p.bind(*arrays, closed=jax.make_jaxpr(function)(*arrays), tangent=tangent)


def _evaluate(*arrays, closed, tangent):
    return jaxpr_as_fun(closed)(*arrays)


def _differentiate(primals, slopes, *, closed, tangent):
    real = [jnp.issubdtype(p.dtype, jnp.inexact) for p in primals]
    slopes = tuple(ad.instantiate_zeros(s) if r else None for s, r in zip(slopes, real))
    out = _op_p.bind(*primals, closed=closed, tangent=tangent)
    changes = tangent(tuple(primals), slopes)
    return out, [ad.Zero(jax.typeof(o).to_tangent_aval()) if c is None else c for o, c in zip(out, changes)]


def _batch(arrays, axes, *, closed, tangent):
    arrays = [a if axis is None else jnp.moveaxis(a, axis, 0) for a, axis in zip(arrays, axes)]
    lanes = tuple(None if axis is None else 0 for axis in axes)

    def tangents(primals, slopes):
        return jax.vmap(tangent, (lanes, tuple(None if s is None else lane for s, lane in zip(slopes, lanes))))(
            primals, slopes
        )

    out = _bind(jax.vmap(jaxpr_as_fun(closed), lanes), tangents, arrays)
    return out, [0] * len(out)


_op_p.def_impl(_evaluate)
_op_p.def_effectful_abstract_eval(lambda *arrays, closed, tangent: (closed.out_avals, closed.effects))
mlir.register_lowering(_op_p, mlir.lower_fun(_evaluate, multiple_results=True))
ad.primitive_jvps[_op_p] = _differentiate
batching.primitive_batchers[_op_p] = _batch

__all__: list[str] = []
