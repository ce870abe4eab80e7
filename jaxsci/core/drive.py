r"""Long loops on the host: a compiled step run in chunks, with a bar, checkpoints, Ctrl-C, and resume to the same bits.

$(s_{i+1}, y_i) = \mathrm{step}(s_i, i)$ for $i = 0, \dots, n - 1$: `jax.lax.scan` over the global index i, but the host
looks in between. What needs keys folds i into its own, so that chunks, restarts and longer runs never shift a stream.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxsci.core import _carry, entry, files, program, progress, provenance
from jaxsci.core import checkpoint as _checkpoint
from jaxsci.core.static import check_size

_SECONDS_PER_CALL = 0.5  # how long a chunk stays in compiled code between two looks at the clock
_MAX_STEPS_PER_CALL, _MAX_BYTES_PER_CALL = 4096, 1 << 24
_LOCK = "drive.lock"


class _Reached(NamedTuple):
    """A state and what was returned on the way to it, replaced as one: Ctrl-C at any moment finds a pair.

    Attributes:
        state: the state after `steps` steps.
        parts: what the steps returned: stacked pieces in order.
        steps: how many.
    """

    state: PyTree
    parts: tuple
    steps: int


def scan(
    step: Callable[..., tuple[PyTree, PyTree]],
    state: PyTree,
    num_steps: int,
    *,
    checkpoint: str | Path | None = None,
    identity: Mapping[str, Any] | None = None,
    save_every: float | int = 60.0,
    progress: bool | Callable = True,
    text: Callable[[PyTree], str] | None = None,
    caller: str = "drive.scan",
) -> tuple[PyTree, PyTree]:
    """`jax.lax.scan` as a host loop: a bar, checkpoints, and the same bits after a kill and a second call.

    Between two looks at the clock it takes as many steps as fit in half a second, all in one compiled loop. Call it
    again with the same arguments and it continues; with a larger `num_steps` it goes on from the end.

    Args:
        step: ``step(state, i) -> (state, out)`` with the int32 global index i, traced once; structure, shapes and
            dtypes of the state never change. A `jax.tree_util.Partial` compiles once for all values of its leaves.
        state: pytree of arrays before step 0.
        num_steps: how many in all.
        checkpoint: folder for the checkpoints (extra "nets"), which one process at a time may use; None keeps none.
        identity: what must be equal for a run to be continued, see `checkpoint.save`; by default the program of the
            step and the first state.
        save_every: seconds between two checkpoints; one is always written at the end and at Ctrl-C.
        progress: True shows a bar (extra "sweep"), a callable gets ``(done, num_steps, text)``.
        text: what the bar says beside the count, made from the last step's `out` on the host.
        caller: named by messages.

    Returns:
        ``(state, history)``: the last state, and the `out` of all steps, those before a restart included, stacked
        along a leading axis in NumPy arrays.

    Raises:
        ValueError: the folder holds a run with another identity (the message says what differs), one that is longer
            than `num_steps`, or a damaged checkpoint.
        TypeError: `step` returns no pair, or changes a shape or dtype of its state.
        RuntimeError: another process is writing into the folder.
        ImportError: an extra is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.core import drive
        >>> state, history = drive.scan(lambda s, i: (s + i, s), jnp.int32(0), 5, progress=False)
        >>> print(state, history)
        10 [0 0 1 3 6]
    """
    num_steps = check_size(caller, "num_steps", num_steps, least=0)
    state = _carry.strong(state)
    out = _out_of(caller, step, state)
    if checkpoint is None:
        start = _Reached(state, (), 0)
        return _loop(step, start, out, num_steps, lambda reached: None, save_every, progress, text, caller)
    with files.locked(caller, checkpoint, _LOCK):
        if identity is None:
            identity = {
                "step": program.fingerprint(step, state, jax.ShapeDtypeStruct((), jnp.int32)),
                "first state": state,
                "settings": provenance.settings(),
            }
        saved = _checkpoint.latest(checkpoint) or 0
        if saved > num_steps:
            raise ValueError(f"{caller}: num_steps must be >= the {saved} steps in {checkpoint}, got {num_steps}")
        reached = _Reached(state, (), 0)
        if saved:
            like = {"state": state, "history": jax.tree.map(lambda a: np.zeros((saved, *a.shape), a.dtype), out)}
            found = _checkpoint.restore(checkpoint, like, config=identity)
            reached = _Reached(found["state"], (found["history"],), saved)

        def save(reached: _Reached) -> None:
            nonlocal saved
            if reached.steps > saved:
                tree = {"state": reached.state, "history": _joined(reached.parts)}
                _checkpoint.save(checkpoint, tree, reached.steps, config=identity)
                saved = reached.steps

        return _loop(step, reached, out, num_steps, save, save_every, progress, text, caller)


def _loop(step, reached, out, num_steps, save, save_every, shown, text, caller):
    """The chunks: each is as long as the one before tells to stay near the seconds wanted."""
    bytes_per_step = sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(out))
    most = max(1, min(_MAX_STEPS_PER_CALL, _MAX_BYTES_PER_CALL // max(1, bytes_per_step)))
    count, last_save, said = 1, time.monotonic(), ""
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: save(reached))  # also at Ctrl-C and after an error, with what is whole by then
        report = stack.enter_context(progress.reporting(caller, shown, num_steps, reached.steps))
        while reached.steps < num_steps:
            start, stop = time.monotonic(), min(reached.steps + count, num_steps)
            first, last = jnp.int32(reached.steps), jnp.int32(stop)
            state, outs = _advance(step, reached.state, first, last, most, caller)
            part = _first(jax.device_get(outs), stop - reached.steps)
            reached = _Reached(state, (*reached.parts, part), stop)
            if text is not None:
                said = text(jax.tree.map(lambda a: a[-1], part))
            report(stop, said)
            now = time.monotonic()
            # The first call compiles, so its rate is too low: grow step by step.
            count = int(min(4 * count, most, max(1, count * _SECONDS_PER_CALL / max(now - start, 1e-9))))
            if now - last_save > save_every:
                save(reached)
                reached = reached._replace(parts=(_joined(reached.parts),))
                last_save = time.monotonic()
    empty = jax.tree.map(lambda a: np.zeros((0, *a.shape), a.dtype), out)
    return reached.state, _joined(reached.parts) if reached.parts else empty


def _first(outs: PyTree, count: int) -> PyTree:
    """The rows that were filled, without the memory of the others."""
    return jax.tree.map(lambda a: np.array(a[:count]), outs)


def _joined(parts: tuple) -> PyTree:
    return jax.tree.map(lambda *a: np.concatenate(a), *parts) if len(parts) > 1 else parts[0]


@eqx.filter_jit
def _one(step, state, i):
    """The step behind a jit of its own, so that JAX traces it once for its shapes and for the loop."""
    return step(state, i)


def _out_of(caller: str, step: Callable, state: PyTree) -> PyTree:
    """Shapes and dtypes of what a step returns beside its state."""
    pair = eqx.filter_eval_shape(_one, step, state, jax.ShapeDtypeStruct((), jnp.int32))
    if not (isinstance(pair, tuple) and len(pair) == 2):
        raise TypeError(f"{caller}: step must return (state, out), got {type(pair).__name__}")
    _carry.check(caller, "step", "state", state, pair[0])
    for path, leaf in jax.tree_util.tree_leaves_with_path(pair[1]):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            name = f"out{jax.tree_util.keystr(path)}"
            raise TypeError(f"{caller}: {name} of step must be an array of numbers, got {_carry.spec(leaf)}")
    return pair[1]


@eqx.filter_jit
def _advance(step, state, first, last, size, caller):
    """Steps `first` to `last`, at most `size`; both are traced, so any number of steps is one program."""
    one, (_, out) = _carry.traced_body(caller, lambda state, i: _one(step, state, i), state, first)

    def body(i, loop):
        state, outs = loop
        state, out = one(state, first + i)
        return state, jax.tree.map(lambda all, new: all.at[i].set(new), outs, out)

    outs = jax.tree.map(lambda a: jnp.zeros((size, *a.shape), a.dtype), out)
    return jax.lax.fori_loop(0, last - first, body, (state, outs))


__all__ = ["scan"]

entry.guard(globals())
