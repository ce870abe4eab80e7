"""Small real models on real data that ships with packages, each with its one training command.

Builds on: core, nn, diffusion, quantization. `digits` is a class-conditional denoiser of scikit-learn's handwritten digits, trained
by ``python -m jaxsci.models.digits --out DIR``.
"""

from jaxsci.models import digits, language

__all__ = ["digits", "language"]
