"""Replay buffer: a ring of transitions of any structure, as arrays; windows of consecutive ones are drawn from it.

Row t holds the transitions that `num_lanes` environments made at the same time, so a window of rows of one lane is a
piece of that environment's history: n-step targets are formed when it is drawn, not when it is stored.

Reference: L.-J. Lin, "Self-improving reactive agents based on reinforcement learning, planning and teaching", 1992.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from jaxsci.core import entry, keys
from jaxsci.core.keys import unrolled
from jaxsci.core.static import check_size
from jaxsci.core.types import KeyArray


class Buffer(NamedTuple):
    """A ring of rows; `size` of them are filled, the oldest is overwritten first.

    Attributes:
        data: leaves [capacity, num_lanes, ...].
        cursor: the row that is written next.
        size: rows filled so far, at most the capacity.
    """

    data: PyTree
    cursor: Int[Array, ""]
    size: Int[Array, ""]


def init(example: PyTree, capacity: int, *, num_lanes: int = 1) -> Buffer:
    """An empty buffer for transitions like `example`.

    Args:
        example: one transition, any pytree of arrays; only shapes and dtypes are read.
        capacity: rows (static).
        num_lanes: transitions in a row (static).

    Raises:
        ValueError: a size below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.rl import replay_buffer
        >>> buffer = replay_buffer.init({"reward": jnp.zeros(())}, 4)
        >>> for i in range(6):
        ...     buffer = replay_buffer.add(buffer, {"reward": jnp.array([1.0 * i])})
        >>> windows = replay_buffer.sample(jax.random.key(0), buffer, 50)
        >>> sorted(set(windows["reward"].ravel().tolist())), int(buffer.size)
        ([2.0, 3.0, 4.0, 5.0], 4)
    """
    capacity = check_size("replay_buffer.init", "capacity", capacity)
    num_lanes = check_size("replay_buffer.init", "num_lanes", num_lanes)

    def empty(leaf):
        return jnp.zeros((capacity, num_lanes, *jnp.shape(leaf)), jnp.result_type(leaf))

    return Buffer(jax.tree.map(empty, example), jnp.int32(0), jnp.int32(0))


@jax.jit
def add(buffer: Buffer, row: PyTree) -> Buffer:
    """The buffer with one row more.

    Args:
        buffer: from `init` or `add`.
        row: one transition of every lane, leaves [num_lanes, ...].

    Raises:
        ValueError: a leaf of `row` has another shape than the buffer's rows.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl import replay_buffer
        >>> buffer = replay_buffer.init({"x": jnp.zeros(())}, 4)
        >>> buffer = replay_buffer.add(buffer, {"x": jnp.ones(1)})
        >>> print(int(buffer.size))
        1
    """
    capacity = jax.tree.leaves(buffer.data)[0].shape[0]

    def put(data, new):
        if jnp.shape(new) != data.shape[1:]:
            raise ValueError(f"replay_buffer.add: expected leaves of shape {data.shape[1:]}, got {jnp.shape(new)}")
        return data.at[buffer.cursor].set(jnp.asarray(new).astype(data.dtype))

    data = jax.tree.map(put, buffer.data, row)
    return Buffer(data, (buffer.cursor + 1) % capacity, jnp.minimum(buffer.size + 1, capacity))


def sample(key: KeyArray, buffer: Buffer, num: int, *, length: int = 1) -> PyTree:
    """Windows of consecutive transitions of one lane, drawn uniformly with replacement.

    Args:
        key: one typed key.
        buffer: with at least `length` rows filled; rows not yet filled read as zeros.
        num: windows (static).
        length: transitions in a window (static), oldest first.

    Returns:
        Leaves [num, length, ...].

    Raises:
        ValueError: `length` is not between 1 and the capacity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci.rl import replay_buffer
        >>> buffer = replay_buffer.init({"x": jnp.zeros(())}, 4)
        >>> for i in range(3):
        ...     buffer = replay_buffer.add(buffer, {"x": jnp.full(1, float(i))})
        >>> drawn = replay_buffer.sample(jax.random.key(0), buffer, 5, length=2)
        >>> print([a.shape for a in jax.tree.leaves(drawn)][0])
        (5, 2)
    """
    capacity, num_lanes = jax.tree.leaves(buffer.data)[0].shape[:2]
    if not 1 <= length <= capacity:
        raise ValueError(f"replay_buffer.sample: length must lie in [1, {capacity}], the capacity, got {length}")
    return _sample(keys.as_typed_key(key, "replay_buffer.sample"), buffer, (num, length, capacity, num_lanes))


def _draw(key, buffer, sizes):
    num, length, capacity, num_lanes = sizes
    row_key, lane_key = jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)
    start = jax.random.randint(unrolled(row_key), (num, 1), 0, jnp.maximum(buffer.size - length + 1, 1))
    lane = jax.random.randint(unrolled(lane_key), (num, 1), 0, num_lanes)
    oldest = buffer.cursor - buffer.size
    rows = (oldest + start + jnp.arange(length, dtype=jnp.int32)[None, :]) % capacity
    return jax.tree.map(lambda data: data[rows, lane], buffer.data)


_sample = jax.jit(_draw, static_argnums=2)

__all__ = ["Buffer", "add", "init", "sample"]

entry.guard(globals())
