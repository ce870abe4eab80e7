"""Entries of jaxsci.nn."""

import jax
import jax.numpy as jnp

import contracts
from contracts import Compiled, Driver
from jaxsci import nn

CFG = nn.mlp.config(3, (8,), 2)


def _init(key, dtype):
    return lambda k: nn.mlp.init(k, CFG, dtype=dtype), (key,)


def _apply(key, dtype):
    params = nn.mlp.init(key, CFG, dtype=dtype)
    return lambda p, x: nn.mlp.apply(p, CFG, x), (params, contracts.normal(key, (3,), dtype))


DECODER = nn.transformer.config(
    8, 1, 2, num_groups=1, positions="rotary", norm="rms", activation="swiglu", bias=False, max_length=4, hidden=8
)


def _normal(key, dtype, *shapes):
    return tuple(contracts.normal(jax.random.fold_in(key, i), shape, dtype) for i, shape in enumerate(shapes))


def _layer(function, *shapes):
    return lambda key, dtype: (function, _normal(key, dtype, *shapes))


def _named_affine(key, dtype):
    return lambda x, w, b: nn.layers.affine("layer", x, w, b), _normal(key, dtype, (3,), (3, 2), (2,))


def _rotary(key, dtype):
    return lambda x: nn.layers.rotary(x, jnp.arange(3)), _normal(key, dtype, (3, 1, 4))


def _attention(key, dtype):
    mask = nn.attention.causal_mask(3)
    return lambda *qkv: nn.attention.attention(*qkv, mask), _normal(key, dtype, (3, 2, 4), (3, 1, 4), (3, 1, 4))


def _transformer_init(key, dtype):
    return lambda k: nn.transformer.init(k, DECODER, dtype=dtype), (key,)


def _transformer(key, dtype):
    params = nn.transformer.init(key, DECODER, dtype=dtype)
    mask = nn.attention.causal_mask(3)
    return lambda p, x: nn.transformer.apply(p, DECODER, x, mask=mask), (params, *_normal(key, dtype, (3, 8)))


def _cached(key, dtype):
    params = nn.transformer.init(key, DECODER, dtype=dtype)

    def run(x):
        return nn.transformer.apply(params, DECODER, x, cache=nn.transformer.empty_cache(DECODER, dtype=dtype))

    return run, _normal(key, dtype, (3, 8))


def _sequence_model(key, dtype):
    params = nn.transformer.init(key, DECODER, dtype=dtype)
    table, kernel = _normal(key, dtype, (5, 8), (8, 5))

    def run(table, kernel, token):
        entries = {"embedding": table, "head": {"kernel": kernel, "bias": None}}
        model = nn.transformer.sequence_model(params | entries, DECODER)
        return model.logits(model.advance(model.init(jnp.arange(2)), token))

    return run, (table, kernel, jnp.int32(3))


ENTRIES = {
    "jaxsci.nn.attention.attention": Compiled(_attention, grad=(0, 1, 2)),
    "jaxsci.nn.attention.causal_mask": Driver(works=lambda folder: nn.attention.causal_mask(3)),
    "jaxsci.nn.layers.affine": Compiled(_named_affine, grad=(0, 1, 2)),
    "jaxsci.nn.layers.gelu": Compiled(_layer(nn.layers.gelu, (5,)), grad=(0,)),
    "jaxsci.nn.layers.layer_norm": Compiled(_layer(nn.layers.layer_norm, (2, 5), (5,), (5,)), grad=(0, 1, 2)),
    "jaxsci.nn.layers.rms_norm": Compiled(_layer(nn.layers.rms_norm, (2, 5), (5,)), grad=(0, 1)),
    "jaxsci.nn.layers.rotary": Compiled(_rotary, grad=(0,)),
    "jaxsci.nn.transformer.apply": Compiled(_transformer, grad=(0, 1)),
    "jaxsci.nn.transformer.config": Driver(
        bad=(contracts.Bad(lambda _: nn.transformer.config(8, 1, 3), ValueError, "width must be a multiple"),)
    ),
    "jaxsci.nn.transformer.empty_cache": Compiled(_cached),
    "jaxsci.nn.transformer.init": Compiled(_transformer_init),
    "jaxsci.nn.transformer.sequence_model": Compiled(_sequence_model, grad=(0, 1)),
    "jaxsci.nn.mlp.apply": Compiled(_apply, grad=(0, 1)),
    "jaxsci.nn.mlp.config": Driver(
        bad=(
            contracts.Bad(lambda _: nn.mlp.config(0, (8,), 1), ValueError, "sizes must be integers >= 1"),
            contracts.Bad(lambda _: nn.mlp.config(1, (8,), 1, activation="no"), ValueError, "activation must be one"),
            contracts.Bad(
                lambda _: nn.mlp.apply(nn.mlp.init(jax.random.key(0), CFG), CFG, jnp.ones(4)),
                ValueError,
                r"shape \(3,\)",
            ),
        )
    ),
    "jaxsci.nn.mlp.init": Compiled(_init),
}
