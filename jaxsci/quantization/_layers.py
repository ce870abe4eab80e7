r"""Quantised products for networks: ``dense(name, x, kernel, bias)`` with a format for each layer by its name.

The product of a layer is $y = \hat x\,\hat W + b$ with the values of `fake_quantize` in both places. Where both are
transformed along the contracted axis the transforms cancel, $(\hat x H)(H^T \hat W) = \hat x\,\hat W$, and need not be
undone. A kernel that is a `QuantizedArray` takes its stored values instead, bit by bit the same. With ``"integer"``
both factors are codes: with units $u_x$ of a row and $u_w$ of a column and codes that stand for $q + h$ (h = 1/2
without zero), $y = u_x u_w\,[\sum q_x q_w + h_w \sum q_x + h_x \sum q_w + h_x h_w K]$: whole numbers until the last
product.

Reference: A. Panferov et al. 2025, arXiv:2502.05003, and its kernels (gemm of integers with sums of rows).
"""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Float, PyTree

from jaxsci.core import entry
from jaxsci.core.static import bind
from jaxsci.nn import layers
from jaxsci.quantization import formats
from jaxsci.quantization._fake import fake_quantize
from jaxsci.quantization._hadamard import hadamard_transform
from jaxsci.quantization._quantize import QuantizedArray, dequantize, quantize, signed_codes
from jaxsci.quantization._spec import QuantSpec, quant_spec, unify

_EXECUTIONS = ("float", "integer")


class LayerSpec(eqx.Module):
    """Formats of one product.

    Attributes:
        weights: of the kernel, along axis 0; None leaves it as it is.
        activations: of the inputs, along axis -1; None leaves them as they are.
    """

    weights: QuantSpec | None
    activations: QuantSpec | None

    @staticmethod
    def unify(trees: Sequence[PyTree]) -> list[PyTree]:
        """What `jaxsci.sweep.stack` calls: `quantization.unify`."""
        return unify(trees)


def layer_spec(weights: QuantSpec | None, activations: QuantSpec | None = None) -> LayerSpec:
    """Formats of one product, checked against each other.

    Args:
        weights: format of kernels (in, out), along axis 0; None does not quantise them.
        activations: format of inputs, along their last axis; None does not quantise them.

    Raises:
        ValueError: an axis that the product does not contract, or two transforms that do not cancel.
        TypeError: a format that does not come from `quant_spec`.

    Example:
        >>> from jaxsci import quantization
        >>> weights = quantization.quant_spec(quantization.formats.midtread(4), scale="absmax", axis=0)
        >>> print(quantization.layer_spec(weights).activations)
        None
    """
    for name, spec, axis in (("weights", weights, 0), ("activations", activations, -1)):
        if spec is None:
            continue
        if not isinstance(spec, QuantSpec):
            raise TypeError(f"layer_spec: {name} must come from quant_spec, got {type(spec).__name__}")
        if spec.axis != axis:
            raise ValueError(f"layer_spec: {name} must run along axis {axis}, which is contracted, got {spec.axis}")
    if weights is not None and activations is not None and _half(weights) != _half(activations):
        raise ValueError(
            "layer_spec: transforms that stay (domain='half') must be those of both factors, got blocks "
            f"{_half(weights)} and {_half(activations)}"
        )
    if weights is None and activations is not None and _half(activations):
        raise ValueError("layer_spec: inputs that stay transformed need weights that do; use domain='full'")
    return LayerSpec(weights, activations)


def _half(spec: QuantSpec) -> int:
    return spec.hadamard if spec.domain == "half" else 0


def quest(
    weight_bits: float | int | None,
    activation_bits: float | int | None = None,
    *,
    block: int = 128,
    domain: str = "half",
    estimator: str = "trust",
    clip_scale: Float[ArrayLike, ""] | None = None,
    trust: Float[ArrayLike, ""] | None = None,
    reference: bool = False,
) -> LayerSpec:
    """The formats of QuEST: Hadamard transform, levels without zero, units from the root mean square of a row.

    Args:
        weight_bits: 1 to 8, or 1.585 for the three levels -1, 0, 1; None does not quantise the weights (static).
        activation_bits: likewise of the inputs; None does not quantise them (static).
        block: of the transform, 0 for none (static).
        domain, estimator, clip_scale, trust, reference: of `quant_spec`. The published runs of one bit use
            ``estimator="clip", clip_scale=1.3``, all others "trust".

    Raises:
        ValueError: other bits, or see `quant_spec`.

    Example:
        >>> from jaxsci import quantization
        >>> spec = quantization.quest(4, 8)
        >>> print(spec.weights.bits, spec.activations.bits, spec.activations.axis)
        4 8 -1
    """

    def made(bits, axis):
        if bits is None:
            return None
        grid = formats.ternary() if bits == 1.585 else formats.midrise(bits)
        return quant_spec(
            grid, axis=axis, hadamard=block, domain=domain, estimator=estimator, clip_scale=clip_scale, trust=trust,
            reference=reference,
        )  # fmt: skip

    if weight_bits is None and activation_bits is not None:
        domain = "full"
    return layer_spec(made(weight_bits, 0), made(activation_bits, -1))


# --- rules --------------------------------------------------------------------------------------------------

Rules = LayerSpec | Mapping[str, LayerSpec | None]
"""One format for all layers, or patterns of names with the format of each; None exempts; the first match counts."""


def rule_table(function: str, rules: Rules) -> tuple[tuple[str, ...], tuple[LayerSpec | None, ...]]:
    """Patterns and their formats in order; a format alone is that of every layer.

    Raises:
        TypeError: no format and no mapping of patterns to formats.
    """
    if isinstance(rules, LayerSpec):
        return ("*",), (rules,)
    if not isinstance(rules, Mapping) or not rules:
        raise TypeError(
            f"{function}: expected a LayerSpec or {{pattern of names: LayerSpec or None}}, got {type(rules).__name__}"
        )
    for pattern, spec in rules.items():
        if not isinstance(pattern, str) or not (spec is None or isinstance(spec, LayerSpec)):
            raise TypeError(
                f"{function}: rules map patterns to a LayerSpec or None, got {pattern!r}: {type(spec).__name__}"
            )
    return tuple(rules), tuple(rules.values())


def find_rule(function: str, name: str, patterns: tuple[str, ...]) -> int:
    """The number of the first pattern that the layer's name matches.

    Raises:
        ValueError: no pattern matches.
    """
    for i, pattern in enumerate(patterns):
        if fnmatch.fnmatchcase(name, pattern):
            return i
    raise ValueError(
        f"{function}: no rule for the layer {name!r}; patterns are {', '.join(map(repr, patterns))}: add '*': None to "
        "leave all others as they are"
    )


def check_names(function: str, patterns: Iterable[str], names: Iterable[str]) -> None:
    """Every pattern has a layer, and every layer a pattern.

    Raises:
        ValueError: naming what is left over, and the layers that there are.
    """
    patterns, names = tuple(patterns), tuple(names)
    used = {find_rule(function, name, patterns) for name in names}
    idle = [pattern for i, pattern in enumerate(patterns) if i not in used and pattern != "*"]
    if idle:
        raise ValueError(
            f"{function}: no layer for the rule {', '.join(map(repr, idle))}, or an earlier rule takes all of its "
            f"layers; layers are {', '.join(map(repr, names))}"
        )


def layer_names(apply: Callable, *args, **kwargs) -> tuple[str, ...]:
    """Names of the products of a network, in the order in which it calls them.

    Args:
        apply: ``apply(*args, dense=..., **kwargs)``, such as `nn.mlp.apply` or that of `nn.flax.named_dense`.
        *args, **kwargs: what it takes; nothing is computed.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import nn, quantization
        >>> cfg = nn.mlp.config(4, (8,), 2)
        >>> params = nn.mlp.init(jax.random.key(0), cfg)
        >>> quantization.layer_names(nn.mlp.apply, params, cfg, jnp.ones(4))
        ('layer_0', 'layer_1')
    """
    found = {}

    def told(name, x, kernel, bias):
        found[name] = None
        return layers.affine(name, x, kernel, bias)

    eqx.filter_eval_shape(apply, *args, dense=told, **kwargs)
    return tuple(found)


# --- products -----------------------------------------------------------------------------------------------


def dense(rules: Rules, *, execution: str = "float", names: Iterable[str] | None = None) -> Partial:
    """A product for networks, quantised layer by layer.

    Args:
        rules: a `LayerSpec` for all layers, or ``{pattern: LayerSpec or None}`` with patterns as of file names
            (``"block_?.up"``, ``"*.query"``); the first that matches counts, None leaves a layer as it is. Patterns are
            static, the numbers of the formats traced.
        execution: "float" multiplies values, and is what trains; "integer" multiplies codes where both factors have
            uniform levels and units that are constant along the contracted axis, and raises elsewhere (static).
        names: layers of the network, from `layer_names`: then a pattern without a layer raises here.

    Returns:
        ``dense(name, x, kernel, bias)`` for `nn.mlp.apply`, `nn.transformer.apply`, the networks of
        `nn.flax.named_dense` and others. A kernel may be an array or a `QuantizedArray` of `pack_params`, whose own
        format then counts; the format of the inputs always comes from the rules.

    Raises:
        ValueError: an unknown execution, or a name that fits no pattern (when the network is traced, or here).
        TypeError: rules of another type.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import nn, quantization
        >>> cfg = nn.mlp.config(128, (128, 128), 3)
        >>> params = nn.mlp.init(jax.random.key(0), cfg)
        >>> rules = {"layer_2": None, "*": quantization.quest(4, 4)}
        >>> print(nn.mlp.apply(params, cfg, jnp.ones(128), dense=quantization.dense(rules)).shape)
        (3,)
    """
    patterns, specs = rule_table("quantization.dense", rules)
    if execution not in _EXECUTIONS:
        raise ValueError(f"quantization.dense: execution must be one of {', '.join(_EXECUTIONS)}, got {execution!r}")
    if names is not None:
        check_names("quantization.dense", patterns, names)
    return Partial(bind(_dense, patterns=patterns, execution=execution), specs)


def _dense(specs, name: str, x, kernel, bias, *, patterns, execution):
    spec = specs[find_rule("quantization.dense", name, patterns)]
    stored = isinstance(kernel, QuantizedArray)
    if spec is None and not stored:
        return layers.affine(name, x, kernel, bias)
    weights = kernel.spec if stored else spec.weights
    activations = None if spec is None else spec.activations
    if stored:  # the rules may not be those that it was packed with
        layer_spec(weights, activations)
    if execution == "integer":
        out = _integers(name, x, kernel, weights, activations)
    else:
        if activations is not None:
            x = fake_quantize(x, activations)
        elif weights is not None and _half(weights):
            x = hadamard_transform(x, weights.hadamard, -1)
        if stored:
            kernel = dequantize(kernel)
        elif weights is not None:
            kernel = fake_quantize(kernel, weights)
        out = x @ kernel
    return out if bias is None else out + bias.reshape((1,) * (out.ndim - 1) + bias.shape)


def _integers(name, x, kernel, weights, activations):
    for what, spec in (("weights", weights), ("inputs", activations)):
        if spec is None or spec.grid not in ("midrise", "midtread") or spec.granularity == "group":
            raise ValueError(
                f"quantization.dense: layer {name!r} cannot be computed in integers: its {what} need a format with "
                "uniform levels and units that are constant along the contracted axis; use execution='float'"
            )
    if weights.hadamard != activations.hadamard:
        raise ValueError(f"quantization.dense: layer {name!r} cannot be computed in integers: the transforms differ")
    if x.shape[-1] << _bits(weights) + _bits(activations) >= 2**31:
        raise ValueError(f"quantization.dense: layer {name!r} has too many inputs for sums in int32, {x.shape[-1]}")
    a, w = quantize(x, activations), kernel if isinstance(kernel, QuantizedArray) else quantize(kernel, weights)
    total = integer_product(signed_codes(a), signed_codes(w), _shift(activations), _shift(weights))
    scale_w = jnp.broadcast_to(w.scale.reshape((1,) * (x.ndim - 1) + w.scale.shape[1:]), total.shape)
    return (total.astype(a.scale.dtype) / 4 * a.scale * scale_w).astype(x.dtype)


def _bits(spec: QuantSpec) -> int:
    return 8 if spec.bits is None else spec.bits


def _shift(spec: QuantSpec) -> int:
    """Twice of what a value exceeds its code by, in units."""
    return 1 if spec.grid == "midrise" else 0


def integer_product(a: Array, w: Array, shift_a: int, shift_w: int) -> Array:
    """Four times the sum over K of (a + shift_a / 2)(w + shift_w / 2): exact, int32.

    Args:
        a: int8 codes (..., K).
        w: int8 codes (K, N).
        shift_a, shift_w: 0 or 1 (static).
    """
    contract = (((a.ndim - 1,), (0,)), ((), ()))
    total = 4 * jax.lax.dot_general(a, w, contract, preferred_element_type=jnp.int32)
    if shift_w:
        total = total + 2 * jnp.sum(a, axis=-1, keepdims=True, dtype=jnp.int32)
    if shift_a:
        columns = 2 * jnp.sum(w, axis=0, dtype=jnp.int32)
        total = total + columns.reshape((1,) * (total.ndim - 1) + columns.shape)
    total = total + shift_a * shift_w * w.shape[0]
    return total


__all__ = [
    "LayerSpec",
    "Rules",
    "check_names",
    "dense",
    "find_rule",
    "layer_names",
    "layer_spec",
    "quest",
    "rule_table",
]

entry.hold(globals(), "_dense")
