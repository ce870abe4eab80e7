"""Quantisation: formats and grids of few levels, and training with weights and activations on them.

Builds on: core, nn, linear. Start reading at `_spec.py` (what a format is), then `_quantize.py` (numbers to codes).
"""

from jaxsci.core import entry
from jaxsci.quantization import formats, scaling
from jaxsci.quantization._export import layer_of, load, num_bytes, pack_params, save
from jaxsci.quantization._fake import fake_quantize
from jaxsci.quantization._hadamard import hadamard_transform
from jaxsci.quantization._layers import LayerSpec, Rules, dense, layer_names, layer_spec, quest
from jaxsci.quantization._packing import (
    from_gptq_words,
    from_interleaved,
    pack,
    to_gptq_words,
    to_interleaved,
    unpack,
)
from jaxsci.quantization._quantize import QuantizedArray, dequantize, quantize
from jaxsci.quantization._report import ZERO_TILE, Report, report
from jaxsci.quantization._spec import QuantSpec, quant_spec, unify

__all__ = [
    "ZERO_TILE",
    "LayerSpec",
    "QuantSpec",
    "QuantizedArray",
    "Report",
    "Rules",
    "dense",
    "dequantize",
    "fake_quantize",
    "formats",
    "from_gptq_words",
    "from_interleaved",
    "hadamard_transform",
    "layer_names",
    "layer_of",
    "layer_spec",
    "load",
    "num_bytes",
    "pack",
    "pack_params",
    "quant_spec",
    "quantize",
    "quest",
    "report",
    "save",
    "scaling",
    "to_gptq_words",
    "to_interleaved",
    "unify",
    "unpack",
]

entry.guard(globals())
