r"""Exploratory linear-quadratic problems: the optimal policy and the long-run reward of any policy, in closed form.

With $G = B + CD$, $K = N - a_2D^2$ and value $J = \frac12 a_2x^2 + a_1x$ the Hamilton-Jacobi-Bellman equation

$V + \rho J = \sup_\pi \mathbf E_\pi[r + (Ax + Ba)J' + \frac12(Cx + Da)^2J''] + \lambda \mathcal H(\pi)$

is solved by $\pi^* = N((gx + h)/K, \lambda/K)$, $g = a_2G - R$, $h = a_1B - Q$, where $a_2$ is the root of
$g^2 + ((2A + C^2 - \rho)a_2 - M)K = 0$ under which second moments of the controlled state decay.

References: Wang, Zariphopoulou and Zhou 2020, Reinforcement Learning in Continuous Time and Space: A Stochastic Control
Approach (JMLR 21:198), section 4; Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275),
section 5.2.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status, tree
from jaxsci.core.types import Scalar, as_real, as_scalar, float_dtype

_LOG_2PI = math.log(2 * math.pi)

NO_STATIONARY_LAW = status.register(
    "control",
    28,
    "no stationary law",
    "the second moment of the state does not settle: it grows under this policy, or no linear policy can stop it",
    "a policy slope with 2 (A + B slope) + (C + D slope)^2 < discount; for `solution`, a problem that has one",
)


class ExploratoryLQ(NamedTuple):
    r"""$dX = (AX + Ba)dt + (CX + Da)dW$, reward a unit of time $-(\frac12Mx^2 + Rxa + \frac12Na^2 + Px + Qa)$.

    Scalars, all traced; `jax.vmap` over leaves of equal length gives many problems.

    Attributes:
        A: drift of the state for each unit of x.
        B: drift of the state for each unit of the action a.
        C: noise of the state for each unit of x.
        D: noise of the state for each unit of a.
        M: cost of $x^2/2$.
        N: cost of $a^2/2$.
        R: cost of $xa$.
        P: cost of $x$.
        Q: cost of $a$.
        temperature: price $\lambda$ > 0 of the policy's entropy.
        discount: rate $\rho$ >= 0; 0 stands for the long-run average.
    """

    A: ArrayLike
    B: ArrayLike
    C: ArrayLike
    D: ArrayLike
    M: ArrayLike
    N: ArrayLike
    R: ArrayLike
    P: ArrayLike
    Q: ArrayLike
    temperature: ArrayLike
    discount: ArrayLike = 0.0


class GaussianPolicy(NamedTuple):
    """Actions N(slope x + intercept, exp(log_variance)).

    Attributes:
        slope: slope in x of the mean action.
        intercept: mean action at x = 0.
        log_variance: logarithm of the variance of the action, the same at every x.
    """

    slope: Float[ArrayLike, ""]
    intercept: Float[ArrayLike, ""]
    log_variance: Float[ArrayLike, ""]


class Solution(NamedTuple):
    """The optimum, with value a2 x^2 / 2 + a1 x; all is NaN where status is not 0.

    Attributes:
        quadratic: a2.
        linear: a1.
        value: V, the long-run average of reward and temperature times entropy; with a discount the constant term of the
            value is V / discount.
        policy: the optimal policy.
        status: `NO_STATIONARY_LAW`, SINGULAR, OUT_OF_RANGE, NONFINITE_INPUT, see `solution`; 0 = ok.
    """

    quadratic: Float[Array, ""]
    linear: Float[Array, ""]
    value: Float[Array, ""]
    policy: GaussianPolicy
    status: Int[Array, ""]


class Stationary(NamedTuple):
    """The long run under one policy; NaN where status is not 0.

    Attributes:
        value: average reward a unit of time, with temperature times entropy when that was asked for.
        mean: mean E X of the state.
        second_moment: E X^2.
        status: `NO_STATIONARY_LAW`, OUT_OF_RANGE, NONFINITE_INPUT; 0 = ok.
    """

    value: Float[Array, ""]
    mean: Float[Array, ""]
    second_moment: Float[Array, ""]
    status: Int[Array, ""]


def as_scalars(function: str, argument: str, record, dtype):
    """The NamedTuple `record` with every field a scalar array of `dtype`; any other shape raises."""
    pairs = zip(record._fields, record)
    return type(record)(*(as_scalar(value, function, f"{argument}.{name}", dtype) for name, value in pairs))


def trouble(problem: ExploratoryLQ, dt, *others) -> Int[Array, ""]:
    """Status of the inputs: finite, temperature > 0, discount and dt >= 0."""
    outside = (problem.temperature <= 0) | (problem.discount < 0) | (dt < 0)
    return status.flag(~tree.all_finite((problem, dt, others)), status.NONFINITE_INPUT) | status.flag(
        outside, status.OUT_OF_RANGE
    )


def solution(problem: ExploratoryLQ, *, dt: Scalar = 0.0) -> Solution:
    r"""Value and policy that maximise reward plus temperature times entropy.

    Args:
        problem: `ExploratoryLQ` of scalars, traced.
        dt: time step, traced; 0 is continuous time. With dt > 0 the optimum of the Euler-Maruyama chain, which is
            the fixed point that both learners approach at that step: $C^2, CD, D^2$ become $C^2 + A^2dt, CD + ABdt,
            D^2 + B^2dt$.

    Returns:
        A `Solution`. Status bits: `NO_STATIONARY_LAW` if no linear policy is optimal and stable, singular if
        $N - a_2D^2 \le 0$ (the reward is unbounded in the action), out of range for a temperature that is not
        positive or a negative discount, non-finite input. a2 is negative whenever MN > R^2.

    Raises:
        ValueError: a field of `problem` is not a scalar.

    Differentiable in every field of `problem`.

    Example:
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> best = exploratory.solution(problem)
        >>> print(f"{best.quadratic:.5f} {best.policy.slope:.5f} {best.policy.intercept:.5f} {best.value:.5f}")
        -0.82288 -0.35425 -0.70850 0.63337

    References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275), section 5.2.
    """
    dtype = float_dtype(problem)
    problem = as_scalars("exploratory.solution", "problem", problem, dtype)
    return _solution(problem, as_real(dt, dtype))


@eqx.filter_jit
def _solution(problem: ExploratoryLQ, dt) -> Solution:
    A, B, C, D, M, N, R, P, Q, temperature, discount = problem
    square = D**2 + dt * B**2
    coupling = B + C * D + dt * A * B
    growth = 2 * A + C**2 + dt * A**2 - discount
    # two a2^2 + one a2 + zero = 0, the lower root: there the derivative is -sqrt(discriminant), and it equals K times
    # the growth rate of second moments, so that K > 0 makes this root, and no other, the stable one.
    two = coupling**2 - growth * square
    one = growth * N + M * square - 2 * coupling * R
    zero = R**2 - M * N
    discriminant = one**2 - 4 * two * zero
    unstable = (discriminant <= 0) | (two < 0) | ((two == 0) & (one >= 0))
    spread = jnp.sqrt(jnp.where(discriminant > 0, discriminant, 1))
    # Two forms of the root, each without cancellation on its side; the other side gets a harmless denominator.
    a2 = jnp.where(
        one >= 0,
        -(one + spread) / jnp.where((one >= 0) & (two != 0), 2 * two, 1),
        2 * zero / jnp.where(one < 0, spread - one, 1),
    )
    curvature = N - a2 * square
    flat = curvature <= 0
    bad = trouble(problem, dt) | status.flag(unstable, NO_STATIONARY_LAW) | status.flag(flat, status.SINGULAR)
    wrong = bad != status.OK
    K = jnp.where(wrong, 1, curvature)
    slope = (a2 * coupling - R) / K
    a1 = (Q * slope + P) / jnp.where(wrong, 1, A + B * slope - discount)
    intercept = (a1 * B - Q) / K
    log_variance = jnp.log(jnp.where(wrong, 1, temperature) / K)
    value = K * intercept**2 / 2 + temperature / 2 * (_LOG_2PI + log_variance)
    answers = (a2, a1, value, slope, intercept, log_variance)
    overflow = ~wrong & ~tree.all_finite(answers)
    bad = bad | status.flag(overflow, status.NONFINITE_RESULT)
    a2, a1, value, *policy = (jnp.where(wrong | overflow, jnp.nan, x) for x in answers)
    return Solution(a2, a1, value, GaussianPolicy(*policy), bad)


def entropy_of(log_variance):
    """Entropy of a normal law, (ln 2 pi + 1 + log_variance) / 2."""
    return (_LOG_2PI + 1 + log_variance) / 2


def reward(problem: ExploratoryLQ, x, a):
    """Reward a unit of time, -(M x^2 / 2 + R x a + N a^2 / 2 + P x + Q a)."""
    return -(problem.M * x**2 / 2 + problem.R * x * a + problem.N * a**2 / 2 + problem.P * x + problem.Q * a)


def average_reward(
    problem: ExploratoryLQ, policy: GaussianPolicy, *, dt: Scalar = 0.0, entropy: bool = True
) -> Stationary:
    r"""Long-run average reward of a Gaussian policy, from the first two moments of the stationary state.

    With $k = A + B\phi_1$, $c = C + D\phi_1$, $d = D\phi_2$, $v = e^{\phi_3}$: $m = -B\phi_2/k$ and
    $(2k + c^2)s + 2(B\phi_2 + cd)m + d^2 + D^2v = 0$ for $s = \mathbf EX^2$; a time step adds
    $dt\,\mathbf E(AX + Ba)^2$.

    Args:
        problem: `ExploratoryLQ` of scalars, traced; its discount is not used.
        policy: slope, intercept, log_variance, traced.
        dt: time step of the Euler-Maruyama chain, traced; 0 is continuous time.
        entropy: add temperature times the entropy of the policy. Static.

    Returns:
        A `Stationary`. Status bits: `NO_STATIONARY_LAW` when second moments grow; out of range, non-finite input or
        result.

    Raises:
        ValueError: a field of `problem` or `policy` is not a scalar.

    Differentiable in every field of `problem` and `policy`.

    Example:
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> best = exploratory.solution(problem).policy
        >>> print(f"{exploratory.average_reward(problem, best, entropy=False).value:.5f}")
        0.65850
    """
    function, dtype = "exploratory.average_reward", float_dtype(problem, policy)
    problem = as_scalars(function, "problem", problem, dtype)
    policy = as_scalars(function, "policy", policy, dtype)
    return _average(problem, policy, as_real(dt, dtype), entropy)


@eqx.filter_jit
def _average(problem: ExploratoryLQ, policy: GaussianPolicy, dt, entropy: bool) -> Stationary:
    A, B, C, D, M, N, R, P, Q, temperature, _ = problem
    slope, intercept, log_variance = policy
    variance = jnp.exp(log_variance)
    drift, push = A + B * slope, B * intercept
    noise, shift = C + D * slope, D * intercept
    decay = 2 * drift + noise**2 + dt * drift**2
    bad = trouble(problem, dt, policy) | status.flag(~(decay < 0), NO_STATIONARY_LAW)
    wrong = bad != status.OK
    mean = -push / jnp.where(wrong, -1, drift)
    sources = 2 * (push * (1 + dt * drift) + noise * shift) * mean + shift**2 + D**2 * variance
    sources = sources + dt * (push**2 + B**2 * variance)
    second = -sources / jnp.where(wrong, -1, decay)
    action_mean = slope * mean + intercept
    cross = slope * second + intercept * mean
    action_second = slope * cross + intercept * action_mean + variance
    value = -(M * second / 2 + R * cross + N * action_second / 2 + P * mean + Q * action_mean)
    if entropy:
        value = value + temperature * entropy_of(log_variance)
    bad = bad | status.flag(~wrong & ~jnp.isfinite(value), status.NONFINITE_RESULT)
    return Stationary(*(jnp.where(wrong, jnp.nan, x) for x in (value, mean, second)), bad)


__all__ = [
    "NO_STATIONARY_LAW",
    "ExploratoryLQ",
    "GaussianPolicy",
    "Solution",
    "Stationary",
    "average_reward",
    "solution",
]
