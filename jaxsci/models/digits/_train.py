r"""Training of the digits network: $E\,\|v_\theta(\alpha x_0 + \sigma\varepsilon, \lambda, c) - (\alpha\varepsilon -
\sigma x_0)\|^2$ with times spread evenly over the batch and labels dropped now and then.

The optimiser is Adam with a cosine rate; what is kept in the end is an exponential average of the parameters.

References: J. Ho, A. Jain, P. Abbeel, "Denoising Diffusion Probabilistic Models", 2020, section 3; D. Kingma et al.,
"Variational Diffusion Models", 2021, appendix I.1 (one uniform number for all times of a batch); Y. Song, S. Ermon,
"Improved Techniques for Training Score-Based Generative Models", 2020, section 3.4 (averaging).
"""

import functools
import time
from pathlib import Path
from typing import NamedTuple

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
from jaxsci.diffusion import predictions, schedules
from jaxsci.models.digits import _network


class Result(NamedTuple):
    """A trained network and how it got there.

    Attributes:
        value: the averaged parameters, what `denoiser` takes.
        state: state of the training, to go on from: parameters that were not averaged, optimiser and steps done.
        history: mean squared error of v, step by step, of the parameters that were not averaged.
        status: NONFINITE_RESULT when a step was skipped; 0 = ok.
        seconds: seconds that this call took, compilation included.
    """

    value: PyTree
    state: training.TrainState
    history: Float[np.ndarray, " num_steps"]
    status: Int[Array, ""]
    seconds: float


class _Averaged(NamedTuple):
    """State of an optimiser that keeps an average of the parameters.

    Attributes:
        inner: state of the optimiser inside.
        average: the average so far.
        count: updates in it, int32.
    """

    inner: PyTree
    average: PyTree
    count: Int[Array, ""]


class _Optimizer(NamedTuple):
    """The pair that `core.train` takes."""

    init: object
    update: object


def schedule() -> schedules.NoiseSchedule:
    """The noise schedule that the network is trained under: variance preserving, linear beta, t from 1e-3 to 1.

    Example:
        >>> from jaxsci.models import digits
        >>> print(round(float(digits.schedule().t_max), 3))
        1.0
    """
    return schedules.vp_linear()


def data() -> tuple[Float[np.ndarray, "1797 64"], Int[np.ndarray, " 1797"]]:
    """The handwritten digits that scikit-learn ships: images in [-1, 1] in steps of 1/8, flattened, and their labels.

    Raises:
        ImportError: scikit-learn is missing (extra "demo").

    Example:
        >>> from jaxsci.models import digits
        >>> images, labels = digits.data()
        >>> print(images.shape, labels.shape)
        (1797, 64) (1797,)

    References: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998.
    """
    digits = extras.require("sklearn.datasets", "demo", "models.digits").load_digits()
    return (digits.data / 8 - 1).astype(np.float32), digits.target.astype(np.int32)


def denoiser(params: PyTree, *, guidance: str | None = None) -> Partial:
    """The network as ``(x, t, cond, w) -> (D, eps)``.

    Args:
        params: from `train` or `load`; leaves.
        guidance: None takes the label `cond` as it is, no label when it is None; "classifier_free" needs a label and
            combines with and without it by the guidance scale w (static).

    Raises:
        ValueError: another kind of guidance.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.models import digits
        >>> denoise = digits.denoiser(digits.init(jax.random.key(0)))
        >>> print(denoise(jnp.zeros(64), jnp.float32(0.5), jnp.int32(3), 1.0)[0].shape)
        (64,)
    """
    if guidance not in (None, "classifier_free"):
        raise ValueError(f"digits.denoiser: guidance must be None or 'classifier_free', got {guidance!r}")
    mine = schedule()
    null = None if guidance is None else np.int32(_network.NULL_LABEL)
    return predictions.denoiser(Partial(_model, params, mine), mine, "v_prediction", guidance=guidance, null=null)


def _model(params, schedule, x, t, cond):
    return _network.apply(params, x, schedule.lam(t), _network.NULL_LABEL if cond is None else cond)


def loss(params: PyTree, batch: tuple[Array, Array], key: KeyArray, *, drop_rate: float = 0.15) -> Float[Array, ""]:
    """Mean squared error of v over a batch ``(images, labels)``.

    Args:
        params: of the network.
        batch: Float[size, 64] in [-1, 1] and Int[size].
        key: draws one shift for all times, the noise, and which labels are dropped.
        drop_rate: probability of dropping a label (static).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.models import digits
        >>> params = digits.init(jax.random.key(0))
        >>> print(digits.loss(params, (jnp.zeros((2, 64)), jnp.array([3, 4])), jax.random.key(1)).shape)
        ()
    """
    images, labels = batch
    size, vp = labels.shape[0], schedule()
    key_t, key_noise, key_drop = jax.random.split(key, 3)
    u = (jnp.arange(size) + jax.random.uniform(unrolled(key_t), (), images.dtype)) / size
    lam = vp.lam((vp.t_min + (vp.t_max - vp.t_min) * u).astype(images.dtype)).astype(images.dtype)
    alpha, sigma = (a.astype(images.dtype)[:, None] for a in vp.alpha_sigma(lam))
    noise = jax.random.normal(unrolled(key_noise), images.shape, images.dtype)
    labels = jnp.where(jax.random.bernoulli(unrolled(key_drop), drop_rate, (size,)), _network.NULL_LABEL, labels)
    v = _network.apply(params, alpha * images + sigma * noise, lam, labels)
    return jnp.mean((v - (alpha * noise - sigma * images)) ** 2)


def _batch(images, labels, key, i, *, size):
    chosen = jax.random.randint(unrolled(key), (size,), 0, labels.shape[0])
    return images[chosen], labels[chosen]


@functools.cache
def _optimizer(num_steps, learning_rate, ema_decay):
    """Adam and the average; one object for equal arguments, so that a second run compiles nothing."""
    optax = extras.require("optax", "nets", "digits.train")
    # A float: optax turns an integer into one at the first call, and the fingerprint of the checkpoint would change.
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, float(num_steps)))

    def init(params):
        return _Averaged(adam.init(params), params, jnp.int32(0))

    def update(grads, state, params):
        updates, inner = adam.update(grads, state.inner, params)
        count = state.count + 1
        # The first values count less and less, so that a short run has an average as well.
        decay = jnp.minimum(ema_decay, count / (count + 10.0)).astype(jnp.float32)
        average = jax.tree.map(lambda a, p, u: decay * a + (1 - decay) * (p + u), state.average, params, updates)
        return updates, _Averaged(inner, average, count)

    return _Optimizer(init, update)


def train(
    key: KeyArray,
    *,
    num_steps: int = 6000,
    out: str | Path | None = None,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    ema_decay: float = 0.999,
    drop_rate: float = 0.15,
    save_every: float | int = 15.0,
    progress: bool = True,
) -> Result:
    """Train on the digits of scikit-learn, on a CPU. Killed and called again, it continues.

    How long a step takes: benchmark "diffusion: training the digits network, one step".

    Args:
        key: one typed key; decides initialisation, batches and noise.
        num_steps: optimiser steps; the rate falls to zero over them, so another number is another run.
        out: folder: `load` finds the network there, and a second call with the same arguments goes on from the last
            checkpoint to the same bits. None keeps nothing.
        batch_size, learning_rate, ema_decay, drop_rate: of the batches, Adam, the average and the labels.
        save_every: seconds between two checkpoints.
        progress: show a bar (extra "sweep").

    Returns:
        `Result`.

    Raises:
        ValueError: the folder holds a run with other arguments, or `num_steps` is below 1.
        ImportError: an extra is missing ("nets", "demo" for the data, "sweep" for the bar).

    Example:
        >>> import jax
        >>> from jaxsci.models import digits
        >>> result = digits.train(jax.random.key(0), num_steps=2, batch_size=4, progress=False)  # 6000 steps are useful
        >>> print(result.history.shape, int(result.status))
        (2,) 0
    """
    num_steps = check_size("digits.train", "num_steps", num_steps)
    began, key = time.perf_counter(), keys.as_typed_key(key, "digits.train")
    images, labels = (jnp.asarray(a) for a in data())
    config = {
        "num_steps": num_steps, "batch_size": batch_size, "learning_rate": learning_rate, "ema_decay": ema_decay,
        "drop_rate": drop_rate,
    }  # fmt: skip
    result = training.fit(
        jax.random.fold_in(key, 1),
        Partial(bind(loss, drop_rate=drop_rate)),
        _network.init(jax.random.fold_in(key, 0)),
        Partial(bind(_batch, size=batch_size), images, labels),
        optimizer=_optimizer(num_steps, learning_rate, ema_decay),
        num_steps=num_steps,
        checkpoint=None if out is None else Path(out) / "training",
        save_every=save_every,
        config=config,
        progress=progress,
    )
    params = result.state.opt_state.average
    if out is not None and checkpoint.latest(Path(out) / "network") != num_steps:
        checkpoint.save(Path(out) / "network", params, num_steps, config=config, keep=1)
    return Result(params, result.state, result.history, result.status, time.perf_counter() - began)


def load(directory: str | Path) -> PyTree:
    """The averaged parameters that a finished `train` left in a folder.

    Raises:
        FileNotFoundError: there are none; the message holds the command that trains.
        ImportError: an extra is missing ("nets").

    Example:
        >>> import jax
        >>> import tempfile
        >>> from jaxsci.models import digits
        >>> folder = tempfile.mkdtemp()
        >>> _ = digits.train(jax.random.key(0), num_steps=2, batch_size=4, out=folder, progress=False)
        >>> print(sum(a.size for a in jax.tree.leaves(digits.load(folder))))
        356032
    """
    folder = Path(directory) / "network"
    if checkpoint.latest(folder) is None:
        raise FileNotFoundError(
            f"digits.load: no trained network in {directory}; make one: python -m jaxsci.models.digits "
            f"--out {directory}"
        )
    return checkpoint.restore(folder, jax.eval_shape(_network.init, jax.random.key(0)))


__all__ = ["Result", "data", "denoiser", "load", "loss", "schedule", "train"]
