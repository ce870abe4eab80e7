"""Trained networks with packed kernels: the same ``apply`` runs them, an eighth to a thirty-second of the bytes.

A kernel is a leaf called ``kernel`` or ``kernel_i``; its layer is called as its networks call it: ``layer_0.query`` for
``params["layer_0"]["query"]["kernel"]``, ``layer_2`` for ``params["kernel_2"]``, and flax's outer ``params`` is left
out. Every such leaf whose rule has a format of weights becomes a `QuantizedArray`, all others stay as they are.
"""

import os
import re
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import PyTree

from jaxsci.core import arrays
from jaxsci.quantization._layers import Rules, check_names, find_rule, rule_table
from jaxsci.quantization._quantize import QuantizedArray, check_fits, quantize
from jaxsci.quantization._spec import KIND

_KIND = "quantization.params"


def _parts(path) -> list[str]:
    return [str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part)))) for part in path]


def layer_of(path) -> str | None:
    """The name of the layer whose kernel stands at a path of `jax.tree_util`, None if no kernel does.

    Example:
        >>> import jax
        >>> from jaxsci import nn, quantization
        >>> params = nn.mlp.init(jax.random.key(0), nn.mlp.config(2, (3,), 1))
        >>> print([quantization.layer_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)])
        [None, None, 'layer_0', 'layer_1']
    """
    parts = _parts(path)
    if len(parts) > 1 and parts[0] == "params":
        parts = parts[1:]
    if parts and parts[-1] == "kernel":
        return ".".join(parts[:-1]) or "dense"
    numbered = re.fullmatch(r"kernel_(\d+)", parts[-1]) if parts else None
    return ".".join([*parts[:-1], f"layer_{numbered[1]}"]) if numbered else None


def pack_params(params: PyTree, rules: Rules, *, name_of: Callable[..., str | None] = layer_of) -> PyTree:
    """Parameters with quantised kernels, packed where their bits allow it (1, 2, 4) and their inputs fill whole bytes.

    Args:
        params: of `nn.mlp`, `nn.transformer`, flax or a network of the same names; traced or not.
        rules: those that the network was trained with, see `quantization.dense`; formats of known bits.
        name_of: ``name_of(path)`` of `jax.tree_util`: the name of the layer whose kernel stands there, else None
            (static).

    Returns:
        The same tree with `QuantizedArray` in place of kernels; `dense` takes them as they are.

    Raises:
        ValueError: a rule without a layer, a layer without a rule, no kernels at all, or a kernel that does not fit its
            format.

    Example:
        >>> import jax
        >>> from jaxsci import nn, quantization
        >>> params = nn.mlp.init(jax.random.key(0), nn.mlp.config(512, (512,), 2))
        >>> packed = quantization.pack_params(params, {"layer_0": quantization.quest(2, 2), "*": None})
        >>> print(packed["kernel_0"].codes.shape, packed["kernel_1"].shape)
        (128, 512) (512, 2)
    """
    patterns, specs = rule_table("pack_params", rules)
    leaves, structure = jax.tree_util.tree_flatten_with_path(params)
    names = [name_of(path) for path, _ in leaves]
    layers = [name for name in names if name is not None]
    if not layers:
        raise ValueError("pack_params: no kernels; they must be leaves called kernel or kernel_i, or give name_of=")
    check_names("pack_params", patterns, layers)

    def packed(name, leaf):
        spec = None if name is None else specs[find_rule("pack_params", name, patterns)]
        if spec is None or spec.weights is None:
            return leaf
        bits, size = spec.weights.bits, leaf.shape[check_fits(f"pack_params: layer {name!r}", leaf, spec.weights)]
        if bits is None:
            raise ValueError(
                f"pack_params: layer {name!r} has a format of several bits; give the one that it shall have"
            )
        return quantize(leaf, spec.weights, packed=bits in (1, 2, 4) and size * bits % 8 == 0)

    return structure.unflatten([packed(name, leaf) for name, (_, leaf) in zip(names, leaves)])


def num_bytes(params: PyTree) -> int:
    """Bytes of all arrays in a tree; of a `QuantizedArray` those of its codes, units and zero points.

    Args:
        params: parameters, packed or not; shapes are enough.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quantization
        >>> spec = quantization.quest(1).weights
        >>> q = quantization.quantize(jnp.ones((1024, 8)), spec, packed=True)
        >>> print(quantization.num_bytes(jnp.ones((1024, 8))), quantization.num_bytes(q))
        32768 1056
    """
    total = 0
    for leaf in jax.tree.leaves(params, is_leaf=_is_quantized):
        if _is_quantized(leaf):
            total += num_bytes([leaf.codes, leaf.scale, leaf.zero_point])
        else:
            total += int(np.prod(np.shape(leaf))) * jax.numpy.result_type(leaf).itemsize
    return total


def save(path: str | os.PathLike, params: PyTree) -> None:
    """Write parameters, packed or not, into one npz file; the file appears whole or not at all.

    Args:
        path: of the file; its folder must be there.
        params: a tree of arrays and `QuantizedArray`; concrete.

    Raises:
        TypeError: a leaf is traced or no array.
        OSError: the file cannot be written.

    Example:
        >>> import jax.numpy as jnp
        >>> import os, tempfile
        >>> from jaxsci import quantization
        >>> path = os.path.join(tempfile.mkdtemp(), "params.npz")
        >>> quantization.save(path, {"kernel": jnp.ones((2, 2))})
        >>> print(quantization.load(path, {"kernel": jnp.zeros((2, 2))})["kernel"].sum())
        4.0
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    found = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    arrays.save(path, found, kind=_KIND, config=_kind_of(params), caller="quantization.save")


def _kind_of(params: PyTree) -> str:
    """Places, shapes and formats, as text."""
    lines = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_quantized):
        told = [jax.tree_util.keystr(path), str(np.shape(leaf.codes if _is_quantized(leaf) else leaf))]
        if _is_quantized(leaf):
            told += [str(leaf.shape), leaf.dtype_name, str(leaf.plane), str(leaf.spec.bits)]
            told += [str(getattr(leaf.spec, name)) for name in KIND]
        lines.append(" ".join(told))
    return "\n".join(lines)


def _is_quantized(leaf) -> bool:
    return isinstance(leaf, QuantizedArray)


def load(path: str | os.PathLike, like: PyTree) -> PyTree:
    """Read what `save` wrote.

    Args:
        path: of the file.
        like: a tree of the same structure and formats; its arrays are not read:
            ``jax.eval_shape(lambda p: pack_params(p, rules), params)`` will do, and fresh parameters too.

    Returns:
        The tree of `like` with the arrays of the file, bit by bit, on the default device.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of other formats or another network than `like`.

    Example:
        >>> import jax.numpy as jnp
        >>> import os, tempfile
        >>> from jaxsci import quantization
        >>> path = os.path.join(tempfile.mkdtemp(), "params.npz")
        >>> quantization.save(path, {"kernel": jnp.ones((2, 2))})
        >>> print(quantization.load(path, {"kernel": jnp.zeros((2, 2))})["kernel"].sum())
        4.0
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    found = arrays.load(path, kind=_KIND, config=_kind_of(like), names=names, caller="quantization.load")
    return structure.unflatten([jax.numpy.asarray(found[name]) for name in names])


__all__ = ["layer_of", "load", "num_bytes", "pack_params", "save"]
