r"""Two learners of the exploratory problem: actor-critic and q-learning, each one increment of six numbers a step.

Both rest on the martingale condition $\mathbf E\,\xi_t\{dJ(X_t) + (r_t + \text{bonus} - \rho J - V)dt\} = 0$ for every
test function $\xi$ known at time t, with $J = \frac12\theta_2x^2 + \theta_1x$. One step of size dt has the increment
$\delta = J(x') - J(x) + (r + \text{bonus} - \rho J(x) - V)dt$ and changes

* $\theta$ and $V$ by $\delta$ times $(\frac12x^2, x)$ and 1: continuous-time TD(0);
* actor-critic (bonus $\lambda\mathcal H$): the policy $N(\phi_1x + \phi_2, e^{\phi_3})$ by
  $\partial_\phi\ln\pi\;\delta + \lambda\,\partial_\phi\mathcal H\,dt$;
* q-learning (bonus $-q$): the rate of advantage $q(x,a) = -\frac12e^{-\psi_3}(a - \psi_1x - \psi_2)^2 -
  \frac\lambda2(\ln 2\pi\lambda + \psi_3)$ by $\partial_\psi q\;\delta$; its policy is
  $e^{q/\lambda} = N(\psi_1x + \psi_2, \lambda e^{\psi_3})$.

No step divides by dt: one rate serves all time steps. Since $q = \lambda\ln\pi$, q-learning on its own actions moves
like the actor-critic with $\lambda$ times its rates; what it adds is that the actions may come from elsewhere.

References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275), section 5.2; Jia and Zhou 2023,
q-Learning in Continuous Time (JMLR 24:161), section 4.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Float

from jaxsci.control.exploratory._problem import _LOG_2PI, GaussianPolicy, as_scalars, entropy_of
from jaxsci.core import entry
from jaxsci.core.static import as_partial, bind
from jaxsci.core.types import Scalar, as_real, as_scalar, float_dtype


class Parameters(NamedTuple):
    """What is learnt: the value theta_2 x^2 / 2 + theta_1 x, and a policy of normal actions.

    Attributes:
        quadratic: theta_2 of the value.
        linear: theta_1 of the value.
        value: V: average reward with entropy; with a discount rho, rho times the constant term of the value.
        slope: slope in x of the mean action.
        intercept: mean action at x = 0.
        log_scale: of the actor-critic the log-variance of the action; of q-learning psi_3, the log-variance less log
            temperature.
    """

    quadratic: Float[ArrayLike, "*n"] = 0.0
    linear: Float[ArrayLike, "*n"] = 0.0
    value: Float[ArrayLike, "*n"] = 0.0
    slope: Float[ArrayLike, "*n"] = 0.0
    intercept: Float[ArrayLike, "*n"] = 0.0
    log_scale: Float[ArrayLike, "*n"] = 0.0


class Learner(eqx.Module):
    """A rule that turns transitions into increments of `Parameters`.

    Attributes:
        start: the first parameters.
        low: lower bounds: parameters are projected onto the box after every step.
        high: upper bounds of the box.
        policy: ``policy(parameters, temperature) -> GaussianPolicy``.
        change: ``change(parameters, transition, time, temperature, discount, dt) -> Parameters``: the increment that
            one transition (x, a, r, x') gives at an elapsed time.
        off_policy: whether transitions may come from another policy than the learner's own.
    """

    start: Parameters
    low: Parameters
    high: Parameters
    policy: Callable
    change: Callable
    off_policy: bool = eqx.field(static=True)


def power_decay(*, scale: Scalar = 10.0, power: Scalar = 0.67) -> Partial:
    """Learning-rate schedule (1 + t / scale)^(-power) of elapsed time t.

    Args:
        scale: time > 0 during which the rate stays near its start, traced.
        power: in (1/2, 1] for convergence, traced.

    Example:
        >>> from jaxsci.control import exploratory
        >>> print(f"{exploratory.power_decay(scale=10., power=1.)(30.):.3f}")
        0.250
    """
    dtype = float_dtype(scale, power)
    return Partial(_power_decay, as_real(scale, dtype), as_real(power, dtype))


def _power_decay(scale, power, t):
    return (1 + t / scale) ** -power


def log_decay() -> Partial:
    """Learning-rate schedule 1 / max(1, ln t) of elapsed time t.

    Example:
        >>> from jaxsci.control import exploratory
        >>> print(f"{exploratory.log_decay()(1.):.3f} {exploratory.log_decay()(100.):.3f}")
        1.000 0.217

    References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275), section 5.2.
    """
    return Partial(_log_decay)


def _log_decay(t):
    return 1 / jnp.maximum(1, jnp.log(jnp.maximum(1, t)))


def actor_critic(
    *,
    critic_rate: Scalar = 0.1,
    value_rate: Scalar = 0.1,
    actor_rate: Scalar = 0.01,
    scale_rate: Scalar = 0.3,
    schedule: Callable[[Any], Any] | None = None,
    start: Parameters | None = None,
    low: Parameters | None = None,
    high: Parameters | None = None,
    test_scale: Scalar = jnp.inf,
    max_change: Scalar = jnp.inf,
) -> Learner:
    r"""Online actor-critic with a TD(0) critic; learns from its own actions only.

    The rates below were tuned on the problem of the example. Larger ones learn faster until a slope with
    $2(A + B\phi_1) + (C + D\phi_1)^2 > 0$ is met on the way and the state runs off; where such slopes are known, the
    box keeps them out.

    Args:
        critic_rate: step size of theta, traced.
        value_rate: step size of V, traced.
        actor_rate: step size of slope and intercept, traced.
        scale_rate: step size of log_scale, traced.
        schedule: elapsed time -> factor of all rates; `power_decay()` by default. A `Partial` is traced, a bare
            function static.
        start: first parameters; zeros by default.
        low, high: box for the parameters, traced; no bounds by default.
        test_scale: c > 0, traced: test functions are multiplied by $(1 + x^2/c^2)^{-2}$, which keeps their products
            with $\delta$ bounded where the state has heavy tails and does not move the solution. Infinite, that is
            off, by default.
        max_change: clip of each increment at ± this, traced; off by default. A clip that acts often moves the solution.

    Returns:
        A `Learner` for `init`, `step` and `run`.

    Raises:
        ValueError: a rate or a bound is not a scalar.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> result = exploratory.run(
        ...     jax.random.key(0), problem, exploratory.actor_critic(), num_steps=1000, dt=.01, record_every=100)
        >>> result.history.parameters.slope.shape, int(result.status)
        ((10,), 0)

    References: Jia and Zhou 2022, Policy Gradient and Actor-Critic Learning (JMLR 23:275), algorithm 3.
    """
    rates = {"critic_rate": critic_rate, "value_rate": value_rate, "policy_rate": actor_rate, "scale_rate": scale_rate}
    limits = {"test_scale": test_scale, "max_change": max_change}
    return _learner("exploratory.actor_critic", "actor", rates, limits, schedule, start, low, high)


def q_learning(
    *,
    critic_rate: Scalar = 0.1,
    value_rate: Scalar = 0.1,
    q_rate: Scalar = 0.1,
    scale_rate: Scalar = 3.0,
    schedule: Callable[[Any], Any] | None = None,
    start: Parameters | None = None,
    low: Parameters | None = None,
    high: Parameters | None = None,
    test_scale: Scalar = jnp.inf,
    max_change: Scalar = jnp.inf,
) -> Learner:
    r"""q-learning by martingale conditions, test functions $\partial_\theta J, 1, \partial_\psi q$; on or off policy.

    Args:
        critic_rate: step size of theta, traced.
        value_rate: step size of V, traced.
        q_rate: step size of psi_1 and psi_2, traced.
        scale_rate: step size of psi_3, traced.
        schedule, start, low, high, test_scale, max_change: as in `actor_critic`.

    Returns:
        A `Learner` for `init`, `step`, `run` and `run_offline`.

    Raises:
        ValueError: a rate or a bound is not a scalar.

    Example:
        >>> import jax
        >>> from jaxsci.control import exploratory
        >>> problem = exploratory.ExploratoryLQ(A=-1., B=0., C=0., D=1., M=2., N=2., R=1., P=1., Q=2., temperature=.1)
        >>> result = exploratory.run(
        ...     jax.random.key(0), problem, exploratory.q_learning(), num_steps=1000, dt=.01, record_every=100)
        >>> result.history.reward.shape, int(result.status)
        ((10,), 0)

    References: Jia and Zhou 2023, q-Learning in Continuous Time (JMLR 24:161), section 4.2.
    """
    rates = {"critic_rate": critic_rate, "value_rate": value_rate, "policy_rate": q_rate, "scale_rate": scale_rate}
    limits = {"test_scale": test_scale, "max_change": max_change}
    return _learner("exploratory.q_learning", "q", rates, limits, schedule, start, low, high)


def _learner(function: str, kind: str, rates, limits, schedule, start, low, high) -> Learner:
    numbers = {**rates, **limits}
    dtype = float_dtype(list(numbers.values()), start)
    numbers = [as_scalar(value, function, name, dtype) for name, value in numbers.items()]
    start, low, high = (
        as_scalars(function, name, Parameters(*(default,) * 6) if value is None else value, dtype)
        for name, value, default in (("start", start, 0.0), ("low", low, -jnp.inf), ("high", high, jnp.inf))
    )
    schedule = power_decay() if schedule is None else as_partial(schedule, function, "schedule")
    change = Partial(bind(_change, kind=kind), schedule, *numbers)
    return Learner(start, low, high, Partial(bind(_policy, kind=kind)), change, kind == "q")


def _policy(parameters: Parameters, temperature, *, kind: str) -> GaussianPolicy:
    log_variance = parameters.log_scale + (jnp.log(temperature) if kind == "q" else 0)
    return GaussianPolicy(parameters.slope, parameters.intercept, log_variance)


def _change(
    schedule, critic_rate, value_rate, policy_rate, scale_rate, test_scale, max_change, parameters, transition, time,
    temperature, discount, dt, *, kind: str,
) -> Parameters:  # fmt: skip
    """The increment of one transition (x, a, r, x')."""
    x, action, reward, x_next = transition
    p = parameters
    off_mean = action - p.slope * x - p.intercept
    if kind == "actor":
        inverse = jnp.exp(-p.log_scale)
        bonus = temperature * entropy_of(p.log_scale)
        own = temperature * dt / 2  # the gradient of the entropy, which slope and intercept do not move
        by_mean, by_scale = inverse * off_mean, (inverse * off_mean**2 - 1) / 2
    else:
        inverse = jnp.exp(-p.log_scale)
        square = inverse * off_mean**2 / 2
        bonus = square + temperature / 2 * (_LOG_2PI + jnp.log(temperature) + p.log_scale)
        own = jnp.zeros_like(dt)
        by_mean, by_scale = inverse * off_mean, square - temperature / 2
    # J(x') - J(x) as a product: the difference of two values would lose the digits of a small step.
    gain = (x_next - x) * (p.quadratic * (x_next + x) / 2 + p.linear)
    level = x * (p.quadratic * x / 2 + p.linear)
    delta = gain + (reward + bonus - discount * level - p.value) * dt
    rate = schedule(time) / (1 + (x / test_scale) ** 2) ** 2
    critic, value, policy, scale = (rate * r for r in (critic_rate, value_rate, policy_rate, scale_rate))
    change = (
        critic * delta * x**2 / 2,
        critic * delta * x,
        value * delta,
        policy * delta * by_mean * x,
        policy * delta * by_mean,
        scale * (delta * by_scale + own),
    )
    return Parameters(*(jnp.clip(c, -max_change, max_change).astype(x.dtype) for c in change))


def project(learner: Learner, parameters: Parameters) -> Parameters:
    """The nearest parameters in the learner's box."""
    return jax.tree.map(jnp.clip, parameters, learner.low, learner.high)


__all__ = ["Learner", "Parameters", "actor_critic", "log_decay", "power_decay", "q_learning"]

entry.hold(globals(), "_change", "_policy")
