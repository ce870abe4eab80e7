"""A real model on real data: a class-conditional denoiser of scikit-learn's digits, trained on a CPU.

``python -m jaxsci.models.digits --out DIR`` trains it; `load` reads it, `denoiser` makes it ready for `sample`:

    params = digits.load("DIR")
    table = solvers.unipc(grids.logsnr(digits.schedule(), 10), order=2)
    image = diffusion.sample(None, digits.denoiser(params), table, x_T, cond=jnp.int32(3)).value.reshape(8, 8)

Needs the extras "nets", "sweep" (progress bar), "demo" (the data) and "plot" (the picture).
"""

from jaxsci.core import entry
from jaxsci.models.digits._network import NULL_LABEL, NUM_PIXELS, apply, init
from jaxsci.models.digits._train import Result, data, denoiser, load, loss, schedule, train

__all__ = [
    "NULL_LABEL",
    "NUM_PIXELS",
    "Result",
    "apply",
    "data",
    "denoiser",
    "init",
    "load",
    "loss",
    "schedule",
    "train",
]

entry.guard(globals())
