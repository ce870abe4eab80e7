"""Small real models on real data that ships with packages, each with its one training command.

Builds on: core, nn, diffusion, quantization. `digits` is a class-conditional denoiser of scikit-learn's handwritten
digits, trained by ``python -m jaxsci.models.digits --out DIR``; `language` a decoder of the text that ships with
Python, its products of few bits, trained by ``python -m jaxsci.models.language --out DIR --bits 2``.
"""

from jaxsci.core import entry
from jaxsci.models import digits, language

__all__ = ["digits", "language"]

entry.guard(globals())
