"""A small language model on text that ships with Python, trained with weights and activations of few bits on a CPU.

``python -m jaxsci.models.language --out DIR --bits 2`` trains it; `load` reads it, and it runs step by step:

    params, cfg, spec = language.load("DIR"), language.config(), quantization.quest(2, 2)
    model = nn.transformer.sequence_model(params, cfg, dense=language.products(spec))
    print(language.decode(language.write(key, model, language.encode("The import"), 40)))

Needs the extra "nets", and "sweep" for the progress bar.
"""

from jaxsci.core import entry
from jaxsci.models.language._network import apply, config, init, products, rules
from jaxsci.models.language._text import Text, data, decode, encode
from jaxsci.models.language._train import Point, Result, load, loss, point, train, validation_loss
from jaxsci.models.language._write import write

__all__ = [
    "Point",
    "Result",
    "Text",
    "apply",
    "config",
    "data",
    "decode",
    "encode",
    "init",
    "load",
    "loss",
    "point",
    "products",
    "rules",
    "train",
    "validation_loss",
    "write",
]

entry.guard(globals())
