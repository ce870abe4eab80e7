"""Outputs of a prior-data fitted network in PyTorch, double precision: ``network.npz`` beside this file.

Run with an interpreter that has torch; jaxsci is not needed:

    python tests/pfn/golden/make.py [FILE width layers heads features buckets]

The network is the published one put together from PyTorch's own encoder layers: post-norm, packed projections, exact
gelu, and a mask by which a token sees the live context tokens and itself. All tokens form one sequence.
"""

import pathlib
import sys

import numpy as np
import torch

FILE = pathlib.Path(__file__).with_name("network.npz")
SLOTS, QUERIES, LIVE = 6, 4, (0, 3, 6)


class Network(torch.nn.Module):
    """Two embeddings, the encoder, a head."""

    def __init__(self, width, layers, heads, features, buckets):
        super().__init__()
        self.encoder_x = torch.nn.Linear(features, width)
        self.encoder_y = torch.nn.Linear(1, width)
        layer = torch.nn.TransformerEncoderLayer(
            width, heads, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=False
        )
        self.encoder = torch.nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = torch.nn.Sequential(
            torch.nn.Linear(width, 2 * width), torch.nn.GELU(), torch.nn.Linear(2 * width, buckets)
        )

    def forward(self, x, y, live):
        """x: (T, F); y: (T,), of which the first `live` count."""
        num = x.shape[0]
        context = (torch.arange(num) < live)[:, None]
        h = self.encoder_x(x) + torch.where(context, self.encoder_y(y[:, None]), 0)
        sees = (torch.arange(num)[None] < live) | torch.eye(num, dtype=torch.bool)
        return self.head(self.encoder(h[None], mask=~sees)[0])


def saved(network):
    """Parameters under the names of jaxsci, products with their inputs first."""

    def product(name, weight, bias):
        return {f"{name}.kernel": weight.T, f"{name}.bias": bias}

    arrays = {}
    for name, part in (
        ("encoder_x", network.encoder_x),
        ("encoder_y", network.encoder_y),
        ("head_1", network.head[0]),
        ("head_2", network.head[2]),
    ):
        arrays |= product(name, part.weight, part.bias)
    for i, block in enumerate(network.encoder.layers):
        packed, place = block.self_attn, f"transformer.layer_{i}"
        thirds = zip(("query", "key", "value"), packed.in_proj_weight.chunk(3), packed.in_proj_bias.chunk(3))
        for name, weight, bias in thirds:
            arrays |= product(f"{place}.{name}", weight, bias)
        for name, part in (("out", packed.out_proj), ("up", block.linear1), ("down", block.linear2)):
            arrays |= product(f"{place}.{name}", part.weight, part.bias)
        for j, norm in ((1, block.norm1), (2, block.norm2)):
            arrays |= {f"{place}.norm_{j}.scale": norm.weight, f"{place}.norm_{j}.bias": norm.bias}
    return arrays


def main(file=FILE, width=16, layers=2, heads=4, features=2, buckets=12):
    """Draw a network and data, write both and the outputs."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    network = Network(*map(int, (width, layers, heads, features, buckets))).eval()
    with torch.no_grad():  # norms and biases, too: at their initial values they would hide mistakes
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, y = torch.rand(SLOTS + QUERIES, int(features)), torch.randn(SLOTS + QUERIES)
        arrays = saved(network) | {"x": x, "y": y}
        for live in LIVE:
            arrays[f"logits_{live}"] = network((x - 0.5) * 12**0.5, y, live)
    np.savez_compressed(file, **{name: a.detach().numpy() for name, a in arrays.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
