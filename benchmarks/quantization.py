"""Few bits: codes, units and bytes against qwix, Keras and QuEST's own arithmetic; training steps; a language model."""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._harness import compare, compiled, main, row
from jaxsci import nn, quantization
from jaxsci.core import train
from jaxsci.demo import _quantization_study as digits
from jaxsci.models import language
from jaxsci.quantization import formats, quant_spec

_WIDTH = 512
_TIE = 0.01  # of a unit: codes are compared where the number lies further than this from the border of two codes


def _kernel(shape=(_WIDTH, _WIDTH)):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32) / shape[0] ** 0.5


def _stored(q):
    return q.codes, q.scale


# --- codes and bytes ----------------------------------------------------------------------------------------


def _qwix(peers):
    """The rule of qwix puts the largest magnitude half a step beyond the last code, on a tie: ties are left out."""
    w = _kernel()
    inputs = np.random.default_rng(1).normal(size=(256, _WIDTH)).astype(np.float32)
    exact = inputs.astype(np.float64) @ w
    for bits in (4, 8):
        spec = quant_spec(formats.midtread(bits, full=True), scale="absmax", bound="qmax+0.5")
        ours = compiled(lambda w, spec=spec: _stored(quantization.quantize(w, spec)), w)

        def error(stored):
            codes, scale = (np.asarray(a, np.float64) for a in stored)
            return float(np.mean((inputs @ (codes * scale) - exact) ** 2) / np.mean(exact**2))

        def codes_differ(mine, theirs, bits=bits):
            if theirs is None:
                return None
            away = np.abs(np.abs(w / np.asarray(mine[1])) % 1 - 0.5) > _TIE
            return float(np.mean((np.asarray(mine[0]) != theirs[0]) & away))

        def units_differ(mine, theirs):
            return None if theirs is None else float(np.max(np.abs(np.asarray(mine[1]) / theirs[1] - 1)))

        def losses_differ(mine, theirs):
            return None if theirs is None else abs(error(mine) / error(theirs) - 1)

        peer = peers.find("qwix", "quantization:qwix", w=w, bits=bits)
        name = f"int{bits} kernel {_WIDTH} x {_WIDTH}, one unit an output"
        about = {"codes": (codes_differ, 0.0, f"share of codes that differ, {_TIE:g} units or more from a tie"),
                 "units": (units_differ, 3e-7, "largest relative difference"),
                 "loss": (losses_differ, 1e-3, "relative difference of the squared error of a product")}  # fmt: skip
        for what, (accuracy, within, note) in about.items():
            yield compare(
                f"{name}: {what}", ours, peer, peer_name="qwix", accuracy=accuracy, within=within, seconds=0.3,
                note=f"accuracy: {note}",
            )  # fmt: skip


def _bytes(peers):
    """Bytes of a kernel: packed here, in JAX's int4 as qwix stores it, and bit by bit those of Keras."""
    codes = np.random.default_rng(2).integers(-8, 8, (4 * _WIDTH, _WIDTH)).astype(np.int8)
    ours = compiled(lambda codes: quantization.to_interleaved(quantization.pack(codes, 4), 4), codes)

    def differ(mine, theirs):
        if theirs is None:
            return None
        return float(np.mean(np.asarray(mine).view(np.uint8) != np.asarray(theirs).astype(np.int8).view(np.uint8)))

    yield compare(
        f"int4 codes {codes.shape[0]} x {codes.shape[1]} as bytes, two neighbours in one", ours,
        peers.find("keras", "quantization:keras_pack", codes=codes), peer_name="Keras on JAX", accuracy=differ,
        within=0.0, seconds=0.3, note="accuracy: share of bytes that differ",
    )  # fmt: skip
    w = _kernel()
    q = quantization.quantize(w, quantization.quest(4).weights, packed=True)
    peer = peers.find("qwix", "quantization:qwix_int4", w=w)
    theirs = int(peer.call()) if hasattr(peer, "call") else None
    yield row(
        f"bytes of int4 codes, {_WIDTH} x {_WIDTH}", q.codes.nbytes, unit="bytes", peer_name="qwix (JAX's int4)",
        peer=theirs, ratio=None if theirs is None else theirs / q.codes.nbytes, ok=q.codes.nbytes == w.size // 2,
        trouble=None if theirs is not None else peer, note="half a byte an entry is promised",
    )  # fmt: skip


# --- QuEST --------------------------------------------------------------------------------------------------


def _published(peers):
    """Inputs are multiples of 1/16, so that sums of squares are exact and a unit is the same in any order of adding."""
    x = np.round(np.random.default_rng(3).normal(size=(256, _WIDTH)) * 16).astype(np.float32) / 16
    for bits in (1, 2, 4, 8):
        spec = quant_spec(formats.midrise(bits), axis=-1, estimator="trust", reference=True)

        def ours(x, spec=spec):
            q = quantization.quantize(x, spec)
            passes = jax.grad(lambda x: quantization.fake_quantize(x, spec).sum())(x)
            return quantization.dequantize(q), passes > 0, q.codes, q.scale

        def differ(mine, theirs):
            if theirs is None:
                return None
            # 0 is a tie: the published rounding goes to the even code, ours up; and so is what lies on a border
            t = x / np.asarray(mine[3])
            away = np.abs(t - np.round(t)) > 1e-4
            return float(np.mean((np.asarray(mine[2]) != theirs[2]) & away))

        def values_differ(mine, theirs):
            if theirs is None:
                return None
            same = np.asarray(mine[2]) == theirs[2]
            return float(np.max(np.abs(np.asarray(mine[0]) - theirs[0])[same] / np.max(np.abs(theirs[0]))))

        def masks_differ(mine, theirs):
            if theirs is None:
                return None
            step = np.asarray(theirs[3])  # both masks end half a step from the value; what lies there is left out
            away = np.abs(np.abs(theirs[0] - x) - step / 2) > 1e-4 * step
            return float(np.mean((np.asarray(mine[1]) != theirs[1]) & away))

        peer, name = peers.find("numpy", "quantization:quest", x=x, bits=bits), f"QuEST, {bits} bits, 256 x {_WIDTH}"
        built = compiled(ours, x)
        yield compare(
            f"{name}: codes", built, peer, peer_name="published arithmetic in NumPy", accuracy=differ, within=0.0,
            seconds=0.2, note="accuracy: share of codes that differ, ties left out",
        )  # fmt: skip
        yield compare(
            f"{name}: where gradients pass", built, peer, peer_name="published arithmetic in NumPy",
            accuracy=masks_differ, within=0.0, seconds=0.2, note="accuracy: share that differs, ties left out",
        )  # fmt: skip
        yield compare(
            f"{name}: values", built, peer, peer_name="published arithmetic in NumPy", accuracy=values_differ,
            within=3e-7, seconds=0.2, note="accuracy: largest difference over the largest value",
        )  # fmt: skip


def _transform(peers):
    x = np.random.default_rng(4).normal(size=(_WIDTH, 1024)).astype(np.float32)
    for block in (128, 1024):
        ours = compiled(lambda x, block=block: quantization.hadamard_transform(x, block), x)
        yield compare(
            f"Hadamard transform {x.shape[0]} x {x.shape[1]}, block {block}", ours,
            peers.find(("scipy",), "quantization:hadamard", x=x, block=block), peer_name="product with scipy's matrix",
            accuracy=lambda mine, theirs: None if theirs is None else np.abs(np.asarray(mine) - theirs).max(),
            within=1e-5, seconds=0.3, note="accuracy: largest difference",
        )  # fmt: skip


def _step():
    """One step of AdamW on a perceptron whose products are all of one width; batch and width 512."""
    cfg = nn.mlp.config(_WIDTH, (_WIDTH, _WIDTH, _WIDTH), _WIDTH)
    params = nn.mlp.init(jax.random.key(0), cfg)
    x = np.random.default_rng(5).normal(size=(_WIDTH, _WIDTH)).astype(np.float32)
    optimizer = optax.adamw(1e-3)
    start = train.init(params, optimizer=optimizer)

    def candidate(dense):
        def loss(params, batch, key):
            return jnp.mean((jax.vmap(lambda x: nn.mlp.apply(params, cfg, x, dense=dense))(batch) - batch) ** 2)

        def step(state, x):
            return train.step(jax.random.key(0), state, x, loss=loss, optimizer=optimizer)

        return compiled(step, start, x)

    plain = candidate(nn.layers.affine)
    for bits in (4, 1):
        spec = quantization.quest(bits, bits)
        yield compare(
            f"training step, W{bits}A{bits}, four products of {_WIDTH}, batch {_WIDTH}",
            candidate(quantization.dense(spec)), plain, peer_name="the step in float32", target=1 / 1.6, seconds=2.0,
            note="target: at most 1.6 times the float32 step",
        )  # fmt: skip


# --- studies ------------------------------------------------------------------------------------------------


def _lanes(fast):
    """Bits and seeds of the digits classifier as lanes of one program, against a run after the other."""
    bits = (2, 4) if fast else (2, 3, 4)
    names, seeds = [f"W{b}A{b}" for b in bits], 2 if fast else 5
    keys = jax.random.split(jax.random.key(0), seeds)
    stacked = jax.tree.map(lambda *a: np.stack(a), *quantization.unify([digits.FORMATS[name] for name in names]))

    began = time.perf_counter()
    lanes = jax.jit(jax.vmap(jax.vmap(digits.point, (0, None)), (None, 0)))
    together = jax.block_until_ready(lanes(keys, stacked))
    ours = time.perf_counter() - began
    # A user's loop: a format is static there, and a run compiles its own program. One is measured for each format.
    single = []
    for name in names:
        began = time.perf_counter()
        alone = jax.block_until_ready(jax.jit(lambda key, name=name: digits.point(key, digits.FORMATS[name]))(keys[0]))
        single.append((time.perf_counter() - began, alone))
    theirs = seeds * sum(seconds for seconds, _ in single)
    difference = max(
        abs(float(together["accuracy"][i, 0]) - float(alone["accuracy"])) for i, (_, alone) in enumerate(single)
    )
    yield row(
        f"digits classifier, {len(bits)} numbers of bits x {seeds} seeds, {digits.STEPS} steps", ours, unit="s",
        peer_name="a loop of runs", peer=theirs, ratio=theirs / ours, accuracy=difference,
        target=None if fast else 4.0, within=0.02,
        note=f"compilation included on both sides; the loop from {len(bits)} of its {len(bits) * seeds} runs; "
        "accuracy: largest difference of test accuracy",
    )  # fmt: skip


_QUEST, _CLIP = {"estimator": "trust"}, {"estimator": "clip", "clip_scale": 1.3}
_MODELS = {  # name -> (format, nats per symbol after 600 steps)
    "full precision": (None, 1.478),
    "W4A4 QuEST": (quantization.quest(4, 4, **_QUEST), 1.503),
    "W2A2 QuEST": (quantization.quest(2, 2, **_QUEST), 1.670),
    "W2A2 transform, STE": (quantization.quest(2, 2, estimator="ste"), 1.720),
    "W2A2 STE": (quantization.quest(2, 2, block=0, estimator="ste"), 1.947),
    "W1A1 transform, clip 1.3": (quantization.quest(1, 1, **_CLIP), 1.932),
    "W1A1 STE": (quantization.quest(1, 1, block=0, estimator="ste"), 2.208),
}
_GATES = (  # (lower, upper, by at least)
    ("W4A4 QuEST", "full precision", -0.05),
    ("W2A2 QuEST", "W2A2 STE", 0.15),
    ("W2A2 QuEST", "W2A2 transform, STE", 0.02),
    ("W1A1 transform, clip 1.3", "W1A1 STE", 0.15),
)


def _language(fast):
    """A decoder with learned positions on Python's documentation: reference figures of 600 steps, and their order."""
    steps, windows = (100, 64) if fast else (600, 512)
    chosen = ("full precision", "W2A2 QuEST", "W2A2 STE") if fast else _MODELS
    cfg, found = language.config(positions="learned"), {}
    for name in chosen:
        spec, published = _MODELS[name]
        # The gate of 0.02 lies within the spread of seeds: its two models are means of eighteen, three a program.
        seeds = 18 if not fast and name in _GATES[2][:2] else 1
        run = jax.jit(jax.vmap(lambda key, spec=spec: language.point(
            key, spec, cfg=cfg, num_steps=steps, num_windows=windows)))  # fmt: skip
        began = time.perf_counter()
        lanes = jax.vmap(jax.random.key)(jnp.arange(seeds)).reshape(-1, min(seeds, 3))
        points = [jax.block_until_ready(run(keys)) for keys in lanes]
        points = jax.tree.map(lambda *parts: jnp.concatenate(parts), *points)
        found[name] = np.asarray(points.validation, np.float64)
        mean = found[name].mean()
        yield row(
            f"language model, {steps} steps: {name}", mean, unit="nats",
            peer_name=None if fast else "reference", peer=None if fast else published,
            accuracy=None if fast else abs(mean - published), within=None if fast else 0.05,
            note=f"{seeds} seeds, {time.perf_counter() - began:.0f} s, {int((points.status != 0).sum())} failed; "
            "smaller is better",
        )  # fmt: skip
    for lower, upper, margin in _GATES:
        if lower in found and upper in found:
            each = found[upper] - found[lower][: found[upper].size]  # of equal seeds, which see equal batches
            spread = f", standard error {each.std(ddof=1) / each.size**0.5:.4f}" if each.size > 1 else ""
            yield row(
                f"language model, {steps} steps: {upper} minus {lower}", each.mean(), unit="nats",
                ok=None if fast else each.mean() >= margin, note=f"to be at least {margin:g} after 600 steps{spread}",
            )  # fmt: skip


def rows(fast, peers):
    """All rows: quick comparisons first, trainings last."""
    yield from _qwix(peers)
    yield from _bytes(peers)
    yield from _published(peers)
    yield from _transform(peers)
    yield from _step()
    yield from _lanes(fast)
    yield from _language(fast)


if __name__ == "__main__":
    sys.exit(main("quantization", rows))
