r"""When to stop a training run, from what its learning curve promises.

After n of m epochs a run is stopped iff no later epoch has a chance of more than $\delta$ to beat the best value so
far, $\max_{n < t \le m} P(y_t > y_{\text{best}} \mid y_1, \dots, y_n) \le \delta$, where $y_{\text{best}}$ is the best
over all runs, this one included.

A rule is ``rule(y, num_observed, y_best) -> Bool``: y (m,) holds the run's values so far, higher is better, and zeros
for the epochs to come.

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks,
section 4.3.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxsci.core import entry
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import Scalar, Size, as_scalar, concrete, float_dtype
from jaxsci.pfn import bars
from jaxsci.pfn._predict import Model
from jaxsci.pfn.curves import _predict

Rule: TypeAlias = Callable[..., Bool[Array, ""]]
"""``rule(y, num_observed, y_best) -> Bool``: whether to stop a run; a pure function."""

_SHARES = (1, 2, 4, 8)  # tenths of the run after which the coarse schedule decides


def stop(
    survival: Float[ArrayLike, " m"], num_observed: Int[ArrayLike, ""], y_best: Scalar, *, delta: Scalar = 0.05
) -> Bool[Array, ""]:
    r"""Whether no epoch to come has a chance of more than $\delta$ to beat the best value so far.

    Args:
        survival: $P(y_t > y_{\text{best}})$ for the epochs 1, ..., m; those up to n do not count. Traced.
        num_observed: n, traced.
        y_best: the best value so far, traced; with -inf, nothing seen yet, a run is never stopped.
        delta: $\delta$, traced.

    Returns:
        A Boolean: True too when no epoch is left, False when a probability is NaN. Monotone in `delta`.

    Raises:
        ValueError: `survival` is no vector.

    Example:
        >>> from jaxsci.pfn import curves
        >>> chances = jnp.asarray([0.9, 0.04, 0.03])
        >>> print(curves.stop(chances, 1, 0.8), curves.stop(chances, 0, 0.8))
        True False

    References: Adriaensen et al. 2023, section 4.3.
    """
    float_dtype(survival, y_best, delta)  # refuses complex numbers
    survival = jnp.asarray(survival)
    if survival.ndim != 1:
        raise ValueError(f"curves.stop: survival must be a vector, one entry an epoch, got shape {survival.shape}")
    to_come = jnp.arange(1, survival.size + 1) > num_observed
    return (jnp.max(jnp.where(to_come, survival, 0)) <= delta) & (jnp.asarray(y_best) > -jnp.inf)


def fine(num_epochs: Size) -> np.ndarray:
    """The schedule that decides after each of the epochs 2, ..., m - 1.

    Args:
        num_epochs: m, static.

    Returns:
        Booleans (m,): entry n - 1 says whether to decide after n epochs.

    Raises:
        TypeError: a traced m.
        ValueError: m below 1.

    Example:
        >>> from jaxsci.pfn import curves
        >>> print(curves.fine(5).astype(int))
        [0 1 1 1 0]
    """
    num_epochs = _epochs("fine", num_epochs)
    epoch = np.arange(1, num_epochs + 1)
    return (epoch >= 2) & (epoch < num_epochs)


def coarse(num_epochs: Size) -> np.ndarray:
    """The schedule that decides after a tenth, a fifth, two fifths and four fifths of the epochs, rounded up.

    Arguments, result and errors as `fine`.

    Example:
        >>> from jaxsci.pfn import curves
        >>> print(1 + curves.coarse(50).nonzero()[0])
        [ 5 10 20 40]
    """
    num_epochs = _epochs("coarse", num_epochs)
    epoch = np.arange(1, num_epochs + 1)
    return np.isin(epoch, [-(-num_epochs * share // 10) for share in _SHARES]) & (epoch < num_epochs)


def no_stop() -> Rule:
    """The rule that trains every run to its end.

    Example:
        >>> from jaxsci.pfn import curves
        >>> print(curves.no_stop()(jnp.zeros(3), 2, 0.5))
        False
    """
    return Partial(_no_stop)


def patience(epochs: Scalar) -> Rule:
    """The rule that stops a run when its own best value is so many epochs old; 0 trains every run for one epoch.

    Args:
        epochs: k >= 0, traced.

    Raises:
        ValueError: k is no scalar.

    Example:
        >>> from jaxsci.pfn import curves
        >>> run = jnp.asarray([0.5, 0.7, 0.6, 0.6])
        >>> print(curves.patience(2)(run, 4, 0.7), curves.patience(3)(run, 4, 0.7))
        True False
    """
    return Partial(_patience, as_scalar(epochs, "curves.patience", "epochs"))


def predictive(survival: Callable, *, delta: Scalar = 0.05, schedule: Bool[ArrayLike, " m"] | None = None) -> Rule:
    """The rule that asks `stop`, with what a model of learning curves predicts.

    Args:
        survival: ``survival(y, num_observed, level) -> (m,)``, the probabilities of each epoch to exceed the level;
            `survival_of` makes one of a network.
        delta: as for `stop`, traced.
        schedule: after which numbers of epochs to decide, `fine` or `coarse` of m; None decides after each. Traced.

    Raises:
        TypeError: `survival` is no function.
        ValueError: `delta` is no scalar.

    Example:
        >>> from jaxsci.pfn import curves
        >>> def normal(y, num_observed, level):  # the last value, and a standard deviation of .1
        ...     return jnp.full(y.shape, jax.scipy.stats.norm.sf(level, y[num_observed - 1], 0.1))
        >>> rule = curves.predictive(normal, schedule=curves.fine(4))
        >>> run = jnp.asarray([0.1, 0.2, 0.0, 0.0])
        >>> print(rule(run, 2, 0.9), rule(run, 2, 0.3), rule(run, 1, 0.9))
        True False False

    References: Adriaensen et al. 2023, section 4.3.
    """
    name = "curves.predictive"
    schedule = None if schedule is None else jnp.asarray(schedule, bool)
    return Partial(_predictive, as_partial(survival, name, "survival"), as_scalar(delta, name, "delta"), schedule)


def survival_of(predict: Callable) -> Callable:
    """The function that `predictive` asks, of a network.

    Args:
        predict: ``predict(y, num_observed) -> BarDistribution`` over the epochs 1, ..., m, or a `Model` that was
            trained on `priors.curves` of 100 epochs.

    Returns:
        ``survival(y, num_observed, level) -> (m,)``.

    Raises:
        TypeError: `predict` is neither.

    Example:
        >>> from jaxsci.pfn import bars, curves
        >>> def anything(y, num_observed):
        ...     return bars.distribution(jnp.linspace(0, 1, 5), jnp.zeros((*y.shape, 4)), full_support=False)
        >>> print(curves.survival_of(anything)(jnp.zeros(2), 0, 0.75))
        [0.25 0.25]
    """
    if isinstance(predict, Model):
        predict = Partial(_predict.predict, predict)
    return Partial(_survival, as_partial(predict, "curves.survival_of", "predict"))


def _epochs(name, num_epochs):
    name = f"curves.{name}"
    return check_size(name, "num_epochs", concrete(num_epochs, name, "num_epochs", "make the schedule outside")[()])


def _no_stop(y, num_observed, y_best):
    return jnp.zeros((), bool)


def _patience(epochs, y, num_observed, y_best):
    seen = jnp.arange(y.size) < num_observed
    best_at = 1 + jnp.argmax(jnp.where(seen, y, -jnp.inf))  # the first epoch that holds the run's best value
    return num_observed - best_at >= epochs


def _predictive(survival, delta, schedule, y, num_observed, y_best):
    def ask():
        return stop(survival(y, num_observed, y_best), num_observed, y_best, delta=delta)

    if schedule is None:
        return ask()
    if schedule.shape != y.shape:
        raise ValueError(
            f"curves.predictive: y must have an entry for each epoch of the schedule, {schedule.shape}, got {y.shape}"
        )
    return jax.lax.cond(schedule[num_observed - 1], ask, lambda: jnp.zeros((), bool))


def _survival(predict, y, num_observed, level):
    return bars.survival(predict(y, num_observed), level)


__all__ = ["Rule", "coarse", "fine", "no_stop", "patience", "predictive", "stop", "survival_of"]

entry.hold(globals(), "_patience", "_predictive", "_survival")
