r"""Tuned sequences: related systems arrive one by one, and a bandit policy picks the solver's parameter for each.

Before solve t the policy sees a context and picks arm $a_t$. The only feedback is the cost of that one solve, by
default its iteration count. A failed solve is charged the step cap however early it ended, or policies would learn to
fail. The whole sequence (problem, choice, solve, update) is one `lax.scan` without callbacks.

Reference: Khodak, Chow, Balcan and Talwalkar 2024, Learning to Relax: Setting Solver Parameters Across a Sequence
of Linear System Instances (ICLR).
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import status, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.policies import round_key, select_among
from jaxsci.core.protocols import Policy, Problem, Stream, StreamCarry
from jaxsci.core.static import check_size, warn_of_new_objects
from jaxsci.core.types import Scalar, as_count
from jaxsci.linear._solve import solve


class TunedState(NamedTuple):
    """Where a tuned sequence stands.

    Attributes:
        policy: the policy's state.
        carry: what the stream carries, with the last solution.
        round: index of the next round, from 0, int32; it names the random keys of that round.
    """

    policy: PyTree
    carry: StreamCarry
    round: Int[Array, ""]


class TunedRecord(NamedTuple):
    """What was chosen in each round, what it cost, and how the solve went: one entry a round, leading axis T.

    In the record of `tuned_step`, which plays one round, there is no axis.

    Attributes:
        action: arm chosen.
        parameter: parameter of that arm, what the method was made with.
        cost: cost that the policy was told; that of a failed solve is computed as if it had taken `max_steps` steps.
        steps: steps done, also where the solve failed.
        residual: ||b - A x||_2 of the solution.
        status: bits of the solve, and NONFINITE_INPUT where the cost is not finite; 0 = ok.
        log_prob: log-probability of the choice, as in `Decision`.
        context: what the policy saw; None where the stream gives none.
        policy_status: ``policy.status`` of the policy's state after the round: what went wrong in the policy.
    """

    action: Int[Array, " T"]
    parameter: PyTree
    cost: Float[Array, " T"]
    steps: Int[Array, " T"]
    residual: Float[Array, " T"]
    status: Int[Array, " T"]
    log_prob: Float[Array, " T"]
    context: PyTree
    policy_status: Int[Array, " T"]


class TunedResult(NamedTuple):
    """A tuned sequence: what it solved last, where it stands, and what happened in each round.

    Attributes:
        value: solution of the last problem.
        state: where to go on; its `policy` is the policy's state.
        history: one entry a round.
        status: bitwise or over the rounds: 0 says that every solve succeeded.
    """

    value: PyTree
    state: TunedState
    history: TunedRecord
    status: Int[Array, ""]


def iterations(result, parameter, context):
    """The default cost of a solve: its number of steps as a float. In a sequence, a failed solve counts `max_steps`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import linear
        >>> result = linear.Result(jnp.zeros(3), jnp.int32(12), jnp.float32(0.0), jnp.int32(0), None)
        >>> print(linear.iterations(result, 1.5, None))
        12.0
    """
    return result.steps.astype(result.residual.dtype)


def _charge(cost, result, max_steps, parameter, context):
    """The cost that the policy is told: that of a failed solve is computed as if it had taken `max_steps` steps."""
    steps = jnp.where(result.status == status.OK, result.steps, max_steps)
    return cost(result._replace(steps=steps), parameter, context)


def tuned_init(key, stream: Stream, policy: Policy) -> TunedState:
    """State before round 0; the policy and the stream start from different keys.

    Args:
        key: typed key; the same one is given to `tuned_step` in every round.

    Example:
        >>> import jax
        >>> from jaxsci import bandits, linear
        >>> stream, policy = linear.streams.shifted_laplacian((4, 4)), bandits.policies.ucb1(3)
        >>> state = linear.tuned_init(jax.random.key(0), stream, policy)
        >>> print(int(state.round), state.carry.solution.shape)
        0 (4, 4)
    """
    key = as_typed_key(key, "tuned_init")
    _check_parts("tuned_init", stream, policy=policy)
    return _init(key, stream, policy)


@eqx.filter_jit
def _init(key, stream, policy):
    return TunedState(policy.init(round_key(key, "policy")), _start(key, stream), jnp.int32(0))


def _start(key, stream) -> StreamCarry:
    carry = stream.init(round_key(key, "stream"))
    if not isinstance(carry, StreamCarry):
        raise TypeError(
            f"tuned_sequence: stream.init must return a core.protocols.StreamCarry, got {type(carry).__name__}"
        )
    return carry


def _next(key, stream, carry, i) -> tuple[StreamCarry, Problem]:
    found = stream.next(round_key(key, "stream", i), carry, i)
    kinds = tuple(type(part) for part in found) if isinstance(found, tuple) else type(found)
    if kinds != (StreamCarry, Problem):
        raise TypeError(
            f"tuned_sequence: stream.next must return (StreamCarry, Problem) of core.protocols, got {kinds}"
        )
    return found


def tuned_step(
    key,
    state: TunedState,
    stream: Stream,
    method,
    policy: Policy,
    arms: Any,
    *,
    cost=iterations,
    tol: Scalar | None = None,
    max_steps: Scalar = 10_000,
    norm_ref: str = "b",
) -> tuple[TunedState, TunedRecord]:
    """One round: draw problem `state.round`, choose, solve, learn. Arguments as in `tuned_sequence`.

    The keys of a round depend on the key and the round's global index alone (`core.policies.round_key`). So stopping
    and going on changes nothing, and policies that are compared at one key meet the same problems.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import bandits, linear
        >>> key, stream = jax.random.key(0), linear.streams.shifted_laplacian((4, 4))
        >>> policy = bandits.policies.ucb1(3)
        >>> state = linear.tuned_init(key, stream, policy)
        >>> arms = jnp.array([1.0, 1.2, 1.4])
        >>> state, record = linear.tuned_step(key, state, stream, linear.methods.sor, policy, arms, tol=1e-4)
        >>> print(int(state.round), int(record.status))
        1 0
    """
    key = as_typed_key(key, "tuned_step")
    _check_parts("tuned_step", stream, method, policy)
    tol, max_steps = None if tol is None else jnp.asarray(tol, float), as_count(max_steps, "tuned_step", "max_steps")
    return _step(key, state, stream, method, policy, _as_arms(arms, "tuned_step"), cost, tol, max_steps, norm_ref)


@eqx.filter_jit
def _step(key, state, stream, method, policy, arms, cost, tol, max_steps, norm_ref: str):
    carry, problem = _next(key, stream, state.carry, state.round)
    num_arms = None if callable(arms) else jax.tree.leaves(arms)[0].shape[0]
    decision = select_among(
        "tuned_sequence", policy, round_key(key, "policy", state.round), state.policy, problem.context, num_arms
    )
    parameter = _parameter(arms, decision.action, problem.context)
    result = solve(
        problem.op, problem.b, problem.x0, method=method(parameter), tol=tol, max_steps=max_steps, norm_ref=norm_ref
    )
    paid = _charge(cost, result, max_steps, parameter, problem.context)
    learnt = policy.update(state.policy, decision, paid, problem.context)
    record = TunedRecord(
        decision.action,
        parameter,
        paid,
        result.steps,
        result.residual,
        result.status | status.flag(~jnp.isfinite(paid), status.NONFINITE_INPUT),
        decision.log_prob,
        problem.context,
        policy.status(learnt),
    )
    return TunedState(learnt, carry._replace(solution=result.value), state.round + 1), record


def tuned_sequence(
    key,
    stream: Stream,
    method,
    policy: Policy,
    arms: Any,
    *,
    num_rounds: int,
    cost=iterations,
    tol: Scalar | None = None,
    max_steps: Scalar = 10_000,
    norm_ref: str = "b",
    state: TunedState | None = None,
) -> TunedResult:
    """Solve `num_rounds` related systems, the parameter of each chosen by a bandit policy: one compiled scan.

    Args:
        key: typed key.
        stream: problems (`linear.streams`; `linear.streams.from_systems` for lists of matrices); its last solution is
            fed back.
        method: parameter -> method, e.g. `linear.methods.sor`, or a `Partial` of one.
        policy: a `core.protocols.Policy` over K arms (`jaxsci.bandits`).
        arms: the parameter of every arm, an array (K,) or a pytree of arrays with leading axis K, traced; or a
            function (action, context) -> parameter, with which a policy of one arm plays a formula.
        num_rounds: T, static.
        cost: (result, parameter, context) -> scalar loss that the policy learns from; iterations by default. If the
            solve failed (its status is not 0), the result that `cost` gets says `max_steps` steps, not those done.
        tol, max_steps, norm_ref: of every solve, see `linear.solve`. Some policies scale costs by the largest one they
            have met. If a failure costs far more than any good arm, they hardly see the differences between good arms:
            choose `max_steps` not far above the worst count that is worth paying.
        state: where to go on, the `state` of an earlier result with the same key; the start by default.

    Returns:
        A `TunedResult` of the last solution, the final `TunedState`, a `TunedRecord` of all rounds and the status of
        all rounds together. A solve that failed and a cost that is not finite set their bits in the round's status,
        trouble inside the policy sets its bits in ``history.policy_status``, and the sequence goes on.

    Raises:
        ValueError: `num_rounds` negative; arms with unequal or no leading axes, or another number of them than the
            policy plays.

    Example:
        >>> from jaxsci import bandits, linear
        >>> arms = jnp.linspace(1.0, 1.95, 20)
        >>> stream = linear.streams.shifted_laplacian((4, 4))
        >>> result = linear.tuned_sequence(
        ...     jax.random.key(0), stream, linear.methods.sor, bandits.policies.tsallis_inf(20, floor=1.0), arms,
        ...     num_rounds=3, tol=1e-4)
        >>> result.value.shape, result.history.steps.shape, int(result.status)
        ((4, 4), (3,), 0)

    References: Khodak et al. 2024, Learning to Relax, section 2 and algorithm 1.
    """
    num_rounds = check_size("tuned_sequence", "num_rounds", num_rounds, least=0)
    key = as_typed_key(key, "tuned_sequence")
    _check_parts("tuned_sequence", stream, method, policy)
    arms = _as_arms(arms, "tuned_sequence")
    tol, max_steps = (
        None if tol is None else jnp.asarray(tol, float),
        as_count(max_steps, "tuned_sequence", "max_steps"),
    )
    return _run(key, stream, method, policy, arms, tol, max_steps, state, num_rounds, cost, norm_ref)


@eqx.filter_jit
def _run(key, stream, method, policy, arms, tol, max_steps, state, num_rounds: int, cost, norm_ref: str):
    state = _init(key, stream, policy) if state is None else state

    def step(state, _):
        return _step(key, state, stream, method, policy, arms, cost, tol, max_steps, norm_ref)

    state, record = jax.lax.scan(step, state, length=num_rounds)
    return TunedResult(state.carry.solution, state, record, status.reduce(record.status))


def cost_table(
    key,
    stream: Stream,
    method,
    arms: Any,
    *,
    num_rounds: int,
    cost=iterations,
    tol: Scalar | None = None,
    max_steps: Scalar = 10_000,
    norm_ref: str = "b",
) -> tuple[Float[Array, "T K"], PyTree]:
    """Cost of every arm on every problem of the stream, and the contexts.

    The table gives the best fixed arm (least column sum), the cost of the best arm for each instance (sum of row
    minima), and the costs on which any policy can be replayed. The first arm's solution is fed back to the stream; the
    solutions of all arms agree to the tolerance.

    Args:
        key, stream, method, arms, num_rounds, cost, tol, max_steps, norm_ref: as in `tuned_sequence`, which meets
            the same problems at the same key; `arms` must be arrays. A solve that failed costs what the cap does.

    Raises:
        ValueError: `num_rounds` negative; arms with unequal or no leading axes.
        TypeError: arms that are a function.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import linear
        >>> stream = linear.streams.shifted_laplacian((4, 4))
        >>> key, arms = jax.random.key(0), jnp.array([1.0, 1.3, 1.9])
        >>> costs, contexts = linear.cost_table(key, stream, linear.methods.sor, arms, num_rounds=5, tol=1e-4)
        >>> print(costs.shape, bool(costs[:, 1].mean() < costs[:, 2].mean()))
        (5, 3) True
    """
    num_rounds = check_size("cost_table", "num_rounds", num_rounds, least=0)
    key = as_typed_key(key, "cost_table")
    _check_parts("cost_table", stream, method)
    if callable(arms):
        raise TypeError("cost_table: arms must be arrays with leading axis K, got a function")
    arms = _as_arms(arms, "cost_table")
    tol, max_steps = None if tol is None else jnp.asarray(tol, float), as_count(max_steps, "cost_table", "max_steps")
    return _table(key, stream, method, arms, tol, max_steps, num_rounds, cost, norm_ref)


@eqx.filter_jit
def _table(key, stream, method, arms, tol, max_steps, num_rounds: int, cost, norm_ref: str):
    def step(carry, i):
        carry, problem = _next(key, stream, carry, i)

        # One arm after the other: in a batch all would wait for the slowest. Only the first arm's solution is kept.
        def play(kept, numbered):
            j, parameter = numbered
            result = solve(
                problem.op,
                problem.b,
                problem.x0,
                method=method(parameter),
                tol=tol,
                max_steps=max_steps,
                norm_ref=norm_ref,
            )
            paid = _charge(cost, result, max_steps, parameter, problem.context)
            return tree.where(j == 0, result.value, kept), paid

        num_arms = jax.tree.leaves(arms)[0].shape[0]
        solution, costs = jax.lax.scan(play, carry.solution, (jnp.arange(num_arms), arms))
        return carry._replace(solution=solution), (costs, problem.context)

    start = _start(key, stream)
    return jax.lax.scan(step, start, jnp.arange(num_rounds, dtype=jnp.int32))[1]


def _parameter(arms, action, context):
    return arms(action, context) if callable(arms) else tree.dynamic_index(arms, action)


def _check_parts(function: str, stream, method=None, policy=None) -> None:
    """Lists, solvers and states in the place of what makes them, before they fail inside the compiled loop."""
    if not (hasattr(stream, "init") and hasattr(stream, "next")):
        raise TypeError(
            f"{function}: stream must be a core.protocols.Stream (linear.streams), got {type(stream).__name__}; "
            "linear.streams.from_systems makes one of lists of matrices and right-hand sides"
        )
    if method is not None:
        warn_of_new_objects(method, function, "method")
    if method is not None and (not callable(method) or hasattr(method, "prepare")):
        raise TypeError(
            f"{function}: method must be a function parameter -> method such as linear.methods.sor, got a "
            f"{type(method).__name__}; for one that takes no parameter pass lambda parameter: linear.methods.cg()"
        )
    if policy is not None and not all(hasattr(policy, name) for name in ("init", "select", "update", "status")):
        raise TypeError(
            f"{function}: policy must be a core.protocols.Policy (jaxsci.bandits), got {type(policy).__name__}"
        )


def _as_arms(arms, function: str):
    if callable(arms):
        return arms
    arms = jax.tree.map(jnp.asarray, arms)
    lengths = {np.shape(a)[0] if np.ndim(a) else None for a in jax.tree.leaves(arms)}
    if len(lengths) != 1 or None in lengths or 0 in lengths:
        raise ValueError(f"{function}: arms need one leading axis of K >= 1 arms, got leading sizes {lengths}")
    return arms
