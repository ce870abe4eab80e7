"""How few bits does a classifier of digits need, in weights and activations? Edit me, then: python study.py"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from jaxsci import quantization, sweep
from jaxsci.core import train
from jaxsci.nn import layers

STEPS, SEEDS = 100, 2
WIDTH, BLOCKS, BATCH, RATE = 128, 1, 64, 3e-3
FORMATS = {f"W{b}A{b}": quantization.quest(b, b) for b in (4, 3, 2)}
FORMATS["W1A1"] = quantization.quest(1, 1, estimator="clip", clip_scale=1.3)


def data():
    """Images in [0, 1] and labels: 1297 to train on, 500 to test."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
    return (x[:1297], y[:1297]), (x[1297:], y[1297:])


def init(key):
    """Embedding, residual blocks and head, normal of variance 1 / inputs."""
    shapes = {"embed": (64, WIDTH), "head": (WIDTH, 10)}
    shapes |= {f"{part}_{i}": (WIDTH, WIDTH) for i in range(BLOCKS) for part in ("up", "down")}
    sizes = [a * b for a, b in shapes.values()]
    parts = jnp.split(jax.random.normal(key, (sum(sizes),)), np.cumsum(sizes)[:-1])
    return {n: {"kernel": part.reshape(s) * s[0] ** -0.5} for part, (n, s) in zip(parts, shapes.items())}


def apply(params, x, dense=layers.affine):
    """Logits. Every product goes through `dense`, which knows it by its name."""

    def product(name, x):
        return dense(name, x, params[name]["kernel"], None)

    scale = jnp.ones(WIDTH)
    x = product("embed", jnp.asarray(x))
    for i in range(BLOCKS):
        x = x + product(f"down_{i}", jax.nn.silu(product(f"up_{i}", layers.rms_norm(x, scale))))
    return product("head", layers.rms_norm(x, scale))


def rules(spec):
    """The blocks are quantised, embedding and head are not."""
    return {"embed": None, "head": None, "*": spec}


def optimizer():
    """AdamW with a warm-up and a cosine, gradients clipped."""
    rate = optax.warmup_cosine_decay_schedule(RATE / 100, RATE, STEPS // 10, STEPS, RATE / 10)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=0.1))


def fit(key, spec):
    """Train one network; `spec` holds the formats, whose numbers are traced: bits are lanes."""
    (x, y), _ = map(lambda pair: tuple(map(jnp.asarray, pair)), data())
    dense = quantization.dense(rules(spec))

    def loss(params, batch, key):
        logits = apply(params, batch[0], dense)
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()

    def batches(key, i):
        rows = jax.random.randint(key, (BATCH,), 0, len(x))
        return x[rows], y[rows]

    start = init(jax.random.fold_in(key, 1))
    return train.run(key, loss, start, batches, optimizer=optimizer(), num_steps=STEPS)


def point(key, format):
    """Test accuracy and losses of one format and seed."""
    result, (_, (x, y)) = fit(key, format), data()
    hits = jnp.argmax(apply(result.value, x, quantization.dense(rules(format))), -1) == y
    return {"accuracy": hits.mean(), "loss": result.history, "status": result.status}


def study(**options):
    """All formats and seeds as lanes of one program, into one labelled data set; `options` are those of `sweep.run`."""
    space = sweep.product(format=sweep.stack(FORMATS), key=sweep.keys(SEEDS))
    return sweep.run(point, space, dims={"loss": ("step",)}, **options)


if __name__ == "__main__":
    print(study().accuracy.to_pandas().round(3).to_string())
