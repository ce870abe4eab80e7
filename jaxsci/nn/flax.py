"""Networks of flax, linen or nnx, whose dense layers go through ``dense(name, x, kernel, bias)``.

A module of flax is taken as it is. What enters the networks of this house by the argument `dense` (a quantised product,
a kernel, a calibration) enters a user's own network by `named_dense`. Only linen's ``Dense`` and nnx's ``Linear`` are
such layers; all others compute as flax computes them. Needs the extra "nets".
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from jaxsci.core import entry, extras
from jaxsci.nn import layers


class Named(NamedTuple):
    """A module of flax as two pure functions.

    Attributes:
        init: ``init(key, *args) -> params``; linen's own variables, or the parameters that an nnx module holds as a
            nest of dicts (key and arguments are then not needed).
        apply: ``apply(params, *args, dense=layers.affine, **kwargs)``; kernels in `params` may be any record that
            `dense` understands. Keyword arguments are flax's (``rngs``, ``mutable``, ...) or the module's.
    """

    init: Callable[..., PyTree]
    apply: Callable[..., Any]


def named_dense(module: Any) -> Named:
    """Make every dense layer of a module go through ``dense(name, x, kernel, bias)``.

    Args:
        module: a linen module, or an nnx module with its parameters; static.

    Returns:
        `Named`. Names are the paths of the layers, ``"Dense_0"``, ``"blocks.0.up"``. With the default `dense` the
        outputs are those of the module (a layer's `dtype` casts its input, kernel and bias as in flax where they are
        arrays). State of an nnx module that is no parameter stays as it is now.

    Raises:
        TypeError: `module` is neither.
        ImportError: flax is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> from jaxsci import nn
        >>> network = nn.flax.named_dense(linen.Sequential([linen.Dense(4), jax.nn.relu, linen.Dense(1)]))
        >>> params = network.init(jax.random.key(0), jnp.ones(3))
        >>> def told(name, x, kernel, bias):
        ...     print(name, kernel.shape)
        ...     return nn.layers.affine(name, x, kernel, bias)
        >>> network.apply(params, jnp.ones(3), dense=told).shape
        layers_0 (3, 4)
        layers_2 (4, 1)
        (1,)
    """
    linen = extras.require("flax.linen", "nets", "nn.flax")
    nnx = extras.require("flax.nnx", "nets", "nn.flax")
    if isinstance(module, linen.Module):
        return _linen(linen, module)
    if isinstance(module, nnx.Module):
        return _nnx(nnx, module)
    raise TypeError(f"nn.flax.named_dense: module must be of flax.linen or flax.nnx, got {type(module).__name__}")


def _call(dense: Callable, name: str, dtype: Any, x, kernel, bias):
    """One layer. A kernel that is a record keeps its own arithmetic."""
    if hasattr(kernel, "dtype") and hasattr(x, "dtype"):
        dtypes = extras.require("flax.linen.dtypes", "nets", "nn.flax")
        x, kernel, bias = dtypes.promote_dtype(x, kernel, bias, dtype=dtype)
    return dense(name, x, kernel, bias)


def _linen(linen, module) -> Named:
    def apply(variables, *args, dense: Callable = layers.affine, **kwargs):
        def intercepted(following, args_, kwargs_, context):
            layer = context.module
            if type(layer) is not linen.Dense or context.method_name != "__call__":
                return following(*args_, **kwargs_)
            bias = layer.get_variable("params", "bias") if layer.use_bias else None
            name = ".".join(layer.path) or "dense"
            return _call(dense, name, layer.dtype, args_[0], layer.get_variable("params", "kernel"), bias)

        with linen.intercept_methods(intercepted):
            return module.apply(variables, *args, **kwargs)

    return Named(module.init, apply)


def _nnx(nnx, module) -> Named:
    definition, parameters, rest = nnx.split(module, nnx.Param, ...)
    known = nnx.to_pure_dict(parameters)
    paths = [path for path, part in nnx.iter_modules(module) if type(part) is nnx.Linear]

    def at(tree, path):
        for part in path:
            tree = tree[part]
        return tree

    def without_kernels(params):
        """The parameters that flax itself needs: those of dense layers are at their first values, and not used."""
        plain = _copied(params)
        for path in paths:
            at(plain, path[:-1])[path[-1]] = at(known, path)
        return plain

    def apply(params, *args, dense: Callable = layers.affine, **kwargs):
        state = jax.tree.map(lambda a: a, parameters)  # a copy: the next line writes into it
        nnx.replace_by_pure_dict(state, without_kernels(params) if () not in paths else known)
        merged = nnx.merge(definition, state, rest)
        for path in paths:
            held = at(params, path)
            layer = _at_module(merged, path)

            def call(x, name=".".join(map(str, path)) or "dense", dtype=layer.dtype, held=held):
                return _call(dense, name, dtype, x, held["kernel"], held.get("bias"))

            if not path:
                return call(*args, **kwargs)
            _put(_at_module(merged, path[:-1]), path[-1], call)
        return merged(*args, **kwargs)

    return Named(lambda *_, **__: known, apply)


def _copied(tree):
    return {key: _copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _at_module(module, path):
    for part in path:
        module = module[part] if isinstance(part, int) else getattr(module, part)
    return module


def _put(module, name, call) -> None:
    if isinstance(name, int):
        module[name] = call
    else:
        setattr(module, name, call)


__all__ = ["Named", "named_dense"]

entry.guard(globals())
