"""Linear systems that a user already has, as a stream; and one at a time, as they come.

All systems at once are a stream (`from_systems`), solved in one compiled scan. Where they arrive one by one, say from a
simulation, or are solved by another package, compile the two halves of the policy and call them around the solve:

    >>> import equinox as eqx
    >>> import jax
    >>> import scipy.sparse as sp
    >>> import scipy.sparse.linalg
    >>> from jaxsci import bandits
    >>> chain = sp.diags_array([-np.ones(29), 2 * np.ones(30), -np.ones(29)], offsets=[-1, 0, 1])
    >>> policy = bandits.policies.cheb_cb(10, low=0.1, high=0.5, floor=1.0)
    >>> select, update = eqx.filter_jit(policy.select), eqx.filter_jit(policy.update)
    >>> key, arms = jax.random.key(0), np.linspace(1.0, 1.9, 10)
    >>> state = policy.init(key)
    >>> for t, shift in enumerate([0.3, 0.1, 0.45]):
    ...     A, b = (chain + shift * sp.eye_array(30)).tocsr(), np.ones(30)
    ...     decision = select(jax.random.fold_in(key, t), state, shift)
    ...     omega, steps, x = arms[decision.action], 0, np.zeros(30)
    ...     lower = (sp.tril(A, -1) + sp.diags_array(A.diagonal() / omega)).tocsr()
    ...     while np.linalg.norm(b - A @ x) > 1e-4 * np.linalg.norm(b):  # any solver whose work can be counted
    ...         x, steps = x + scipy.sparse.linalg.spsolve_triangular(lower, b - A @ x, lower=True), steps + 1
    ...     state = update(state, decision, float(steps), shift)
    >>> bool(np.linalg.norm(b - A @ x) <= 1e-4 * np.linalg.norm(b)), int(policy.status(state))
    (True, 0)
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import ArrayLike

from jaxsci.core import entry, tree
from jaxsci.core.protocols import Problem, Stream, StreamCarry
from jaxsci.core.static import bind
from jaxsci.core.types import concrete, is_concrete
from jaxsci.linear._dense import dense
from jaxsci.linear._foreign import from_scipy
from jaxsci.linear._pattern import Pattern
from jaxsci.linear._sparse import Sparse
from jaxsci.linear._system import real_dtype

# Patterns that differ are padded to their union; beyond this many times the largest it is not one kind of problem.
_MOST_UNION = 8


def from_systems(
    matrices: Sequence[Any],
    right_hand_sides: Sequence[ArrayLike] | ArrayLike,
    contexts: Any = None,
    *,
    last_solution: bool = False,
) -> Stream:
    r"""Systems $A_t x = b_t$ that you have, as a stream for `linear.tuned_sequence` and `cost_table`; a builder.

    After the last system the stream begins again: problem i is system i mod T.

    Args:
        matrices: T square matrices of one size: SciPy's sparse ones, NumPy arrays (dense), or operators of
            `linear.operators` of one kind. Sparse ones may have different patterns: all are held in the union of
            them, with zeros. Their values become leaves of the stream, so other values compile nothing again.
        right_hand_sides: b_t, an array of leading axis T or a list of T arrays of the operators' shape.
        contexts: what the policy sees before it chooses: an array, or a record of arrays, of leading axis T, or a
            list of T of them. None: nothing.
        last_solution: start each solve from the solution before, static; else from zero.

    Raises:
        TypeError: something else than a list of matrices; traced ones.
        ValueError: no system, as many right-hand sides or contexts as matrices not given, shapes or kinds that
            differ, or patterns that have so little in common that their union would be far larger than any of them.

    Example:
        >>> import numpy as np
        >>> import scipy.sparse as sp
        >>> from jaxsci import bandits, linear
        >>> chain = sp.diags_array([-np.ones(29), 2 * np.ones(30), -np.ones(29)], offsets=[-1, 0, 1]).tocsr()
        >>> shifts = np.random.default_rng(0).uniform(0.1, 0.5, 40)
        >>> matrices = [chain + shift * sp.eye_array(30) for shift in shifts]
        >>> stream = linear.streams.from_systems(matrices, np.ones((40, 30)), shifts)
        >>> arms = jnp.linspace(1.0, 1.9, 10)
        >>> policy = bandits.policies.cheb_cb(10, low=0.1, high=0.5, floor=1.0)
        >>> result = linear.tuned_sequence(
        ...     jax.random.key(0), stream, linear.methods.sor, policy, arms, num_rounds=40, tol=1e-4)
        >>> result.history.steps.shape, int(result.status)
        ((40,), 0)
    """
    function = "from_systems"
    ops = _as_operators(matrices)
    shape = ops[0].diagonal.shape
    if isinstance(right_hand_sides, (list, tuple)):
        right_hand_sides = np.stack([_of_shape(function, t, b, shape) for t, b in enumerate(right_hand_sides)])
    if np.shape(right_hand_sides) != (len(ops), *shape):
        raise ValueError(
            f"{function}: right_hand_sides must be one array of the operators' shape {shape} for each of the "
            f"{len(ops)} matrices, got shape {np.shape(right_hand_sides)}"
        )
    dtype = real_dtype(function, *(op.diagonal for op in ops), right_hand_sides)
    held = tree.cast(_stacked(ops), dtype)
    return Stream(
        Partial(bind(_init_systems, shape=shape, dtype=dtype)),
        Partial(
            bind(_next_system, num=len(ops), last_solution=bool(last_solution)),
            held,
            jnp.asarray(right_hand_sides, dtype),
            _contexts(contexts, len(ops)),
        ),
    )


def _init_systems(key, *, shape, dtype):
    return StreamCarry(jnp.zeros(shape, dtype))


def _next_system(ops, right_hand_sides, contexts, key, carry, i, *, num: int, last_solution: bool):
    op, b, context = tree.dynamic_index((ops, right_hand_sides, contexts), i % num)
    return carry, Problem(op, b, carry.solution if last_solution else jnp.zeros_like(b), context)


def _as_operators(matrices) -> list:
    if not isinstance(matrices, (list, tuple)):
        raise TypeError(
            f"from_systems: matrices must be a list of SciPy matrices, NumPy arrays or operators, got "
            f"{type(matrices).__name__}; a stream that draws its systems is a core.protocols.Stream(init, next)"
        )
    if not matrices:
        raise ValueError("from_systems: matrices must hold at least one system, got none")
    if not is_concrete(matrices):
        raise TypeError("from_systems: matrices must be concrete, got traced values; build the stream outside")
    ops = [_as_operator(t, matrix) for t, matrix in enumerate(matrices)]
    kinds = {type(op).__name__ for op in ops}
    if len(kinds) > 1:
        raise ValueError(f"from_systems: matrices must be operators of one kind, got {sorted(kinds)}")
    shapes = {op.diagonal.shape for op in ops}
    if len(shapes) > 1:
        raise ValueError(f"from_systems: matrices must be of one size, got operators on {sorted(shapes)}")
    return ops


def _as_operator(t: int, matrix):
    if hasattr(matrix, "tocsr"):
        return from_scipy(matrix.tocsr())  # also of the format of diagonals, whose offsets could differ
    if hasattr(matrix, "mv") and hasattr(matrix, "diagonal"):
        return matrix
    if np.ndim(matrix) == 2:
        matrix = np.asarray(matrix)
        return dense(matrix, symmetric=matrix.shape == matrix.T.shape and bool(np.all(matrix == matrix.T)))
    raise TypeError(
        f"from_systems: matrices[{t}] must be a SciPy matrix, a NumPy array (n, n) or an operator, got "
        f"{type(matrix).__name__}"
    )


def _stacked(ops: list):
    """One operator whose leaves have a leading axis T."""
    if isinstance(ops[0], Sparse):
        ops = _in_union(ops)
    structures = {jax.tree.structure(op) for op in ops}
    shapes = {tuple(np.shape(leaf) for leaf in jax.tree.leaves(op)) for op in ops}
    if len(structures) > 1 or len(shapes) > 1:
        raise ValueError(
            f"from_systems: matrices are all {type(ops[0]).__name__} but differ in what is static (offsets, order, the "
            "promise symmetric=) or in the shapes of their arrays; make them alike, or pass SciPy matrices"
        )
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *ops)


def _in_union(ops: list[Sparse]) -> list[Sparse]:
    """The same matrices in one pattern, with zeros where they have no entry; symmetric if all are."""
    orders = {op.order for op in ops}
    if len(orders) > 1:
        raise ValueError(f"from_systems: matrices must be swept in one order, got {sorted(map(str, orders))}")
    symmetric = all(op.symmetric for op in ops)
    patterns = {op.pattern: None for op in ops}
    n, first = ops[0].pattern.size, ops[0].pattern
    if len(patterns) > 1:
        places = {p: p.rows.astype(np.int64) * n + p.cols for p in patterns}
        union, most = np.zeros(0, np.int64), max(len(held) for held in places.values())
        for held in places.values():
            union = np.union1d(union, held)
            if len(union) > _MOST_UNION * most:
                raise ValueError(
                    f"from_systems: matrices have too little in common: the union of their patterns has more than "
                    f"{_MOST_UNION} times the {most} off-diagonal entries of the largest; solve them in groups"
                )
        first = Pattern(n, (union // n).astype(np.int32), (union % n).astype(np.int32))
        slots = {p: np.searchsorted(union, held) for p, held in places.items()}
    found = []
    for op in ops:
        entries = np.asarray(op.entries)
        if len(patterns) > 1:
            entries = np.zeros(len(first.rows), entries.dtype)
            entries[slots[op.pattern]] = op.entries
        found.append(Sparse(np.asarray(op.diagonal), entries, pattern=first, symmetric=symmetric, order=op.order))
    return found


def _of_shape(function: str, t: int, b, shape):
    if np.shape(b) != shape:
        raise ValueError(
            f"{function}: right_hand_sides[{t}] must have the operators' shape {shape}, got shape {np.shape(b)}"
        )
    return np.asarray(b)


def _contexts(contexts, num: int):
    if isinstance(contexts, list) and contexts and len({jax.tree.structure(context) for context in contexts}) == 1:
        contexts = jax.tree.map(lambda *leaves: np.stack(leaves), *contexts)
    contexts = concrete(contexts, "from_systems", "contexts", "build the stream outside")
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(contexts)}
    if lengths - {num}:
        raise ValueError(
            f"from_systems: contexts must have a leading axis of one entry for each of the {num} matrices, got leading "
            f"sizes {sorted(map(str, lengths))}"
        )
    return jax.tree.map(jnp.asarray, contexts)


__all__ = ["from_systems"]

entry.hold(globals(), "_init_systems", "_next_system")
