"""The command line: ``python -m jaxsci.models.digits --out DIR`` trains the network and draws its samples."""

import argparse
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci.core import extras
from jaxsci.diffusion import grids, sample, solvers
from jaxsci.models import digits

_COLUMNS, _ZOOM = 12, 6


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, train (or continue), write the picture; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsci.models.digits", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of checkpoints, network and picture")
    parser.add_argument("--steps", type=int, default=6000, help="optimiser steps (default: 6000)")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation, batches and noise")
    arguments = parser.parse_args(argv)
    try:
        trained = digits.train(jax.random.key(arguments.seed), num_steps=arguments.steps, out=arguments.out)
        file = arguments.out / "samples.png"
        _draw(trained.value, file)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command continues from the last checkpoint in {arguments.out}/", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"jaxsci.models.digits: {error}") from error
    last = float(np.mean(trained.history[-200:]))
    print(f"{arguments.steps} steps, {trained.seconds:.0f} s in this call, mean loss of the last 200: {last:.4f}")
    print(f"wrote {arguments.out}/: the network (digits.load) and {file.name}: ten model calls a sample, without and")
    print("with guidance of scale 3")
    return 0


def _draw(params, file) -> None:
    """One row a class; left half without guidance, right half with scale 3, from the same noise."""
    pyplot = extras.require("matplotlib.pyplot", "plot", "the picture of the digits")
    table = solvers.unipc(grids.logsnr(digits.schedule(), 10), order=2)
    denoise = digits.denoiser(params, guidance="classifier_free")
    start = jax.random.normal(jax.random.key(0), (10, _COLUMNS, digits.NUM_PIXELS))

    def one(x_T, label, scale):
        return sample(None, denoise, table, x_T, cond=label, guidance_scale=scale).value

    row = jax.vmap(one, (0, None, None))
    classes = jax.vmap(row, (0, 0, None))
    images = jax.jit(jax.vmap(classes, (None, None, 0)))(start, jnp.arange(10), jnp.array([1.0, 3.0]))
    halves = [_mosaic(np.asarray(half)) for half in images]
    gap = np.ones((halves[0].shape[0], 4))
    file.parent.mkdir(parents=True, exist_ok=True)
    pyplot.imsave(file, np.kron(np.hstack([halves[0], gap, halves[1]]), np.ones((_ZOOM, _ZOOM))), cmap="gray")


def _mosaic(images):
    """[rows, columns, 64] in [-1, 1] as one picture in [-1, 1] with black lines between."""
    rows, columns, _ = images.shape
    padded = np.pad(images.reshape(rows, columns, 8, 8), ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=-1)
    return np.clip(padded.transpose(0, 2, 1, 3).reshape(rows * 9, columns * 9), -1, 1)


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
