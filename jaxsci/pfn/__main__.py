"""The command line: ``python -m jaxsci.pfn train --prior gp --out DIR`` trains a network and measures it.

The models of the package are made by ``train --prior gp``, ``--prior lc`` and ``--prior tabular`` without further
arguments; the file in the folder is the one that lies in ``weights``.
"""

import argparse
import json
import pathlib
import sys
import time

import jax

from jaxsci.pfn import _network, _presets, _store, _train


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, train (or continue), measure, write the model; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsci.pfn", description=__doc__.splitlines()[0])
    train = parser.add_subparsers(dest="command", required=True).add_parser("train", help="train a network on a prior")
    train.add_argument("--prior", required=True, choices=_presets.PRESETS, help="what the data sets are drawn from")
    train.add_argument("--out", type=pathlib.Path, required=True, help="folder of the checkpoints and the model")
    train.add_argument("--steps", type=int, help="optimiser steps (default: those of the package's own model)")
    train.add_argument("--batch", type=int, help="data sets a step")
    train.add_argument("--rate", type=float, help="peak of the learning rate")
    train.add_argument("--buckets", type=int, help="buckets of the predictive distribution")
    train.add_argument("--width", type=int, default=64, help="width of the network")
    train.add_argument("--layers", type=int, default=3, help="blocks of the network")
    train.add_argument("--heads", type=int, default=4, help="attention heads")
    train.add_argument("--half", action="store_true", help="products in bfloat16, for accelerators")
    train.add_argument("--seed", type=int, default=0, help="of initialisation and data")
    arguments = parser.parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command continues from the last checkpoint in {arguments.out}/", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"jaxsci.pfn: {error}") from error


def _run(arguments) -> int:
    preset, key = _presets.PRESETS[arguments.prior], jax.random.key(arguments.seed)
    prior, steps = preset.prior(), arguments.steps or preset.num_steps
    buckets, borders = arguments.buckets or preset.num_buckets, None
    if not preset.classes:
        borders = _train.prior_borders(
            jax.random.fold_in(key, 1), prior, buckets, num_points=preset.num_points, num_features=preset.num_features
        )
        buckets = borders.size - 1
    cfg = _network.config(
        preset.num_features, buckets, width=arguments.width, num_layers=arguments.layers, num_heads=arguments.heads,
        **preset.ranges,
    )  # fmt: skip
    batch_size, rate = arguments.batch or preset.batch_size, arguments.rate or preset.learning_rate
    began, cpu = time.perf_counter(), time.process_time()
    result = _train.train(
        jax.random.fold_in(key, 2), prior, cfg, borders, num_points=preset.num_points, num_steps=steps,
        batch_size=batch_size, context=preset.context, learning_rate=rate,
        compute_dtype="bfloat16" if arguments.half else None, out=arguments.out,
    )  # fmt: skip
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    settings = {"prior": arguments.prior, "steps": steps, "batch": batch_size, "rate": rate, "seed": arguments.seed}
    _store.save(arguments.out / "model.npz", result.value, about={"training": settings})
    figures = preset.measure(jax.random.key(1_000_003 + arguments.seed), result.value)
    _store.save(arguments.out / "model.npz", result.value, about={"training": settings, "figures": figures})
    print(f"{steps} steps, {seconds:.0f} s ({cpu:.0f} CPU seconds) in this call, status {int(result.status)}")
    for name, values in figures.items():
        print(f"{name:>6}: " + ", ".join(f"{what} {value}" for what, value in values.items()))
    print(f"wrote {arguments.out / 'model.npz'}: {json.dumps(settings)}")
    return 0


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
