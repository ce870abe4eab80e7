r"""What a stopping rule saves: recorded runs are replayed in an order, one epoch at a time, until a budget is spent.

Runs are not resumed: where the rule stops one, the next begins. After each epoch of the budget the regret is what the
best value of the task exceeds the best value seen by. An order is one replay; `jax.vmap` over orders gives the spread.

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks,
section 4.3.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import status
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import Scalar, Size, as_float, as_real, float_dtype
from jaxsci.pfn.curves._stopping import Rule


class Evaluation(NamedTuple):
    """One replay of recorded runs under a rule.

    Attributes:
        regret: (budget,), best value of the task minus the best value seen after each epoch.
        epochs: (R,), epochs spent on the runs in their order, 0 for those that were not reached.
        status: 0, non-finite input for runs or a best value that are not finite, non-finite result for runs so far
            apart that their difference overflows, out of range for an order that is no permutation.
    """

    regret: Float[Array, " budget"]
    epochs: Int[Array, " R"]
    status: Int[Array, ""]


def evaluate(
    runs: Float[ArrayLike, "R m"],
    order: Int[ArrayLike, " R"],
    rule: Rule,
    *,
    budget: Size,
    best: Scalar | None = None,
) -> Evaluation:
    """Replay recorded runs in an order under a rule that stops them early.

    Args:
        runs: R runs of m epochs, higher is better: pass a metric through `normalize` first. Traced.
        order: a permutation of the runs, traced.
        rule: ``rule(y, num_observed, y_best) -> Bool``, asked after each epoch but a run's last.
        budget: epochs in all, static; 20 m is usual. When all runs are through, the rest of it changes nothing.
        best: best value of the task, the largest in `runs` by default; traced.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: shapes that do not fit, budget < 1.
        TypeError: `rule` is no function.

    Example:
        >>> from jaxsci.pfn import curves
        >>> runs = jnp.asarray([[0.1, 0.1, 0.1], [0.2, 0.6, 0.9]])
        >>> found = curves.evaluate(runs, jnp.arange(2), curves.patience(1), budget=5)
        >>> print(jnp.round(found.regret, 1), found.epochs)
        [0.8 0.8 0.7 0.3 0. ] [2 3]

    References: Adriaensen et al. 2023, section 4.3.
    """
    runs, order = as_float(runs), jnp.asarray(order)
    if runs.ndim != 2 or order.shape != runs.shape[:1] or 0 in runs.shape:
        raise ValueError(
            f"curves.evaluate: expected runs (R, m) and an order (R,) of them, got {runs.shape} and {order.shape}"
        )
    budget = check_size("curves.evaluate", "budget", budget)
    return _evaluate(runs, order, as_partial(rule, "curves.evaluate", "rule"), budget, best)


@eqx.filter_jit
def _evaluate(runs, order, rule, budget, best):
    num_runs, num_epochs = runs.shape
    best = jnp.max(runs) if best is None else as_real(best, runs.dtype)
    known = jnp.all(jnp.isfinite(runs)) & jnp.isfinite(best)
    code = status.flag(~known, status.NONFINITE_INPUT)
    code = code | status.flag(jnp.any(jnp.sort(order) != jnp.arange(num_runs)), status.OUT_OF_RANGE)

    def epoch(state, _):
        place, seen, found, spent = state
        running = place < num_runs
        run = runs[order[jnp.minimum(place, num_runs - 1)]]
        found = jnp.where(running, jnp.maximum(found, run[seen]), found)
        seen = seen + 1
        y = jnp.where(jnp.arange(num_epochs) < seen, run, 0)
        ended = running & ((seen == num_epochs) | rule(y, seen, found))
        spent = spent.at[place].add(1, mode="drop")
        return (place + ended, jnp.where(ended | ~running, 0, seen), found, spent), best - found

    zero = jnp.zeros((), jnp.int32)
    start = zero, zero, jnp.asarray(-jnp.inf, runs.dtype), jnp.zeros(num_runs, jnp.int32)
    (_, _, _, spent), regret = jax.lax.scan(epoch, start, None, length=budget)
    code = code | status.flag(known & ~jnp.all(jnp.isfinite(regret)), status.NONFINITE_RESULT)
    return Evaluation(regret, spent, code)


def epochs_to_reach(regret: Float[ArrayLike, " budget"], level: Scalar) -> Int[Array, ""]:
    """Epochs until the regret is at most `level`: 1, ..., budget, or budget + 1 where it never is.

    Args:
        regret: as `evaluate` gives it, traced.
        level: traced.

    Raises:
        ValueError: `regret` is no vector.

    Example:
        >>> from jaxsci.pfn import curves
        >>> print(curves.epochs_to_reach(jnp.asarray([0.8, 0.7, 0.3, 0.0]), 0.3))
        3
    """
    float_dtype(regret, level)  # refuses complex numbers
    regret = jnp.asarray(regret)
    if regret.ndim != 1:
        raise ValueError(f"curves.epochs_to_reach: regret must be a vector, got shape {regret.shape}; use jax.vmap")
    reached = regret <= level
    return jnp.where(jnp.any(reached), 1 + jnp.argmax(reached), regret.size + 1).astype(jnp.int32)


__all__ = ["Evaluation", "epochs_to_reach", "evaluate"]
