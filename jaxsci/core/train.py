r"""Training: a loop over an optimiser triple ``(init, update)``, with data drawn inside the compiled step.

$\theta_{i+1} = \theta_i + u_i$ with $u_i, s_{i+1} = \mathrm{update}(\nabla \ell(\theta_i; B_i, k_i), s_i, \theta_i)$

The batch $B_i$ and the key $k_i$ are functions of ``fold_in(key, i)`` alone, i the global step: chunks, restarts and
longer runs never shift a stream. A step whose loss, gradient, new parameters or new optimiser state are not finite
changes nothing but the status. With ``mesh=`` the batch is spread over devices: one draw of it serves all, each takes
loss and gradient of its rows, and the update sees their mean.
The triple is optax's, or any two functions of the same names and arguments; this module does not import optax.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jax.tree_util import Partial
from jaxtyping import Array, Int, PyTree

from jaxsci.core import _carry, drive, entry, keys, program, provenance, status, tree
from jaxsci.core.protocols import Result
from jaxsci.core.static import check_size, warn_of_new_objects
from jaxsci.core.types import KeyArray


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

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from jaxsci.core import train
        >>> print(int(train.init({"w": jnp.zeros(2)}, optimizer=optax.sgd(0.1)).step))
        0
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
    key: KeyArray,
    state: TrainState,
    batch: PyTree,
    *,
    loss: Callable[..., Any],
    optimizer: Any,
    mesh: Mesh | None = None,
) -> tuple[TrainState, PyTree]:
    """One update; `run` is its scan.

    Args:
        key: the key of the whole training, the same at every step: the step's own is folded in here.
        state: from `init` or the step before.
        batch: what `loss` takes, any pytree of arrays.
        loss: ``loss(params, batch, key) -> value``, a floating scalar, or ``(value, metrics)`` with any pytree.
        optimizer: see `init`.
        mesh: devices over which the leading axis of every leaf of the batch is spread (static; axes of type ``Auto``).
            Value, metrics and gradient are then means over the devices, as they must be for a loss that is a mean over
            the leading axis. The loss's own key differs from device to device: what shall not depend on their number
            is drawn in the batch.

    Returns:
        ``(state, out)``, `out` what `loss` gave before the update. If value or gradient is not finite, parameters and
        optimiser state stay as they were and the status gets NONFINITE_RESULT; if new parameters or the new optimiser
        state are not, though the old ones were, the same with NONFINITE_UPDATE.

    Raises:
        TypeError: `loss` does not give a floating scalar, a metric is not floating under a mesh, or `optimizer` changes
            a dtype or shape of its state.
        ValueError: the mesh does not divide the batch, or its axes are not ``Auto``.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax
        >>> from jaxsci.core import train
        >>> loss = lambda params, batch, key: jnp.sum((params["w"] - batch) ** 2)
        >>> state = train.init({"w": jnp.zeros(2)}, optimizer=optax.sgd(0.25))
        >>> state, value = train.step(jax.random.key(0), state, jnp.ones(2), loss=loss, optimizer=optax.sgd(0.25))
        >>> print(state.params["w"], value)
        [0.5 0.5] 2.0
    """
    _, loss_key = _keys(keys.as_typed_key(key, "train.step"), state.step)

    def valued(params, batch, key):
        out = loss(params, batch, key)
        value = out[0] if isinstance(out, tuple) and len(out) == 2 else out
        if jnp.shape(value) != () or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            raise TypeError(f"train: loss must return a floating scalar, got {_carry.spec(value)}")
        return value, out

    function = jax.value_and_grad(valued, has_aux=True)
    if mesh is not None:
        _check_mesh(mesh, batch)
        function = _spread_over(mesh, function)
    (value, out), grads = function(state.params, batch, loss_key)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    specs = jax.eval_shape(lambda s: s, opt_state)
    _carry.check("train", "optimizer.update", "opt_state", state.opt_state, specs)
    params = jax.tree.map(
        lambda p, u: p if u is None else (p + u).astype(p.dtype), state.params, updates, is_leaf=lambda x: x is None
    )
    old, new = (state.params, state.opt_state), (params, _carry.strong(opt_state, state.opt_state))
    finite, sound = jnp.isfinite(value) & tree.all_finite(grads), _stays_finite(old, new)
    params, opt_state = tree.where(finite & sound, new, old)
    bits = status.flag(~finite, status.NONFINITE_RESULT) | status.flag(finite & ~sound, status.NONFINITE_UPDATE)
    return TrainState(params, opt_state, state.step + 1, state.status | bits), out


def _stays_finite(old: PyTree, new: PyTree):
    """No entry has become infinite or NaN. Some optimisers begin with an infinite one, the best loss so far."""

    def leaf(a, b):
        if not jnp.issubdtype(b.dtype, jnp.inexact):
            return jnp.bool_(True)
        return jnp.all(jnp.isfinite(b) | ~jnp.isfinite(a) & ~jnp.isnan(b))

    return jnp.all(jnp.stack([jnp.bool_(True), *jax.tree.leaves(jax.tree.map(leaf, old, new))]))


def _rows(mesh: Mesh) -> PartitionSpec:
    """The leading axis over all axes of the mesh."""
    return PartitionSpec(mesh.axis_names)


def _check_mesh(mesh: Any, batch: PyTree) -> None:
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError(
            "train: the axes of mesh must be Auto; make it by jax.make_mesh(shape, names, "
            "axis_types=(jax.sharding.AxisType.Auto,) * len(shape))"
        )
    for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
        if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] % mesh.size:
            name = f"batch{jax.tree_util.keystr(path)}"
            raise ValueError(
                f"train: the leading axis of {name} must be a multiple of the {mesh.size} devices of mesh, got shape "
                f"{jnp.shape(leaf)}"
            )


def _spread_over(mesh: Mesh, function: Callable) -> Callable:
    """``function(params, batch, key) -> ((value, out), gradient)`` as its mean over the devices of a mesh."""

    def local(params, batch, key):
        if mesh.size > 1:
            key = jax.random.fold_in(key, jax.lax.axis_index(mesh.axis_names))
        (value, out), grads = function(params, batch, key)
        for path, leaf in jax.tree_util.tree_leaves_with_path(out):
            if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
                name = f"metrics{jax.tree_util.keystr(path[1:])}"
                raise TypeError(f"train: {name} must be floating to be averaged over devices, got {_carry.spec(leaf)}")
        return jax.lax.pmean(((value, out), grads), mesh.axis_names)

    whole = PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=(whole, _rows(mesh), whole), out_specs=whole, check_vma=False)


def run(
    key: KeyArray,
    loss: Callable[..., Any],
    params: PyTree,
    batches: Callable[..., PyTree],
    *,
    optimizer: Any,
    num_steps: int,
    state: TrainState | None = None,
    mesh: Mesh | None = None,
) -> Result:
    """Train for `num_steps` steps in one compiled scan.

    Args:
        key: one typed key; step i draws its batch and its loss key from ``fold_in(key, i)``.
        loss: ``loss(params, batch, key) -> value`` or ``(value, metrics)``, traced once; see `step`.
        params: pytree of floating arrays; not read when `state` is given.
        batches: ``batches(key, i) -> batch``, called inside the compiled step with the int32 global step i.
        optimizer: see `init` (static: the same object compiles once; hyper-parameters that shall be swept go into
            its state, as with `optax.inject_hyperparams`).
        num_steps: static.
        state: go on from here instead of from `params`; give the same key and the result is that of one long run.
        mesh: devices that share the batch, see `step`; the batch is drawn under a sharding constraint, each device
            making its own rows.

    Returns:
        `Result`, all of it differentiable with respect to `params` and what `loss` and `batches` hold: the last
        parameters, the whole `TrainState`, as history what `loss` returned at each step, stacked along a leading axis
        of num_steps, and the bitwise or over all steps. A loss is that before the step's update, of a skipped step too:
        it may be NaN when the status says so.

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
    for name, function in (("loss", loss), ("batches", batches)):
        warn_of_new_objects(function, "train.run", name)
    key = keys.as_typed_key(key, "train.run")
    state = init(params, optimizer=optimizer) if state is None else _carry.strong(state)
    state, history = _scan(key, state, loss, batches, optimizer, num_steps, mesh)
    return Result(state.params, state, history, state.status)


@eqx.filter_jit
def _scan(key, state, loss, batches, optimizer, num_steps, mesh):
    def body(state, _):
        return _drawn_step(key, state, loss, batches, optimizer, mesh)

    return jax.lax.scan(body, state, None, length=num_steps)


def _keys(key, i):
    """Keys of the batch and of the loss of global step i."""
    mine = jax.random.fold_in(key, i)
    return jax.random.fold_in(mine, 0), jax.random.fold_in(mine, 1)


def _drawn_step(key, state, loss, batches, optimizer, mesh):
    batch_key, _ = _keys(key, state.step)
    batch = batches(batch_key, state.step)
    if mesh is not None:
        _check_mesh(mesh, batch)
        batch = jax.lax.with_sharding_constraint(batch, NamedSharding(mesh, _rows(mesh)))
    return step(key, state, batch, loss=loss, optimizer=optimizer, mesh=mesh)


def _identity(key, state: TrainState, loss, batches, optimizer, mesh) -> dict[str, Any]:
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
        # sums in another order differ in the last digit
        "devices that share a batch": 1 if mesh is None else mesh.size,
    }


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
    progress: bool | Callable = True,
    mesh: Mesh | None = None,
) -> Result:
    """`run` as a host loop: progress bar, checkpoints, and the same bits after a kill and a second call.

    The loop is `drive.scan`: call it again with the same arguments and it continues; with a larger `num_steps` it goes
    on from the end.

    Args:
        key, loss, params, batches, optimizer, num_steps, mesh: as in `run`.
        checkpoint: folder for the checkpoints (extra "nets"), which one process at a time may use; None keeps none.
        save_every: seconds between two of them; one is always written at the end and at Ctrl-C.
        config: anything else that decides the result: a dict, or one value; functions in it count by their source
            text. The key, the programs of a step and of a batch (see `core.program`) and the first state are added.
        progress: True shows a bar (extra "sweep"), a callable gets ``(steps done, num_steps, text)``.

    Returns:
        `Result` as from `run`; its history, of all steps, those before a restart included, holds NumPy arrays.

    Raises:
        ValueError: the folder holds a run with another configuration (the message says what differs), one that
            is longer than `num_steps`, or a damaged checkpoint.
        TypeError: see `init` and `step`.
        RuntimeError: another process is writing into the folder.
        ImportError: an extra is missing.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optax
        >>> from jaxsci.core import train
        >>> loss = lambda params, batch, key: jnp.sum((params["w"] - batch) ** 2)
        >>> result = train.fit(
        ...     jax.random.key(0), loss, {"w": jnp.zeros(2)}, lambda key, i: jnp.ones(2), optimizer=optax.sgd(0.25),
        ...     num_steps=20, progress=False)
        >>> print(result.value["w"].round(3))
        [1. 1.]
    """
    num_steps = check_size("train.fit", "num_steps", num_steps, least=0)
    key = keys.as_typed_key(key, "train.fit")
    state, identity = init(params, optimizer=optimizer), None
    if checkpoint is not None:
        if not isinstance(config, dict):
            config = {} if config is None else {"config": config}
        identity = {**_identity(key, state, loss, batches, optimizer, mesh), **config}
    state, history = drive.scan(
        Partial(_indexed_step, key, loss, batches, optimizer, mesh),
        state,
        num_steps,
        checkpoint=checkpoint,
        identity=identity,
        save_every=save_every,
        progress=progress,
        text=lambda out: f"loss {float(_loss_of(out)):.4g}",
        caller="train.fit",
    )
    return Result(state.params, state, history, state.status)


def _indexed_step(key, loss, batches, optimizer, mesh, state, i):
    """A step as the driver calls it: its global index stands in the state too."""
    return _drawn_step(key, state, loss, batches, optimizer, mesh)


def _loss_of(out):
    return out[0] if isinstance(out, tuple) else out


__all__ = ["TrainState", "fit", "init", "run", "step"]

entry.guard(globals())
