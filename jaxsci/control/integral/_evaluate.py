r"""Integral policy evaluation: the value of a policy from stretches of one trajectory.

For every interval $[t_i, t_i + \Delta]$ of a trajectory under the policy, $V(x(t_i)) - V(x(t_i+\Delta))$ equals the
cost paid in it. With $V = w^\top\varphi$ that is one linear equation in w; a pseudo-inverse solves the rows. The cost
is either integrated beside the state (dynamics known, ``rule=None``) or from samples by a quadrature rule. It starts
from zero in every interval: a running total would hide the late, small costs behind its own tolerance.

Reference: Vrabie and Lewis 2009, Neural Networks 22, section 4; Impact of Computation in Integral Reinforcement
Learning for Continuous-Time Control, ICLR 2024 (the rule's error is the limit's error).
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.control.integral._problem import ControlAffine, cost_trouble, policy
from jaxsci.core import precision, status, tree
from jaxsci.core.extras import require
from jaxsci.core.types import Scalar, as_real, float_dtype, is_concrete, require_double

UNSTABLE = status.register(
    "control",
    20,
    "unstable policy",
    "the state grew beyond max_growth, or the policy's value function is not positive",
    "start from weights whose policy stabilises the system; more accurate integrals if it was stable before",
)
RANK_LOST = status.register(
    "control",
    21,
    "rank lost",
    "the rows span fewer directions than the features have",
    "more rows, reset_state, scale_rows, another start, or rank= the number of independent features",
)
MISPLACED_RULE = status.register(
    "control",
    26,
    "rule elsewhere",
    "the nodes of the rule leave [0, interval] or are not in order, or its weights do not sum to the interval",
    "build the rule on the interval, e.g. quadrature.rules.simpson(5, 0.0, interval)",
)

_ROWS_DROWN = "in which the rows drown in rounding errors"
# A value function is taken for not positive when it falls below minus this share of its largest size.
_NEGATIVE = 1e-6
# Weights of a rule may add up to this share of the interval more or less than it: those of few Bayesian nodes do.
_WEIGHED = 0.1


class Evaluation(NamedTuple):
    r"""What one policy evaluation found.

    Attributes:
        weights: w of the value $w^\top\varphi$ of the evaluated policy; 0 where a solve failed.
        x: state after the last interval.
        differences: rows $\varphi(x(t_i)) - \varphi(x(t_i + \Delta))$, as measured: never scaled.
        integrals: cost of each interval, as measured.
        residual: norm of the least-squares residual, of scaled rows with `scale_rows`.
        rank: singular values kept, int32.
        status: bits listed at `evaluate`; 0 = ok.
    """

    weights: Float[Array, " p"]
    x: Float[Array, " d"]
    differences: Float[Array, "num_rows p"]
    integrals: Float[Array, " num_rows"]
    residual: Float[Array, ""]
    rank: Int[Array, ""]
    status: Int[Array, ""]


class Settings(NamedTuple):
    r"""The traced numbers of an evaluation, scalars.

    Attributes:
        interval: length $\Delta$ of an interval.
        cutoff: singular values below this share of the largest are dropped.
        rtol: relative tolerance of the ODE solver.
        atol: absolute tolerance of the ODE solver.
        max_growth: the state may grow to this many times its start.
    """

    interval: Array
    cutoff: Array
    rtol: Array
    atol: Array
    max_growth: Array


def evaluate(
    problem: ControlAffine,
    features: Callable[[Array], Array],
    weights: Float[ArrayLike, " p"],
    x: Float[ArrayLike, " d"],
    *,
    rule: tuple[ArrayLike, ArrayLike] | None,
    interval: Scalar = 0.1,
    num_rows: int = 20,
    rank: int | None = None,
    scale_rows: bool = False,
    cutoff: Scalar = 1e-13,
    rtol: Scalar = 1e-10,
    atol: Scalar = 1e-12,
    max_growth: Scalar = 1e6,
    max_ode_steps: int = 4096,
    allow_float32: bool = False,
) -> Evaluation:
    r"""Value of the policy that is greedy for `weights`, from `num_rows` intervals in a row that start at `x`.

    $w^\top[\varphi(x(t_i)) - \varphi(x(t_i + \Delta))] = \int_{t_i}^{t_i+\Delta} x^\top Qx + u^\top Ru\,dt$ for all i.

    Args:
        problem: `ControlAffine`.
        features: ``x -> (p,)``, traced once for each use.
        weights: of the value function whose greedy policy is evaluated, (p,), traced.
        x: start of the trajectory, (d,), traced.
        rule: (nodes, weights) on [0, interval], each (n,), traced; the nodes are true ends of solver steps. None
            integrates the cost as one more state instead.
        interval: Delta > 0, traced.
        num_rows: number of intervals, static; at least `rank`.
        rank: how many features are linearly independent, static; all by default. With `kronecker` features
            d (d + 1) / 2.
        scale_rows: divide every row by its norm, static: late, small rows then count as much as early ones.
        cutoff: singular values below this share of the largest are dropped, traced.
        rtol, atol: tolerances of the ODE solver (Tsitouras 5/4), traced.
        max_growth: the state may grow to this many times its start, infinity for any; traced.
        max_ode_steps: cap in one interval, static.
        allow_float32: run in float32 nevertheless, static.

    Returns:
        An `Evaluation`; its weights are finite, 0 where a solve failed. Status bits: non-finite input, out of range
        (an interval that is not positive), rule elsewhere (nodes that are not increasing or leave it, weights whose sum
        misses it by more than a tenth), unfit costs (not symmetric, or R negative), singular (R), step cap, unstable
        policy, rank lost.

    Raises:
        TypeError: a rule that is no pair (nodes, weights).
        ValueError: shapes that do not fit; fewer rows than `rank`; float32 without `allow_float32`; a concrete rule
            that does not stand on the interval.
        ImportError: the extra "ode" is missing.

    Forward-differentiable only (the solver runs in forward mode).

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> from jaxsci.control import integral
        >>> problem = integral.linear_quadratic([[-1.0]], [[1.0]], [[1.0]], [[1.0]])
        >>> rule = quadrature.rules.simpson(5, 0.0, 0.1)
        >>> found = integral.evaluate(problem, integral.quadratic, jnp.zeros(1), jnp.ones(1), rule=rule, num_rows=3,
        ...     rtol=1e-5, atol=1e-6, allow_float32=True)  # u = 0: V = x^2 / 2
        >>> print(f"{found.weights[0]:.3f} {found.status}")
        0.500 0

    References: Vrabie and Lewis 2009, section 4, equations 23 to 27.
    """
    weights, x, rule, settings, rank = prepare(
        "evaluate", problem, features, weights, x, rule, (interval, cutoff, rtol, atol, max_growth), num_rows, rank,
        allow_float32,
    )  # fmt: skip
    static = (num_rows, rank, scale_rows, max_ode_steps)
    return _evaluate(problem, features, weights, x, rule, settings, static)


def prepare(function, problem, features, weights, x, rule, numbers, num_rows, rank, allow_float32):
    """Shapes checked, dtype chosen, numbers made arrays: (weights, x, rule, Settings, rank)."""
    dtype = float_dtype(weights, x, problem.state_cost, problem.control_cost, problem.args)
    require_double(function, dtype, allow_float32, _ROWS_DROWN)
    weights, x = as_real(weights, dtype), as_real(x, dtype)
    d = x.shape[0] if x.ndim == 1 else -1
    p = weights.shape[0] if weights.ndim == 1 else -1
    if x.ndim != 1 or weights.ndim != 1:
        raise ValueError(
            f"{function}: expected weights (p,) and x (d,), got {weights.shape} and {x.shape}; use jax.vmap for a batch"
        )
    m = jnp.shape(problem.control_cost)[0]
    outputs = (
        ("features(x)", eqx.filter_eval_shape(features, x), (p,)),
        ("problem.drift(x, args)", eqx.filter_eval_shape(problem.drift, x, problem.args), (d,)),
        ("problem.input_matrix(x, args)", eqx.filter_eval_shape(problem.input_matrix, x, problem.args), (d, m)),
        ("problem.state_cost", problem.state_cost, (d, d)),
        ("problem.control_cost", problem.control_cost, (m, m)),
    )
    for name, got, expected in outputs:
        if jnp.shape(got) != expected:
            raise ValueError(f"{function}: {name} must have shape {expected}, got {jnp.shape(got)}")
    if rule is not None:
        rule = checked_rule(function, rule, dtype, numbers[0])
    rank = p if rank is None else rank
    if not 1 <= rank <= p:
        raise ValueError(f"{function}: rank must lie in [1, {p}], the number of features, got {rank}")
    if num_rows < rank:
        raise ValueError(f"{function}: num_rows must be at least the rank {rank}, got {num_rows}")
    return weights, x, rule, Settings(*(as_real(v, dtype) for v in numbers)), rank


def checked_rule(function, rule, dtype, interval):
    """Nodes and weights of one rule on [0, interval] as arrays.

    Raises:
        TypeError: no pair of arrays.
        ValueError: other shapes, or concrete numbers that show that the rule stands elsewhere.
    """
    if isinstance(rule, str) or not isinstance(rule, (tuple, list)) or len(rule) != 2:
        raise TypeError(
            f"{function}: rule must be a pair (nodes, weights), e.g. quadrature.rules.simpson(5, 0.0, interval), "
            f"got {rule!r}"
        )
    nodes, weights = (as_real(a, dtype) for a in rule)
    if nodes.ndim != 1 or nodes.shape != weights.shape:
        raise ValueError(
            f"{function}: rule must be (nodes, weights) of one shape (n,), got {nodes.shape} and {weights.shape}; "
            "use jax.vmap over a stack of rules"
        )
    if is_concrete((nodes, weights, interval)) and np.isfinite([*nodes, *weights, np.asarray(interval)]).all():
        _, code = rule_trouble((nodes, weights), jnp.asarray(interval, dtype))
        if code:
            raise ValueError(
                f"{function}: rule must stand on [0, interval] with interval = {float(interval):g} > 0, nodes in order "
                f"and weights that sum to it; got nodes in [{float(jnp.min(nodes)):g}, {float(jnp.max(nodes)):g}] and "
                f"a sum of weights of {float(jnp.sum(weights)):g}; see quadrature.rules.simpson(5, 0.0, interval)"
            )
    return nodes, weights


def rule_trouble(rule, interval):
    """The nodes in order inside [0, interval], and the status of a rule that is said to stand there.

    A rule for another interval gives finite numbers and wrong ones: its nodes, or the sum of its weights, tell.
    """
    code = status.flag(interval <= 0, status.OUT_OF_RANGE)
    if rule is None:
        return None, code
    nodes, weights = rule
    ordered = jnp.sort(jnp.clip(nodes, 0, interval))
    # Nodes that were computed by other steps than the interval miss its ends by a rounding error.
    moved = jnp.abs(ordered - nodes) > 8 * jnp.finfo(nodes.dtype).eps * interval
    missed = jnp.abs(jnp.sum(weights) - interval) > _WEIGHED * interval
    return ordered, code | status.flag(jnp.any(moved) | missed, MISPLACED_RULE)


@eqx.filter_jit
def _evaluate(problem, features, weights, x, rule, settings, static) -> Evaluation:
    return evaluation(problem, features, weights, x, rule, settings, static)


def evaluation(problem, features, weights, x, rule, settings: Settings, static) -> Evaluation:
    """The body of `evaluate`, for use in a loop that is compiled already."""
    num_rows, rank, scale_rows, max_ode_steps = static
    given = settings._replace(max_growth=jnp.where(settings.max_growth == jnp.inf, 0, settings.max_growth))
    code = status.flag(~tree.all_finite((weights, x, rule, given)), status.NONFINITE_INPUT)
    ordered, misplaced = rule_trouble(rule, settings.interval)
    rule = None if rule is None else (ordered, rule[1])
    Q, R = (jnp.asarray(M, x.dtype) for M in (problem.state_cost, problem.control_cost))
    useless = cost_trouble(Q, R)
    # Such costs are put aside, so that what is left to run is short and finite.
    Q, R = (jnp.where(useless == status.OK, M, jnp.eye(M.shape[0], dtype=M.dtype)) for M in (Q, R))
    problem = problem._replace(state_cost=Q, control_cost=R)
    code = code | misplaced | useless
    origin = features(jnp.zeros_like(x))
    limit = settings.max_growth * jnp.linalg.norm(x)

    def interval(carry, _):
        x, code = carry
        # After a failure the rest runs from the origin, where nothing happens and no steps are wasted.
        start = jnp.where(code == status.OK, x, 0)
        end, cost, solved = _stretch(problem, features, weights, start, rule, settings, max_ode_steps)
        good = jnp.all(jnp.isfinite(end)) & jnp.isfinite(cost)
        code = code | status.flag(~solved, status.MAX_STEPS) | status.flag(~good, status.NONFINITE_RESULT | UNSTABLE)
        code = code | status.flag(good & (jnp.linalg.norm(end) > limit), UNSTABLE)
        usable = code == status.OK
        row = jnp.where(usable, features(start) - features(end), 0)
        return (jnp.where(usable, end, x), code), (row, jnp.where(usable, cost, 0), features(x) - origin)

    (end, code), (rows, costs, visited) = jax.lax.scan(interval, (x, code), None, length=num_rows)
    found = _solve_rows(features, rows, costs, visited, end, code, settings.cutoff, rank, scale_rows)
    # A state that moves away leaves rows that span too little: that is the cause, and the lost rank its sign.
    leaves = (found.status & RANK_LOST != 0) & (jnp.linalg.norm(end) > jnp.linalg.norm(x))
    return found._replace(status=found.status | status.flag(leaves, UNSTABLE))


def _solve_rows(features, rows, costs, visited, end, code, cutoff, rank: int, scale_rows: bool) -> Evaluation:
    """Weights from rows and costs; `visited` are features along the trajectory, less those of the origin."""
    found, residual, kept = _least_squares(rows, costs, cutoff, scale_rows)
    code = code | status.flag((kept < rank) & (code == status.OK), RANK_LOST)

    # The value of a stabilising policy is positive along the trajectory, and its curvature at rest is not negative.
    values = precision.matmul(visited, found)
    curvature = jnp.linalg.eigvalsh(jax.hessian(lambda y: jnp.dot(found, features(y)))(jnp.zeros_like(end)))
    negative = _falls_below(values) | _falls_below(curvature)
    code = code | status.flag(negative & (code == status.OK), UNSTABLE)
    return Evaluation(found, end, rows, costs, residual, kept, code)


def evaluate_samples(
    problem: ControlAffine,
    features: Callable[[Array], Array],
    weights: Float[ArrayLike, " p"],
    samples: Float[ArrayLike, "num_rows n d"],
    rule_weights: Float[ArrayLike, " n"],
    *,
    starts: Float[ArrayLike, "num_rows d"],
    ends: Float[ArrayLike, "num_rows d"],
    rank: int | None = None,
    scale_rows: bool = False,
    cutoff: Scalar = 1e-13,
    allow_float32: bool = False,
) -> Evaluation:
    r"""Value of the policy that is greedy for `weights`, from states measured under it: the drift is never used.

    $w^\top[\varphi(x_i(0)) - \varphi(x_i(\Delta))] = \sum_j \omega_j\,(x^\top Qx + u^\top Ru)(x_i(t_j))$ for all i.

    Args:
        problem: `ControlAffine`; only its costs and its input matrix are used.
        features: ``x -> (p,)``.
        weights: of the value function whose greedy policy moved the system, (p,), traced.
        samples: states at the rule's nodes in every interval, (num_rows, n, d), traced. The intervals need not follow
            one another.
        rule_weights: of the quadrature rule on one interval, (n,), traced.
        starts, ends: states at both ends of every interval, (num_rows, d), traced. With nodes at both ends of the
            rule they are ``samples[:, 0]`` and ``samples[:, -1]``; Gauss rules have none there.
        rank, scale_rows, cutoff, allow_float32: as for `evaluate`.

    Returns:
        An `Evaluation` whose x is the last end. Status bits: non-finite input or result, unfit costs (not symmetric,
        or R negative), singular (R), unstable policy, rank lost.

    Raises:
        ValueError: shapes that do not fit; fewer rows than `rank`; float32 without `allow_float32`.

    Differentiable in everything.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci import quadrature
        >>> from jaxsci.control import integral
        >>> problem = integral.linear_quadratic([[jnp.nan]], [[1.0]], [[1.0]], [[1.0]])  # not known
        >>> t, w = quadrature.rules.simpson(5, 0.0, 0.1)
        >>> measured = jnp.exp(-jnp.asarray(t))[None, :, None]  # x' = -x without control: V = x^2 / 2
        >>> found = integral.evaluate_samples(problem, integral.quadratic, jnp.zeros(1), measured, w,
        ...     starts=measured[:, 0], ends=measured[:, -1], allow_float32=True)
        >>> print(f"{found.weights[0]:.3f} {found.status}")
        0.500 0

    References: Vrabie and Lewis 2009, section 4, equations 23 to 27.
    """
    function = "evaluate_samples"
    dtype = float_dtype(weights, samples, problem.state_cost, problem.control_cost)
    require_double(function, dtype, allow_float32, _ROWS_DROWN)
    weights, samples, rule_weights = (as_real(a, dtype) for a in (weights, samples, rule_weights))
    if samples.ndim != 3 or rule_weights.shape != samples.shape[1:2]:
        raise ValueError(
            f"{function}: expected samples (num_rows, n, d) and rule_weights (n,), got {samples.shape} and "
            f"{rule_weights.shape}"
        )
    starts, ends = as_real(starts, dtype), as_real(ends, dtype)
    num_rows, _, d = samples.shape
    for name, value in (("starts", starts), ("ends", ends)):
        if value.shape != (num_rows, d):
            raise ValueError(f"{function}: expected {name} of shape {(num_rows, d)}, got {value.shape}")
    p = jnp.shape(eqx.filter_eval_shape(features, starts[0]))
    if len(p) != 1 or weights.shape != p:
        raise ValueError(f"{function}: features(x) and weights must have one shape (p,), got {p} and {weights.shape}")
    rank = p[0] if rank is None else rank
    if not 1 <= rank <= p[0] or num_rows < rank:
        raise ValueError(f"{function}: rank must lie in [1, {min(p[0], num_rows)}], got {rank}")
    numbers = (weights, samples, rule_weights, starts, ends, as_real(cutoff, dtype))
    return _evaluate_samples(problem, features, numbers, rank, scale_rows)


@eqx.filter_jit
def _evaluate_samples(problem, features, numbers, rank: int, scale_rows: bool) -> Evaluation:
    weights, samples, rule_weights, starts, ends, cutoff = numbers
    code = status.flag(~tree.all_finite(numbers), status.NONFINITE_INPUT)
    code = code | cost_trouble(*(jnp.asarray(M, weights.dtype) for M in (problem.state_cost, problem.control_cost)))
    # A NaN would reach the decomposition: run it on zeros and report.
    samples, starts, ends = (jnp.where(code == status.OK, a, 0) for a in (samples, starts, ends))
    paid = jax.vmap(jax.vmap(lambda x: _running_cost(problem, policy(problem, features, weights, x), x)))(samples)
    lost = (code == status.OK) & ~jnp.all(jnp.isfinite(paid))
    code = code | status.flag(lost, status.NONFINITE_RESULT)
    costs = jnp.where(code == status.OK, precision.matmul(paid, rule_weights), 0)
    at_start, at_end = jax.vmap(features)(starts), jax.vmap(features)(ends)
    visited = at_start - features(jnp.zeros_like(starts[0]))[None]
    return _solve_rows(features, at_start - at_end, costs, visited, ends[-1], code, cutoff, rank, scale_rows)


def _running_cost(problem, u, x):
    q, r = problem.state_cost, problem.control_cost
    return precision.matmul(x, precision.matmul(q, x)) + precision.matmul(u, precision.matmul(r, u))


def _falls_below(values):
    return jnp.min(values) < -_NEGATIVE * jnp.max(jnp.abs(values))


def _stretch(problem, features, weights, x, rule, settings: Settings, max_ode_steps):
    """One interval from x: the state at its end, the cost paid, and whether the solver got there."""
    diffrax = require("diffrax", "ode", "control.integral")

    def running(x):
        u = policy(problem, features, weights, x)
        g = problem.input_matrix(x, problem.args)
        velocity = problem.drift(x, problem.args) + precision.matmul(g, u)
        return velocity, _running_cost(problem, u, x)

    controller = diffrax.PIDController(rtol=settings.rtol, atol=settings.atol)
    if rule is None:
        field, y0, saveat = (lambda t, y, _: running(y[0])), (x, jnp.zeros((), x.dtype)), diffrax.SaveAt(t1=True)
    else:
        field, y0, saveat = (lambda t, y, _: running(y)[0]), x, diffrax.SaveAt(ts=rule[0], t1=True)
        # Samples at ends of steps: an interpolant would be of lower order than the solver.
        controller = diffrax.ClipStepSizeController(controller, step_ts=rule[0])
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field), diffrax.Tsit5(), jnp.zeros_like(settings.interval), settings.interval, None, y0,
        saveat=saveat, stepsize_controller=controller, adjoint=diffrax.ForwardMode(), max_steps=max_ode_steps,
        throw=False,
    )  # fmt: skip
    solved = solution.result == diffrax.RESULTS.successful
    if rule is None:
        states, cost = solution.ys
        return states[-1], cost[-1], solved
    samples = jax.vmap(lambda y: running(y)[1])(solution.ys[:-1])
    return solution.ys[-1], precision.matmul(rule[1], samples), solved


def _least_squares(rows, costs, cutoff, scale_rows: bool):
    """Minimum-norm solution with an explicit cutoff: (w, residual norm, rank)."""
    if scale_rows:
        norms = jnp.linalg.norm(rows, axis=1)
        scale = jnp.where(norms > 0, norms, 1)
        rows, costs = rows / scale[:, None], costs / scale
    u, s, vt = jnp.linalg.svd(rows, full_matrices=False)
    keep = s > cutoff * s[0]
    inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1), 0)
    w = precision.matmul(vt.T, inverse * precision.matmul(u.T, costs))
    residual = jnp.linalg.norm(precision.matmul(rows, w) - costs)
    return w, residual, jnp.sum(keep, dtype=jnp.int32)


__all__ = [
    "MISPLACED_RULE",
    "RANK_LOST",
    "UNSTABLE",
    "Evaluation",
    "Settings",
    "checked_rule",
    "evaluate",
    "evaluate_samples",
    "evaluation",
    "prepare",
]
