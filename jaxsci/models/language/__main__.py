"""The command line: ``python -m jaxsci.models.language --out DIR --bits 2`` trains the decoder and lets it write."""

import argparse
import pathlib
import sys

import jax

from jaxsci import quantization
from jaxsci.models import language
from jaxsci.nn import transformer

_METHODS = ("quest", "clip", "ste", "plain")
_PROMPT = "The import statement"


def spec_of(bits: float | None, method: str) -> quantization.LayerSpec | None:
    """The format that the options name.

    Args:
        bits: of weights and inputs; None trains in full precision.
        method: "quest": transform and trust, with one bit clipping at 1.3; "clip", "ste": the same with that estimator;
            "plain": neither transform nor estimator.

    Raises:
        ValueError: another method, or bits that no format has.
    """
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}, got {method!r}")
    if bits is None:
        return None
    bits = int(bits) if bits == int(bits) else bits
    if method == "plain":
        return quantization.quest(bits, bits, block=0, estimator="ste")
    if method == "clip" or (method == "quest" and bits == 1):
        return quantization.quest(bits, bits, estimator="clip", clip_scale=1.3)
    return quantization.quest(bits, bits, estimator="trust" if method == "quest" else "ste")


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments, train (or continue), write the packed network and a sample; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsci.models.language", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder of checkpoints and networks")
    parser.add_argument("--bits", type=float, help="of weights and inputs: 1, 1.585, 2 to 8 (default: full precision)")
    parser.add_argument("--method", choices=_METHODS, default="quest", help="how it is quantised (default: quest)")
    parser.add_argument("--steps", type=int, default=600, help="optimiser steps (default: 600)")
    parser.add_argument("--positions", choices=("rotary", "learned"), default="rotary", help="(default: rotary)")
    parser.add_argument("--seed", type=int, default=0, help="of initialisation and batches")
    arguments = parser.parse_args(argv)
    key, cfg = jax.random.key(arguments.seed), language.config(positions=arguments.positions)
    try:
        spec = spec_of(arguments.bits, arguments.method)
        trained = language.train(key, spec, cfg=cfg, num_steps=arguments.steps, out=arguments.out)
        params = trained.value
        if spec is not None:
            params = quantization.pack_params(trained.value, language.rules(spec))
            quantization.save(arguments.out / "packed.npz", params)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command continues from the last checkpoint in {arguments.out}/", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"jaxsci.models.language: {error}") from error
    told = f"{arguments.steps} steps, {trained.seconds:.0f} s in this call"
    print(f"{told}, {trained.validation:.4f} nats a symbol on text that it has not seen")
    if spec is not None:
        sizes = [sum(quantization.num_bytes(tree[f"layer_{i}"]) for i in range(cfg.num_layers)) for tree in (
            trained.value, params)]  # fmt: skip
        print(f"blocks: {sizes[0]} bytes as trained, {sizes[1]} packed in packed.npz")
    model = transformer.sequence_model(params, cfg, dense=language.products(spec))
    prompt = language.encode(_PROMPT)
    written = language.write(
        jax.random.key(arguments.seed), model, prompt, cfg.max_length - len(prompt), temperature=0.5
    )
    print(_PROMPT + "|" + language.decode(written))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
