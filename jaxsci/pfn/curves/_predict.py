r"""What a trained network makes of the beginning of a learning curve.

Epoch t enters as t/(m + 1), m the length of the curves that the network was trained on, also when the run is shorter;
of a longer run pass at most m of its values, evenly spread.

Reference: Adriaensen et al. 2023, Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks,
section 3.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import ArrayLike, Float, Int

from jaxsci.core import status
from jaxsci.core.static import check_size
from jaxsci.core.types import Size, as_float
from jaxsci.pfn import _network, bars
from jaxsci.pfn._predict import OUTSIDE, Model


def predict(
    model: Model, y: Float[ArrayLike, " m"], num_observed: Int[ArrayLike, ""], *, num_trained: Size = 100
) -> bars.BarDistribution:
    """The law of every later value of a run given the first ones, by one pass of the network.

    Args:
        model: trained on `priors.curves`, such as ``pfn.load("lc-small")``.
        y: m values on [0, 1], see `normalize`, of which the first n count; traced. Many runs by `jax.vmap`.
        num_observed: n, 0 ... m; traced.
        num_trained: epochs of the curves of the training, m at least; static.

    Returns:
        A `BarDistribution` over the epochs 1, ..., m, of which those up to n mean nothing. Status: non-finite input,
        out of range for an n that is not in 0 ... m, and as a notice outside the range of training for an observed
        value outside [0, 1].

    Raises:
        ValueError: y is no vector, longer than `num_trained`, or the model predicts classes.
        TypeError: `model` is no `Model`.

    Differentiable in y and the model's arrays.

    Example:
        >>> import jax
        >>> from jaxsci import pfn
        >>> cfg = pfn.config(1, 10, width=8, num_layers=1)
        >>> model = pfn.model(pfn.init(jax.random.key(0), cfg), cfg, jnp.linspace(0.0, 1.0, 11))
        >>> law = pfn.curves.predict(model, jnp.linspace(0.1, 0.6, 50), 20)
        >>> print(pfn.bars.mean(law).shape, law.status)
        (50,) 0

    References: Adriaensen et al. 2023, section 3.
    """
    if model.borders is None:
        raise ValueError("curves.predict: this model predicts classes, not values of a curve")
    y = as_float(y)
    num_trained = check_size("curves.predict", "num_trained", num_trained)
    if y.ndim != 1 or not 1 <= y.size <= num_trained:
        raise ValueError(
            f"curves.predict: y must be a vector of at most {num_trained} values, the length of the curves of the "
            f"training, got shape {y.shape}; of a longer run pass {num_trained} values, evenly spread"
        )
    return _predict(model, y, jnp.asarray(num_observed), num_trained)


@eqx.filter_jit
def _predict(model, y, num_observed, num_trained):
    x = (jnp.arange(1, y.size + 1, dtype=y.dtype) / (num_trained + 1))[:, None]
    seen = jnp.arange(y.size) < num_observed
    code = status.flag(jnp.any(seen & ~jnp.isfinite(y)), status.NONFINITE_INPUT)
    code = code | status.flag((num_observed < 0) | (num_observed > y.size), status.OUT_OF_RANGE)
    code = code | status.flag(jnp.any(seen & ((y < 0) | (y > 1))), OUTSIDE)
    logits = _network.apply_sequence(model.params, model.config, x, jnp.where(seen, y, 0), num_observed)
    # of finite values, so the network's own numbers are at fault
    code = code | status.flag((code == status.OK) & ~jnp.all(jnp.isfinite(logits)), status.NONFINITE_RESULT)
    return bars.distribution(model.borders, logits, full_support=model.full_support, status=code)


__all__ = ["predict"]
