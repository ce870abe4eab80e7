r"""Particle Gibbs: paths given parameters by conditional SMC, parameters given paths by the caller's draw.

Reference: C. Andrieu, A. Doucet, R. Holenstein, J. R. Statist. Soc. B 72 (2010), 269-342, section 2.4.3.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxsci.core import status, tree
from jaxsci.core.keys import as_typed_key
from jaxsci.core.protocols import Result
from jaxsci.core.static import as_partial, check_size
from jaxsci.core.types import KeyArray, Scalar, Size, as_real, as_scalar
from jaxsci.smc import _run
from jaxsci.smc._conditional import draw_path, parts_of
from jaxsci.smc._filters import StateSpace
from jaxsci.smc._model import FeynmanKac


def gibbs(
    key: KeyArray,
    model: FeynmanKac | StateSpace | Callable[[PyTree], FeynmanKac | StateSpace],
    inputs: PyTree,
    *,
    num_particles: Size,
    num_steps: Size,
    parameters: PyTree = None,
    update: Callable | None = None,
    path: PyTree | None = None,
    draw: str = "backward",
    ess_threshold: Scalar = 1.0,
) -> Result:
    r"""Particle Gibbs: in turn a path given the parameters, by `conditional`, and parameters given the path.

    $x_{0:T-1} \sim P_\theta(x'_{0:T-1}, \cdot)$, then $\theta \sim p(\theta \mid x_{0:T-1}, y_{0:T-1})$, which leaves
    the joint law of both, given the observations, invariant.

    Args:
        key: one typed key; step i uses ``fold_in`` of its second half, a first path is drawn with the first half.
        model: as for `conditional`; with `parameters` a function of them that returns one.
        inputs, num_particles, draw, ess_threshold: as for `conditional`.
        num_steps: how many steps, static.
        parameters: where the chain starts: a record of arrays; None has the model as it is.
        update: ``update(key, parameters, path, inputs) -> parameters``: a draw given the path, or a step of any chain
            that leaves that law invariant; None keeps the parameters.
        path: where the chain starts; None draws one from a filter.

    Returns:
        A `core.protocols.Result`: `value` is ``(parameters, paths)`` after each step along a leading axis, `state`
        those after the last, to be handed on as `parameters` and `path`, `history` the log Z of each step. Status:
        those of `conditional`; NONFINITE_INPUT, NONFINITE_RESULT (parameters given, or drawn, that are not finite).

    Raises:
        TypeError, ValueError: as `conditional`; `update` without parameters.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import smc
        >>> walk = smc.FeynmanKac(
        ...     init=lambda key, y: jax.random.normal(key),
        ...     propagate=lambda key, x, y: x + jax.random.normal(key),
        ...     log_potential=lambda before, x, y: -0.5 * (y - x) ** 2,
        ...     log_propagate=lambda before, x, y: -0.5 * (x - before) ** 2,
        ... )
        >>> result = smc.gibbs(jax.random.key(0), walk, jnp.zeros(5), num_particles=4, num_steps=10)
        >>> result.value[1].shape, int(result.status)
        ((10, 5), 0)

    References: C. Andrieu, A. Doucet, R. Holenstein, J. R. Statist. Soc. B 72 (2010), 269-342, section 2.4.3.
    """
    name = "smc.gibbs"
    sizes = check_size(name, "num_particles", num_particles, least=2), check_size(name, "num_steps", num_steps)
    inputs, path, parameters = (tree.as_arrays(a) for a in (inputs, path, parameters))
    if update is not None and parameters is None:
        raise ValueError(f"{name}: update draws parameters, got none to start from")
    if parameters is None:
        parts_of(name, model, draw)  # raises before anything is compiled
    else:
        model = as_partial(model, name, "model")
    update = None if update is None else as_partial(update, name, "update")
    _run._length(name, inputs if path is None else (inputs, path))
    threshold = as_scalar(ess_threshold, name, "ess_threshold")
    return _gibbs(as_typed_key(key, name), model, inputs, parameters, update, path, threshold, *sizes, draw)


@eqx.filter_jit
def _gibbs(key, model, inputs, parameters, update, path, threshold, num_particles, num_steps, draw):
    key_start, key_steps = jax.random.split(key)

    def drawn(key, parameters, path):
        parts = parts_of("smc.gibbs", model if parameters is None else model(parameters), draw)
        return draw_path(key, parts, inputs, path, threshold, num_particles, draw)

    code = status.flag(~tree.all_finite(parameters), status.NONFINITE_INPUT)
    if path is None:
        start = drawn(key_start, parameters, None)
        path, code = start.value, code | start.status

    def step(carry, i):
        parameters, path = carry
        first, second = jax.random.split(jax.random.fold_in(key_steps, i))
        new = drawn(first, parameters, path)
        if update is not None:
            given = parameters
            parameters = update(second, parameters, new.value, inputs)
            parameters = jax.tree.map(lambda a, old: as_real(a, old.dtype), parameters, given)
        bits = new.status | status.flag(~tree.all_finite(parameters), status.NONFINITE_RESULT)
        return (parameters, new.value), ((parameters, new.value), new.log_z, bits)

    steps = jnp.arange(num_steps, dtype=jnp.int32)
    state, (value, log_z, codes) = jax.lax.scan(step, (parameters, path), steps)
    return Result(value, state, log_z, code | status.reduce(codes))


__all__ = ["gibbs"]
