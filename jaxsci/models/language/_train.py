r"""Training of the decoder: the mean of $-\log p(s_{t+1}\,|\,s_{\le t})$ over windows drawn anywhere in the text.

AdamW with decoupled decay, gradients clipped to norm 1, a rate that rises linearly for a tenth of the steps and falls
as a cosine to a tenth; its means decay by .9 and .999 (QuEST takes .95 for the squares, in runs of many more tokens a
step). With a format the products of all blocks are quantised in training and out of it, and the optimiser moves weights
of full precision.

References: I. Loshchilov, F. Hutter, "Decoupled weight decay regularization", 2019, arXiv:1711.05101; A. Panferov et
al., "QuEST", 2025, arXiv:2502.05003, appendix (the recipe).
"""

import functools
import time
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import checkpoint, extras, keys
from jaxsci.core import train as training
from jaxsci.core.keys import unrolled
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import KeyArray
from jaxsci.models.language import _network, _text
from jaxsci.nn import layers, transformer
from jaxsci.quantization import LayerSpec

_RATE, _DECAY, _BATCH, _WINDOWS = 3e-3, 0.1, 32, 512


class Result(NamedTuple):
    """A trained decoder and how it got there.

    Attributes:
        value: the parameters, in full precision; `quantization.pack_params` packs them.
        state: state of the training, to go on from.
        history: mean loss of each step's batch before the update, nats per symbol.
        status: NONFINITE_RESULT when a step was skipped; 0 = ok.
        validation: mean loss over text that was not trained on, nats per symbol.
        seconds: seconds that this call took, compilation included.
    """

    value: PyTree
    state: training.TrainState
    history: Float[np.ndarray, " num_steps"]
    status: Int[Array, ""]
    validation: float
    seconds: float


class Point(NamedTuple):
    """What one run of a sweep leaves.

    Attributes:
        validation: mean loss over text that was not trained on, nats per symbol.
        loss: mean loss of each step's batch before the update.
        status: bits of all steps.
    """

    validation: Float[Array, ""]
    loss: Float[Array, " num_steps"]
    status: Int[Array, ""]


def loss(
    params: PyTree, windows: Int[Array, "B T"], *, cfg: transformer.Config, dense=layers.affine
) -> Float[Array, ""]:
    """Mean of -log p over all symbols of some windows but the first of each, in nats.

    Args:
        params: of `init`.
        windows: numbers of symbols; T - 1 symbols predict the T - 1 after them.
        cfg: static.
        dense: see `apply`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.models import language
        >>> cfg = language.config(width=16, num_layers=1, num_heads=2, hidden=16)
        >>> params = language.init(jax.random.key(0), cfg)
        >>> windows = jnp.asarray(language.encode("def f(x): return x"))[None]
        >>> print(3 < float(language.loss(params, windows, cfg=cfg)) < 7)  # log 94 = 4.5
        True
    """
    return _loss(params, windows, dense, cfg=cfg)


def _loss(params, windows, dense, *, cfg):
    logits = jax.vmap(lambda tokens: _network.apply(params, cfg, tokens, dense=dense))(windows[:, :-1])
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    return -jnp.mean(jnp.take_along_axis(log_p, windows[:, 1:, None], axis=-1))


def validation_loss(
    params: PyTree, cfg: transformer.Config, *, spec: LayerSpec | None = None, num_windows: int = _WINDOWS
) -> Float[Array, ""]:
    """`loss` over the first windows of the text that training does not see, one behind the other.

    Args:
        params: of `init`.
        cfg: static.
        spec: format of the blocks; its numbers are traced.
        num_windows: of ``cfg.max_length`` predictions each (static).

    Raises:
        ValueError: more windows than there are.

    Example:
        >>> import jax
        >>> from jaxsci.models import language
        >>> cfg = language.config(width=16, num_layers=1, num_heads=2, hidden=16)
        >>> params = language.init(jax.random.key(0), cfg)
        >>> print(3 < float(language.validation_loss(params, cfg, num_windows=2)) < 7)
        True
    """
    return _validation(params, spec, cfg, check_size("language.validation_loss", "num_windows", num_windows))


@eqx.filter_jit
def _validation(params, spec, cfg, num_windows):
    text, length = _text.data().validation, cfg.max_length
    most = (len(text) - 1) // length
    if num_windows > most:
        raise ValueError(f"language.validation_loss: num_windows must be at most {most}, got {num_windows}")
    starts = length * np.arange(num_windows)
    windows = jnp.asarray(text[starts[:, None] + np.arange(length + 1)])
    size = next(n for n in range(min(num_windows, 64), 0, -1) if num_windows % n == 0)
    parts = windows.reshape(-1, size, length + 1)
    return jnp.mean(jax.lax.map(lambda part: _loss(params, part, _network.products(spec), cfg=cfg), parts))


def _objective(dense, params, batch, key, *, cfg):
    return _loss(params, batch, dense, cfg=cfg)


def _batch(text, key, i, *, size, length):
    starts = jax.random.randint(unrolled(key), (size, 1), 0, text.shape[0] - length)
    return text[starts + jnp.arange(length + 1)[None]]


@functools.cache
def _optimizer(num_steps, learning_rate):
    """One object for equal arguments, so that a second run compiles nothing."""
    optax = extras.require("optax", "nets", "models.language")
    rate = optax.warmup_cosine_decay_schedule(
        learning_rate / 100, learning_rate, max(1, num_steps // 10), max(2, num_steps), learning_rate / 10
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=_DECAY))


def _problem(key, spec, cfg, batch_size):
    """Arguments of `core.train`: key, loss, first parameters and batches."""
    dense = _network.products(spec)
    dense = dense if isinstance(dense, Partial) else Partial(dense)
    text = jnp.asarray(_text.data().train)
    return (
        jax.random.fold_in(key, 1),
        Partial(bind(_objective, cfg=cfg), dense),
        _network.init(jax.random.fold_in(key, 0), cfg),
        Partial(bind(_batch, size=batch_size, length=cfg.max_length), text),
    )


def point(
    key: KeyArray,
    spec: LayerSpec | None = None,
    *,
    cfg: transformer.Config | None = None,
    num_steps: int = 600,
    batch_size: int = _BATCH,
    learning_rate: float = _RATE,
    num_windows: int = _WINDOWS,
) -> Point:
    """One training as a pure function, for `jaxsci.sweep` and vmap: seeds and formats of one kind are lanes.

    Args:
        key: one typed key: initialisation and batches. Equal keys see equal batches, whatever the format.
        spec: format of the products of the blocks; its numbers are traced, so that bits and estimators are lanes of
            formats that `quantization.unify` or `sweep.stack` made equal; None trains in full precision.
        cfg: from `config`, the default of which is the default here (static).
        num_steps, batch_size, learning_rate: of the training (static).
        num_windows: of the validation (static).

    Raises:
        ValueError: `num_steps` below 1; see `validation_loss`.
        ImportError: an extra is missing ("nets").

    Example:
        >>> import jax
        >>> from jaxsci.models import language
        >>> cfg = language.config(width=16, num_layers=1, num_heads=2, hidden=16, context=8)
        >>> result = language.point(jax.random.key(0), cfg=cfg, num_steps=2, batch_size=2, num_windows=2)
        >>> print(result.loss.shape, int(result.status))
        (2,) 0
    """
    num_steps = check_size("language.point", "num_steps", num_steps)
    cfg = _network.config() if cfg is None else cfg
    key = keys.as_typed_key(key, "language.point")
    optimizer = _optimizer(num_steps, float(learning_rate))
    result = training.run(*_problem(key, spec, cfg, batch_size), optimizer=optimizer, num_steps=num_steps)
    value = validation_loss(result.value, cfg, spec=spec, num_windows=num_windows)
    return Point(value, result.history, result.status)


def train(
    key: KeyArray,
    spec: LayerSpec | None = None,
    *,
    cfg: transformer.Config | None = None,
    num_steps: int = 600,
    out: str | Path | None = None,
    batch_size: int = _BATCH,
    learning_rate: float = _RATE,
    num_windows: int = _WINDOWS,
    save_every: float | int = 15.0,
    progress: bool = True,
) -> Result:
    """`point` as a host loop with checkpoints. Killed and called again, it continues to the same bits.

    Args:
        key, spec, cfg, num_steps, batch_size, learning_rate, num_windows: as for `point`; the rate falls over
            `num_steps`, so another number is another run.
        out: folder: `load` finds the parameters there, and a second call with the same arguments goes on from the last
            checkpoint. None keeps nothing.
        save_every: seconds between two checkpoints.
        progress: show a bar (extra "sweep").

    Returns:
        `Result`.

    Raises:
        ValueError: the folder holds a run with other arguments, or `num_steps` is below 1.
        ImportError: an extra is missing ("nets", "sweep" for the bar).

    Example:
        >>> import jax
        >>> from jaxsci.models import language
        >>> cfg = language.config(width=16, num_layers=1, num_heads=2, hidden=16, context=8)
        >>> sizes = dict(num_steps=2, batch_size=2, num_windows=2)
        >>> result = language.train(jax.random.key(0), cfg=cfg, **sizes, progress=False)
        >>> print(result.history.shape, int(result.status))
        (2,) 0
    """
    num_steps = check_size("language.train", "num_steps", num_steps)
    began, key = time.perf_counter(), keys.as_typed_key(key, "language.train")
    cfg = _network.config() if cfg is None else cfg
    result = training.fit(
        *_problem(key, spec, cfg, batch_size),
        optimizer=_optimizer(num_steps, float(learning_rate)),
        num_steps=num_steps,
        checkpoint=None if out is None else Path(out) / "training",
        save_every=save_every,
        config={"num_steps": num_steps, "batch_size": batch_size, "learning_rate": float(learning_rate)},
        progress=progress,
    )
    if out is not None and checkpoint.latest(Path(out) / "network") != num_steps:
        checkpoint.save(Path(out) / "network", result.value, num_steps, keep=1)
    value = float(validation_loss(result.value, cfg, spec=spec, num_windows=num_windows))
    return Result(result.value, result.state, result.history, result.status, value, time.perf_counter() - began)


def load(directory: str | Path, *, cfg: transformer.Config | None = None) -> PyTree:
    """The parameters that a finished `train` left in a folder.

    Args:
        directory: `out` of the training.
        cfg: that of the training.

    Raises:
        FileNotFoundError: there are none; the message holds the command that trains.
        ImportError: an extra is missing ("nets").

    Example:
        >>> import jax
        >>> import tempfile
        >>> from jaxsci.models import language
        >>> folder, cfg = tempfile.mkdtemp(), language.config(width=16, num_layers=1, num_heads=2, hidden=16, context=8)
        >>> sizes = dict(num_steps=2, batch_size=2, num_windows=2)
        >>> _ = language.train(jax.random.key(0), cfg=cfg, **sizes, out=folder, progress=False)
        >>> print(language.load(folder, cfg=cfg)["embedding"].shape)
        (94, 16)
    """
    folder = Path(directory) / "network"
    if checkpoint.latest(folder) is None:
        raise FileNotFoundError(
            f"language.load: no trained network in {directory}; make one: python -m jaxsci.models.language "
            f"--out {directory}"
        )
    cfg = _network.config() if cfg is None else cfg
    return checkpoint.restore(folder, jax.eval_shape(lambda key: _network.init(key, cfg), jax.random.key(0)))


__all__ = ["Point", "Result", "load", "loss", "point", "train", "validation_loss"]
