r"""Integrators of gravitating bodies as rules of one signature, to carry a policy from one to another.

``rule(bodies, duration, step_parameter, *, variable=True, max_steps) -> hermite.Result``. A variable step is
`step_parameter` times the collision time $t_c$ of `hermite`, the same criterion for all; with ``variable=False`` the
step is `step_parameter` itself, in units of time with G = 1. Both cut the last step so that it lands on the end.

===========  =====  =============  ==================================================================================
rule         order  forces a step  what it does
===========  =====  =============  ==================================================================================
hermite      4      1              predicts, evaluates, corrects (`hermite.integrate`)
leapfrog     2      1              kick, drift, kick; symplectic while its step is fixed
yoshida      4      3              three leapfrog steps of $w_1 h, (1 - 2 w_1) h, w_1 h$, $w_1 = 1/(2 - 2^{1/3})$
runge_kutta  4      4              the classical one
===========  =====  =============  ==================================================================================

References: H. Yoshida, Phys. Lett. A 150 (1990), 262-268 (composition); L. Verlet, Phys. Rev. 159 (1967), 98-103.
"""

from jaxtyping import ArrayLike, Float, Int

from jaxsci.core import entry
from jaxsci.core.types import as_count, as_real
from jaxsci.rl.three_body import hermite as _hermite
from jaxsci.rl.three_body.hermite import Bodies, Result

NAMES = ("hermite", "leapfrog", "yoshida", "runge_kutta")
_W1 = 1 / (2 - 2 ** (1 / 3))


def _leap(bodies: Bodies, h) -> Bodies:
    mass, x, v, a, _, _ = bodies
    half = v + h * a / 2
    x = x + h * half
    # Velocities enter the forces by the collision time and the jerk alone; these are half a step old.
    a, jerk, collision_time = _hermite.forces(mass, x, half)
    return Bodies(mass, x, half + h * a / 2, a, jerk, collision_time)


def _compose(bodies: Bodies, h) -> Bodies:
    for weight in (_W1, 1 - 2 * _W1, _W1):
        bodies = _leap(bodies, weight * h)
    return bodies


def _classical(bodies: Bodies, h) -> Bodies:
    mass, x, v, a, _, _ = bodies
    v2 = v + h / 2 * a
    a2 = _hermite.forces(mass, x + h / 2 * v, v)[0]
    v3 = v + h / 2 * a2
    a3 = _hermite.forces(mass, x + h / 2 * v2, v)[0]
    v4 = v + h * a3
    a4 = _hermite.forces(mass, x + h * v3, v)[0]
    x = x + h / 6 * (v + 2 * v2 + 2 * v3 + v4)
    v = v + h / 6 * (a + 2 * a2 + 2 * a3 + a4)
    return Bodies(mass, x, v, *_hermite.forces(mass, x, v))


def _run(advance, cost, bodies, duration, step_parameter, variable, max_steps) -> Result:
    dtype = bodies.position.dtype
    duration, parameter = as_real(duration, dtype), as_real(step_parameter, dtype)
    cap = as_count(max_steps, "three_body.integrators", "max_steps")
    result = _hermite.march(bodies, duration, parameter, cap, advance, cost, bool(variable))
    if advance is _hermite.advance:
        return result
    end = result.value  # its jerk and collision time are brought up to date: another rule may go on from here
    return result._replace(value=_hermite.init(*end[:3], allow_float32=True))


def hermite(
    bodies: Bodies,
    duration: Float[ArrayLike, ""],
    step_parameter: Float[ArrayLike, ""],
    *,
    variable: bool = True,
    max_steps: Int[ArrayLike, ""] = 1_000_000,
) -> Result:
    """Hermite's predictor-corrector, see `hermite.integrate`; here with a fixed step too.

    Args:
        bodies: from `hermite.init`, or a result's `value`.
        duration: time, >= 0, met exactly; traced.
        step_parameter: step over collision time, or the step itself; > 0, traced.
        variable: which of the two (static).
        max_steps: step cap, traced.

    Returns:
        `hermite.Result`; its `evaluations` compare the costs of rules.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite, integrators
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> result = integrators.hermite(pair, 2 * jnp.pi, 2 * jnp.pi / 100, variable=False)
        >>> int(result.steps), bool(abs(result.error) < 1e-5)
        (100, True)
    """
    return _run(_hermite.advance, 1, bodies, duration, step_parameter, variable, max_steps)


def leapfrog(
    bodies: Bodies,
    duration: Float[ArrayLike, ""],
    step_parameter: Float[ArrayLike, ""],
    *,
    variable: bool = True,
    max_steps: Int[ArrayLike, ""] = 1_000_000,
) -> Result:
    """Kick, drift, kick: second order, one evaluation of the forces a step. Arguments and result as `hermite`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite, integrators
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> int(integrators.leapfrog(pair, 1.0, 0.25, variable=False).evaluations)
        4
    """
    return _run(_leap, 1, bodies, duration, step_parameter, variable, max_steps)


def yoshida(
    bodies: Bodies,
    duration: Float[ArrayLike, ""],
    step_parameter: Float[ArrayLike, ""],
    *,
    variable: bool = True,
    max_steps: Int[ArrayLike, ""] = 1_000_000,
) -> Result:
    """Leapfrog composed to fourth order, three evaluations of the forces a step. Arguments and result as `hermite`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite, integrators
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> int(integrators.yoshida(pair, 1.0, 0.25, variable=False).evaluations)
        12
    """
    return _run(_compose, 3, bodies, duration, step_parameter, variable, max_steps)


def runge_kutta(
    bodies: Bodies,
    duration: Float[ArrayLike, ""],
    step_parameter: Float[ArrayLike, ""],
    *,
    variable: bool = True,
    max_steps: Int[ArrayLike, ""] = 1_000_000,
) -> Result:
    """Runge and Kutta's classical rule, four evaluations of the forces a step. Arguments and result as `hermite`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite, integrators
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> int(integrators.runge_kutta(pair, 1.0, 0.25, variable=False).evaluations)
        16
    """
    return _run(_classical, 4, bodies, duration, step_parameter, variable, max_steps)


def named(name: str):
    """The rule of a name.

    Args:
        name: "hermite", "leapfrog", "yoshida" or "runge_kutta".

    Raises:
        ValueError: another name.

    Example:
        >>> from jaxsci.rl.three_body import integrators
        >>> integrators.named("yoshida").__name__
        'yoshida'
    """
    if name not in NAMES:
        raise ValueError(f"integrators.named: name must be one of {NAMES}, got {name!r}")
    return globals()[name]


__all__ = ["hermite", "leapfrog", "named", "runge_kutta", "yoshida"]

entry.guard(globals())
