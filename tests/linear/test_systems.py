"""Lists of systems as streams: each is solved as by itself, whatever it was given as; what is no list is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sp

from jaxsci import bandits, linear
from jaxsci.core.protocols import Problem, Stream, StreamCarry

O, M = linear.operators, linear.methods
ARMS = np.linspace(1.0, 1.9, 4)
RNG = np.random.default_rng(4)
T, N = 5, 12
SHIFTS = RNG.uniform(0.2, 1.0, T)
RHS = RNG.standard_normal((T, N))


def _chain(t, far=0):
    """A chain with a shift, and one pair of entries whose place depends on `far`."""
    a = sp.diags_array([-np.ones(N - 1), (2.4 + SHIFTS[t]) * np.ones(N), -np.ones(N - 1)], offsets=[-1, 0, 1]).tolil()
    if far:
        a[0, far] = a[far, 0] = -0.3
    return a.tocsr()


SAME = [_chain(t) for t in range(T)]
OTHER = [_chain(t, 3 + t) for t in range(T)]
UNIFORM = bandits.policies.uniform(len(ARMS))


def _play(stream, num_rounds=T):
    return linear.tuned_sequence(jax.random.key(0), stream, M.sor, UNIFORM, ARMS, num_rounds=num_rounds, tol=1e-9)


@pytest.mark.x64
@pytest.mark.parametrize(
    ("given", "matrices"),
    [
        (SAME, SAME),
        (OTHER, OTHER),
        ([a.todia() for a in SAME], SAME),
        pytest.param([a.toarray() for a in OTHER], OTHER, marks=pytest.mark.full),
        pytest.param(
            [O.banded(np.stack([-np.ones(N), a.diagonal(), -np.ones(N)]), (-1, 0, 1)) for a in SAME],
            SAME,
            marks=pytest.mark.full,
        ),
        ([linear.interop.from_scipy(a) for a in OTHER], OTHER),
    ],
    ids=["one pattern", "patterns", "diagonals", "arrays", "banded", "operators"],
)
def test_each_system_is_solved_as_by_itself(given, matrices):
    result = _play(linear.streams.from_systems(given, list(RHS), SHIFTS), T + 2)
    assert int(result.status) == 0
    history = jax.tree.map(np.asarray, result.history)
    np.testing.assert_array_equal(history.context, [*SHIFTS, *SHIFTS[:2]])  # round and round
    np.testing.assert_allclose(result.value, np.linalg.solve(matrices[1].toarray(), RHS[1]), rtol=1e-7)
    for t in (0, 3, T + 1):
        op = linear.interop.from_scipy(matrices[t % T])
        alone = linear.solve(op, RHS[t % T], method=M.sor(ARMS[history.action[t]]), tol=1e-9)
        assert int(alone.steps) == history.steps[t]


@pytest.mark.x64
def test_a_start_from_the_last_solution_and_records_as_contexts():
    contexts = [{"shift": shift, "norm": np.linalg.norm(b)} for shift, b in zip(SHIFTS, RHS)]
    stream = linear.streams.from_systems(SAME[:1] * 3, np.stack([RHS[0]] * 3), contexts[:3], last_solution=True)
    result = _play(stream, 3)
    assert np.asarray(result.history.steps).tolist()[1:] == [0, 0]
    assert result.history.context["norm"].shape == (3,)
    costs, _ = linear.cost_table(jax.random.key(0), stream, M.sor, ARMS, num_rounds=3, tol=1e-9)
    assert costs.shape == (3, 4) and not np.asarray(costs[1:]).any()


def test_other_values_of_the_same_patterns_compile_nothing():
    first, second = (linear.streams.from_systems([a * k for a in OTHER], RHS, SHIFTS) for k in (1.0, 1.5))
    assert jax.tree.structure(first) == jax.tree.structure(second)


# --- what is no list of systems ----------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: linear.streams.from_systems(SAME[0], RHS), TypeError, "must be a list .*, got csr_array"),
        (lambda: linear.streams.from_systems([], RHS), ValueError, "at least one system"),
        (lambda: linear.streams.from_systems([SAME[0], "a"], RHS[:2]), TypeError, r"matrices\[1\] must be .*, got str"),
        (
            lambda: linear.streams.from_systems(SAME, RHS[:4]),
            ValueError,
            r"each of the 5 matrices, got shape \(4, 12\)",
        ),
        (lambda: linear.streams.from_systems(SAME, [*RHS[:4], RHS[4, 1:]]), ValueError, r"\[4\] must .* \(11,\)"),
        (lambda: linear.streams.from_systems(SAME, RHS, SHIFTS[1:]), ValueError, "contexts must have .* 5 matrices"),
        (lambda: linear.streams.from_systems([SAME[0], np.eye(N)], RHS[:2]), ValueError, "Dense.*Sparse"),
        (lambda: linear.streams.from_systems([np.eye(N), np.eye(3)], RHS[:2]), ValueError, "of one size"),
        (lambda: linear.streams.from_systems([np.eye(N), 1j * np.eye(N)], RHS[:2]), TypeError, "real numbers"),
        (lambda: linear.streams.from_systems(_scattered(), np.ones((40, 60))), ValueError, "too little in common"),
        (lambda: jax.jit(lambda a: linear.streams.from_systems([a], RHS[:1]))(np.eye(N)), TypeError, "traced"),
        (lambda: _play(SAME), TypeError, "stream must be a .*Stream .*, got list; .*from_systems"),
        (lambda: _play([O.dense(np.eye(2))]), TypeError, "from_systems"),
        (lambda: _play(Stream(lambda key: jnp.zeros(2), None)), TypeError, "stream.init must return a .*StreamCarry"),
        (lambda: _play(Stream(_start, lambda key, carry, i: (carry, carry))), TypeError, "stream.next must return"),
        (lambda: _play(Stream(_start, lambda key, carry, i: Problem(None, None))), TypeError, "stream.next must ret"),
    ],
)
def test_what_is_no_stream_is_refused_by_name(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.bad_input
@pytest.mark.parametrize("function", [linear.tuned_sequence, linear.cost_table])
def test_a_method_in_the_place_of_its_maker(function):
    stream = linear.streams.from_systems(SAME, RHS)
    middle = (UNIFORM,) if function is linear.tuned_sequence else ()
    for method in (M.sor(1.5), M.cg(), "sor"):
        with pytest.raises(TypeError, match=f"{function.__name__}: method must be a function parameter -> method"):
            function(jax.random.key(0), stream, method, *middle, ARMS, num_rounds=2)
    with pytest.raises(TypeError, match="tuned_sequence: policy must be a .*Policy .*, got str"):
        linear.tuned_sequence(jax.random.key(0), stream, M.sor, "ucb1", ARMS, num_rounds=2)


def _start(key):
    return StreamCarry(jnp.zeros(N))


def _scattered():
    """Each matrix has one pair of entries, all at different places."""
    pairs = [(i, i + 1 + j) for j in range(4) for i in range(40)]
    return [sp.eye_array(60).tocsr() + sp.coo_array(([1.0], ([i], [j])), shape=(60, 60)).tocsr() for i, j in pairs[:40]]
