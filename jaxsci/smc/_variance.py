r"""What one run tells of its own accuracy, and equally weighted particles from weighted ones.

With $B_i$ the particle of time 0 that particle i descends from and $S_n = \sum_{i: B_i = n} W_i$, the variance of
$\log\hat Z$ is estimated by $\sum_n (S_n - 1/N)^2 = \sum_n S_n^2 - 1/N$, that of the mean of $\varphi$ by
$\sum_n (\sum_{i: B_i = n} W_i (\varphi_i - \bar\varphi))^2$. Both are consistent for multinomial resampling and too
large for schemes with less noise.

References: H. P. Chan, T. L. Lai, Ann. Statist. 41 (2013), 2877-2904; A. Lee, N. Whiteley, Biometrika 105 (2018),
609-625.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from jaxsci.core import status
from jaxsci.core.keys import as_typed_key
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Size
from jaxsci.smc._run import Result
from jaxsci.smc.resamplers import systematic

COALESCED = status.register(
    "smc",
    25,
    "one ancestor",
    "all particles descend from one particle of time 0, so that the run says nothing of its own variance",
    "take more particles or fewer steps, or compare several runs",
)


class Variance(NamedTuple):
    """An estimated variance.

    Attributes:
        value: the estimate; NaN where it says nothing.
        num_eves: how many particles of time 0 have descendants of positive weight.
        status: COALESCED; DEGENERATE if no weight was positive at some time; NONFINITE_RESULT; 0 = ok.
    """

    value: Float[Array, ""]
    num_eves: Int[Array, ""]
    status: Int[Array, ""]


def _families(result: Result, values: Float[Array, " N"]):
    """Sums of `values` over the descendants of each particle of time 0, how many there are, and the status."""
    eves, weights = result.state.eves, _normalised(result)
    sums = jnp.zeros_like(values).at[eves].add(values)
    alive = jnp.zeros(eves.shape, bool).at[eves].max(weights > 0)
    num = jnp.sum(alive, dtype=jnp.int32)
    alone = (num <= 1) & (eves.size > 1)
    faults = result.status & (status.DEGENERATE | status.NONFINITE_RESULT)
    return sums, num, status.flag(alone, COALESCED) | faults


def _normalised(result):
    log_weights = result.value.log_weights
    return jnp.exp(log_weights) / log_weights.shape[0]


def _told(value, num, code) -> Variance:
    """NaN where there is no estimate: weights that are no weights of mean 1, or values, may overflow."""
    code = code | status.flag((code == 0) & ~jnp.isfinite(value), status.NONFINITE_RESULT)
    return Variance(jnp.where(code == 0, value, jnp.nan), num, code)


def log_z_variance(result: Result) -> Variance:
    r"""Variance of `log_z` from one run: $\sum_n S_n^2 - 1/N$.

    Args:
        result: of `smc.run` from time 0 on.

    Returns:
        A `Variance`; its root is a standard error of log Z. Too large where resampling is not multinomial.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     x = jax.random.normal(key, (num,))
        ...     return x, -x * x
        >>> def move(key, x, log_weights, y):
        ...     return x, -x * x, None
        >>> result = smc.run(jax.random.key(0), smc.Model(init, move), jnp.zeros(2), num_particles=1000)
        >>> error = jnp.sqrt(smc.log_z_variance(result).value)
        >>> bool(abs(result.log_z + 0.5 * jnp.log(5.0)) < 5 * error)
        True
    """
    weights = _normalised(result)
    sums, num, code = _families(result, weights)
    value = jnp.sum((sums - 1 / weights.size) ** 2)
    return _told(value, num, code)


def mean_variance(result: Result, function: Callable[[PyTree], Array]) -> Variance:
    r"""Variance of the weighted mean of a function of the last particles, from one run.

    Args:
        result: of `smc.run` from time 0 on.
        function: ``function(x) -> scalar`` of one particle.

    Returns:
        A `Variance`.

    Raises:
        ValueError: `function` returns no scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> def init(key, num, y):
        ...     x = jax.random.normal(key, (num,))
        ...     return x, -x * x
        >>> def move(key, x, log_weights, y):
        ...     return x, -x * x, None
        >>> result = smc.run(jax.random.key(0), smc.Model(init, move), jnp.zeros(2), num_particles=1000)
        >>> print(bool(smc.mean_variance(result, lambda x: x).value < 0.01))
        True
    """
    values, weights = jax.vmap(function)(result.value.particles), _normalised(result)
    if values.shape != weights.shape:
        raise ValueError(f"smc.mean_variance: function must return a scalar, got shape {values.shape[1:]}")
    centred = weights * (values - jnp.sum(weights * values))
    sums, num, code = _families(result, centred)
    return _told(jnp.sum(sums * sums), num, code)


def resample_to_uniform(
    key: KeyArray, result: Result, num_out: Size | None = None, *, resampler: Callable = systematic
) -> PyTree:
    """Equally weighted particles from the weighted cloud of a run: its law again, with some noise more.

    Args:
        key: one typed key, not that of the run.
        result: of `smc.run`.
        num_out: how many; as many as there are by default. Static.
        resampler: from `smc.resamplers`.

    Returns:
        The particles, along a leading axis.

    Raises:
        TypeError: `resampler` is no function: a `Transport` makes other particles instead of choosing some.
        ValueError: `num_out` is no int >= 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> model = smc.Model(
        ...     lambda key, num, y: (jax.random.normal(key, (num,)), jnp.zeros(num)),
        ...     lambda key, x, w, y: (x, -x * x, None),
        ... )
        >>> result = smc.run(jax.random.key(0), model, jnp.zeros(2), num_particles=100)
        >>> print([a.shape for a in jax.tree.leaves(smc.resample_to_uniform(jax.random.key(1), result, 10))][:1])
        [(10,)]
    """
    name = "smc.resample_to_uniform"
    log_weights = result.value.log_weights
    num_out = log_weights.shape[0] if num_out is None else check_size(name, "num_out", num_out)
    found = as_partial(resampler, name, "resampler")(as_typed_key(key, name), log_weights, num_out)
    return jax.tree.map(lambda a: a[found], result.value.particles)


__all__ = ["COALESCED", "Variance", "log_z_variance", "mean_variance", "resample_to_uniform"]
