r"""Training: a loop over an optimiser triple ``(init, update)``, with data drawn inside the compiled step.

$\theta_{i+1} = \theta_i + u_i$ with $u_i, s_{i+1} = \mathrm{update}(\nabla \ell(\theta_i; B_i, k_i), s_i, \theta_i)$

The batch $B_i$ and the key $k_i$ are functions of ``fold_in(key, i)`` alone, i the global step: chunks, restarts and
longer runs never shift a stream. A step whose loss or gradient is not finite changes nothing but the status.
The triple is optax's, or any two functions of the same names and arguments; this module does not import optax.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import _carry, extras, keys, program, provenance, status, tree
from jaxsci.core import checkpoint as _checkpoint
from jaxsci.core.protocols import Result
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray

_SECONDS_PER_CALL = 0.5  # how long `fit` stays in compiled code between two updates of the bar
_MAX_STEPS_PER_CALL = 4096


class TrainState(NamedTuple):
    """What training carries from step to step.

    Attributes:
        params: parameters: a pytree of floating arrays.
        opt_state: the optimiser's own state.
        step: steps done, int32: the global index of the next one.
        status: bits of all steps so far; NONFINITE_RESULT when one was skipped.
    """

    params: PyTree
    opt_state: PyTree
    step: Int[Array, ""]
    status: Int[Array, ""]


def init(params: PyTree, *, optimizer: Any) -> TrainState:
    """The state before the first step.

    Args:
        params: a pytree of floating arrays.
        optimizer: optax's ``GradientTransformation`` or anything with ``init(params) -> opt_state`` and
            ``update(grads, opt_state, params) -> (updates, opt_state)``.

    Raises:
        TypeError: a leaf of `params` is not floating, or `optimizer` lacks one of the two functions.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not (eqx.is_array_like(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)):
            name = f"params{jax.tree_util.keystr(path)}"
            got = _carry.spec(leaf)
            raise TypeError(f"train.init: {name} must be a floating array, got {got}; let the loss close over the rest")
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise TypeError(
            f"train.init: optimizer must have functions init and update, got {type(optimizer).__name__}; "
            "e.g. optax.adam(1e-3)"
        )
    params = _carry.strong(params)
    return TrainState(params, _carry.strong(optimizer.init(params)), jnp.int32(0), jnp.int32(0))


@eqx.filter_jit
def step(
    key: KeyArray, state: TrainState, batch: PyTree, *, loss: Callable[..., Any], optimizer: Any
) -> tuple[TrainState, Float[Array, ""]]:
    """One update; `run` is its scan.

    Args:
        key: the key of the whole training, the same at every step: the step's own is folded in here.
        state: from `init` or the step before.
        batch: what `loss` takes, any pytree of arrays.
        loss: ``loss(params, batch, key) -> scalar``.
        optimizer: see `init`.

    Returns:
        ``(state, loss)``, the loss before the update. If it or its gradient is not finite, parameters and optimiser
        state stay as they were and the status gets NONFINITE_RESULT.

    Raises:
        TypeError: `loss` does not give a floating scalar, or `optimizer` changes a dtype or shape of its state.
    """
    _, loss_key = _keys(keys.as_typed_key(key, "train.step"), state.step)

    def scalar(params):
        value = loss(params, batch, loss_key)
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"train: loss must return a floating scalar, got {_carry.spec(value)}")
        return value

    value, grads = jax.value_and_grad(scalar)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    specs = jax.eval_shape(lambda s: s, opt_state)
    _carry.check("train", "optimizer.update", "opt_state", state.opt_state, specs)
    params = jax.tree.map(
        lambda p, u: p if u is None else (p + u).astype(p.dtype), state.params, updates, is_leaf=lambda x: x is None
    )
    finite = jnp.isfinite(value) & tree.all_finite(grads)
    new = (params, _carry.strong(opt_state, state.opt_state))
    params, opt_state = tree.where(finite, new, (state.params, state.opt_state))
    bits = state.status | status.flag(~finite, status.NONFINITE_RESULT)
    return TrainState(params, opt_state, state.step + 1, bits), value


def run(
    key: KeyArray,
    loss: Callable[..., Any],
    params: PyTree,
    batches: Callable[..., PyTree],
    *,
    optimizer: Any,
    num_steps: int,
    state: TrainState | None = None,
) -> Result:
    """Train for `num_steps` steps in one compiled scan.

    Args:
        key: one typed key; step i draws its batch and its loss key from ``fold_in(key, i)``.
        loss: ``loss(params, batch, key) -> scalar``, traced once.
        params: pytree of floating arrays; not read when `state` is given.
        batches: ``batches(key, i) -> batch``, called inside the compiled step with the int32 global step i.
        optimizer: see `init` (static: the same object compiles once; hyper-parameters that shall be swept go into
            its state, as with `optax.inject_hyperparams`).
        num_steps: static.
        state: go on from here instead of from `params`; give the same key and the result is that of one long run.

    Returns:
        `Result`, all of it differentiable with respect to `params` and what `loss` and `batches` hold: the last
        parameters, the whole `TrainState`, as history the loss of each step, (num_steps,), and the bitwise or over all
        steps. A loss is that before the step's update, of a skipped step too: it may be NaN when the status says so.

    Raises:
        TypeError: see `init` and `step`.
        ValueError: num_steps is negative.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from jaxsci.core import train
        >>> def loss(w, batch, key):
        ...     x, y = batch
        ...     return jnp.mean((x @ w - y) ** 2)
        >>> def batches(key, i):
        ...     x = jax.random.normal(key, (32, 2))
        ...     return x, x @ jnp.array([1.0, -2.0])
        >>> result = train.run(jax.random.key(0), loss, jnp.zeros(2), batches, optimizer=optax.sgd(0.1), num_steps=100)
        >>> print(result.value.round(3), int(result.status))
        [ 1. -2.] 0
    """
    num_steps = check_size("train.run", "num_steps", num_steps, least=0)
    key = keys.as_typed_key(key, "train.run")
    state = init(params, optimizer=optimizer) if state is None else _carry.strong(state)
    state, losses = _scan(key, state, loss, batches, optimizer, num_steps)
    return Result(state.params, state, losses, state.status)


@eqx.filter_jit
def _scan(key, state, loss, batches, optimizer, num_steps):
    def body(state, _):
        return _drawn_step(key, state, loss, batches, optimizer)

    return jax.lax.scan(body, state, None, length=num_steps)


def _keys(key, i):
    """Keys of the batch and of the loss of global step i."""
    mine = jax.random.fold_in(key, i)
    return jax.random.fold_in(mine, 0), jax.random.fold_in(mine, 1)


def _drawn_step(key, state, loss, batches, optimizer):
    batch_key, _ = _keys(key, state.step)
    return step(key, state, batches(batch_key, state.step), loss=loss, optimizer=optimizer)


def _identity(key, state: TrainState, loss, batches, optimizer) -> dict[str, Any]:
    """What must be equal for a training to be continued: the programs of a step and of its batch, and where it starts.

    Hyper-parameters that the optimiser keeps in its state are no part of a program, so its first state counts too.
    """
    i = jax.ShapeDtypeStruct((), jnp.int32)
    drawn = jax.eval_shape(batches, key, i)

    def one(key, state, batch):
        return step(key, state, batch, loss=loss, optimizer=optimizer)

    return {
        "key": key,
        "params": state.params,
        "first state of the optimizer": state.opt_state,
        "step (loss, optimizer)": program.fingerprint(one, key, state, drawn),
        "batches": program.fingerprint(batches, key, i),
        "settings": provenance.settings(),
    }


@eqx.filter_jit
def _advance(key, state, loss, batches, optimizer, stop, size):
    """Steps up to global step `stop`, at most `size`; stop is traced, so any number of steps is one program."""
    one, (_, value) = _carry.traced_body(
        "train.fit", lambda state, _: _drawn_step(key, state, loss, batches, optimizer), state, ()
    )

    def body(i, loop):
        state, losses = loop
        state, value = one(state, ())
        return state, losses.at[i].set(value)

    return jax.lax.fori_loop(0, stop - state.step, body, (state, jnp.zeros(size, value.dtype)))


def fit(
    key: KeyArray,
    loss: Callable[..., Any],
    params: PyTree,
    batches: Callable[..., PyTree],
    *,
    optimizer: Any,
    num_steps: int,
    checkpoint: str | Path | None = None,
    save_every: float | int = 60.0,
    config: Any = None,
    progress: bool = True,
) -> Result:
    """`run` as a host loop: progress bar, checkpoints, and the same bits after a kill and a second call.

    Between two looks at the clock it takes as many steps as fit in half a second, all in one compiled loop. Call it
    again with the same arguments and it continues; with a larger `num_steps` it goes on from the end.

    Args:
        key, loss, params, batches, optimizer, num_steps: as in `run`.
        checkpoint: folder for the checkpoints (extra "nets"); None keeps none.
        save_every: seconds between two of them; one is always written at the end and at Ctrl-C.
        config: anything else that decides the result: a dict, or one value; functions in it count by their source
            text. The key, the programs of a step and of a batch (see `core.program`) and the first state are added.
        progress: show a bar (extra "sweep").

    Returns:
        `Result` as from `run`; its history, the losses of all steps, those before a restart included, is a NumPy array
        of float64.

    Raises:
        ValueError: the folder holds a run with another configuration (the message says what differs) or one that
            is longer than `num_steps`.
        TypeError: see `init` and `step`.
        ImportError: an extra is missing.
    """
    num_steps = check_size("train.fit", "num_steps", num_steps, least=0)
    key = keys.as_typed_key(key, "train.fit")
    state, losses, saved = init(params, optimizer=optimizer), np.zeros(0), 0
    if checkpoint is not None:
        if not isinstance(config, dict):
            config = {} if config is None else {"config": config}
        config = {**_identity(key, state, loss, batches, optimizer), **config}
        saved = _checkpoint.latest(checkpoint) or 0
        if saved > num_steps:
            raise ValueError(f"train.fit: num_steps must be >= the {saved} steps in {checkpoint}, got {num_steps}")
        if saved:
            like = {"state": state, "losses": np.zeros(saved)}
            found = _checkpoint.restore(checkpoint, like, config=config)
            state, losses = found["state"], found["losses"]

    reached = {"state": state, "losses": losses}  # replaced as one, so that a Ctrl-C at any moment saves a pair

    def save():
        nonlocal saved
        if checkpoint is not None and len(reached["losses"]) > saved:
            saving = reached
            _checkpoint.save(checkpoint, saving, len(saving["losses"]), config=config)
            saved = len(saving["losses"])

    count, last_save = 1, time.monotonic()
    with _bar(progress, num_steps) as bar:
        bar.update(len(losses))
        try:
            while len(losses) < num_steps:
                start, stop = time.monotonic(), min(len(losses) + count, num_steps)
                state, values = _advance(key, state, loss, batches, optimizer, jnp.int32(stop), _MAX_STEPS_PER_CALL)
                losses = np.append(losses, np.asarray(values, np.float64)[: stop - len(losses)])
                reached = {"state": state, "losses": losses}
                bar.update(len(losses) - bar.n)
                bar.set_postfix_str(f"loss {losses[-1]:.4g}", refresh=False)
                now = time.monotonic()
                # The first call compiles, so its rate is too low: grow step by step.
                count = int(min(4 * count, _MAX_STEPS_PER_CALL, max(1, count * _SECONDS_PER_CALL / (now - start))))
                if now - last_save > save_every:
                    save()
                    last_save = time.monotonic()
        finally:
            save()
    return Result(state.params, state, losses, state.status)


class _NoBar:
    """Stands in for the progress bar."""

    n = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def update(self, count):
        self.n += count

    def set_postfix_str(self, *_, **__):
        pass


def _bar(progress, total):
    if not progress:
        return _NoBar()
    return extras.require("tqdm", "sweep", "train.fit(progress=True)").tqdm(total=total, unit="step", desc="fit")


__all__ = ["TrainState", "fit", "init", "run", "step"]
