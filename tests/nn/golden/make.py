"""Outputs of transformer blocks of PyTorch in double precision: ``transformer.npz`` beside this file.

Run with an interpreter that has torch; jaxsci is not needed:

    python tests/nn/golden/make.py

Two cases are PyTorch's own encoder layers. The third puts its RMSNorm, grouped attention and SiLU together in the form
of Llama, with rotary positions as products of complex numbers.
"""

import pathlib

import numpy as np
import torch
from torch.nn import functional

FILE = pathlib.Path(__file__).with_name("transformer.npz")
T, WIDTH, HEADS, HIDDEN, LAYERS = 7, 16, 4, 24, 2


def _linear(layer):
    """A product as jaxsci keeps it: inputs first."""
    bias = None if layer.bias is None else layer.bias
    return layer.weight.T, bias


def _saved(prefix, named):
    arrays = {}
    for name, (kernel, bias) in named.items():
        arrays[f"{prefix}.{name}.kernel"] = kernel
        if bias is not None:
            arrays[f"{prefix}.{name}.bias"] = bias
    return arrays


def _randomise(module):
    """Norms, too: at their initial values they would hide mistakes."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))


def encoder(norm_first, activation, causal):
    """PyTorch's encoder: packed projections are cut into query, key and value."""
    layer = torch.nn.TransformerEncoderLayer(
        WIDTH, HEADS, HIDDEN, dropout=0.0, activation=activation, batch_first=True, norm_first=norm_first
    )
    norm = torch.nn.LayerNorm(WIDTH) if norm_first else None
    model = torch.nn.TransformerEncoder(layer, LAYERS, norm=norm, enable_nested_tensor=False).eval()
    _randomise(model)
    x = torch.randn(1, T, WIDTH)
    mask = torch.triu(torch.ones(T, T, dtype=torch.bool), 1) if causal else None
    arrays = {"x": x[0], "y": model(x, mask=mask)[0]}
    for i, block in enumerate(model.layers):
        packed = block.self_attn
        parts = zip(("query", "key", "value"), packed.in_proj_weight.chunk(3), packed.in_proj_bias.chunk(3))
        products = {name: (weight.T, bias) for name, weight, bias in parts}
        products |= {"out": _linear(packed.out_proj), "up": _linear(block.linear1), "down": _linear(block.linear2)}
        arrays |= _saved(f"layer_{i}", products)
        for j, n in ((1, block.norm1), (2, block.norm2)):
            arrays |= {f"layer_{i}.norm_{j}.scale": n.weight, f"layer_{i}.norm_{j}.bias": n.bias}
    if norm is not None:
        arrays |= {"norm.scale": model.norm.weight, "norm.bias": model.norm.bias}
    return arrays


def llama():
    """Root-mean-square norms, rotary positions, two groups of heads, a gated unit, no biases, causal."""
    groups, size = 2, WIDTH // HEADS

    def turned(x):
        frequencies = 10_000.0 ** (-torch.arange(size // 2) / (size // 2))
        phase = torch.polar(torch.ones(T, size // 2), torch.outer(torch.arange(T, dtype=x.dtype), frequencies))
        pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * phase[:, None]
        return torch.cat([pairs.real, pairs.imag], -1)

    x = torch.randn(T, WIDTH)
    h, arrays = x, {"x": x}
    shapes = {"query": (WIDTH, WIDTH), "key": (WIDTH, groups * size), "value": (WIDTH, groups * size)}
    shapes |= {"out": (WIDTH, WIDTH), "gate": (WIDTH, HIDDEN), "up": (WIDTH, HIDDEN), "down": (HIDDEN, WIDTH)}
    for i in range(LAYERS):
        w = {name: torch.nn.Linear(*shape, bias=False) for name, shape in shapes.items()}
        norms = [torch.nn.RMSNorm(WIDTH, eps=1e-5) for _ in range(2)]
        for module in (*w.values(), *norms):
            _randomise(module)
        a = norms[0](h)
        q, k, v = (w[n](a).reshape(T, -1, size) for n in ("query", "key", "value"))
        q, k = turned(q), turned(k)
        q, k, v = (z.transpose(0, 1)[None] for z in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        h = h + w["out"](out[0].transpose(0, 1).reshape(T, WIDTH))
        a = norms[1](h)
        h = h + w["down"](functional.silu(w["gate"](a)) * w["up"](a))
        arrays |= _saved(f"layer_{i}", {name: _linear(layer) for name, layer in w.items()})
        arrays |= {f"layer_{i}.norm_{j + 1}.scale": n.weight for j, n in enumerate(norms)}
    last = torch.nn.RMSNorm(WIDTH, eps=1e-5)
    _randomise(last)
    return arrays | {"norm.scale": last.weight, "y": last(h)}


def main():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    cases = {"post": encoder(False, "gelu", False), "pre": encoder(True, "relu", True), "llama": llama()}
    found = {f"{case}/{name}": a.detach().numpy() for case, arrays in cases.items() for name, a in arrays.items()}
    np.savez_compressed(FILE, versions=np.asarray(f"torch {torch.__version__}"), **found)


if __name__ == "__main__":
    main()
