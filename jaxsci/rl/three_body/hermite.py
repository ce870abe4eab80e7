r"""Hermite's fourth-order integrator of N gravitating bodies with one variable step for all.

With $a_i = \sum_j m_j r_{ij}/r^3$ and $\dot a_i = \sum_j m_j [v_{ij} - 3 (r_{ij}\cdot v_{ij}) r_{ij}/r^2]/r^3$, a step
of size h predicts by Taylor's series, evaluates $a', \dot a'$ there once (PEC), and corrects
$v' = v + (a + a')h/2 + (\dot a - \dot a')h^2/12$, then $x' = x + (v + v')h/2 + (a - a')h^2/12$.
$h = \mu t_c$, $t_c = \min_{i<j} \min(|r|/|v|, (|r|^3/(m_i + m_j))^{1/2})$. Units have G = 1: see `units`.

The last step of `integrate` is cut so that it lands on the end time exactly (AMUSE's library of the same method may
stop half a step away). The collision time comes from the predicted positions, whose pairs are at hand anyway.

Reference: J. Makino, S. J. Aarseth, "On a Hermite integrator with Ahmad-Cohen scheme for gravitational many-body
problems", 1992, section 2; P. Hut, J. Makino, S. McMillan, "Building a better leapfrog", 1995 (the corrector's order).
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from jaxsci.core import entry, loops, status, tree
from jaxsci.core.types import as_count, as_real, concrete, float_dtype, require_double

COLLISION = status.register(
    "rl",
    24,
    "collision",
    "two bodies came so close that a step no longer advances the time",
    "the point masses have met: start elsewhere, or allow a larger step parameter",
)


class Bodies(NamedTuple):
    """N bodies in d = 2 or 3 dimensions with all that the next step needs; made by `init`.

    Attributes:
        mass: of each body.
        position: of each body.
        velocity: of each body.
        acceleration: of each body.
        jerk: time derivative of the acceleration.
        collision_time: t_c, infinite for a single body.
    """

    mass: Float[Array, " N"]
    position: Float[Array, "N d"]
    velocity: Float[Array, "N d"]
    acceleration: Float[Array, "N d"]
    jerk: Float[Array, "N d"]
    collision_time: Float[Array, ""]


class Result(NamedTuple):
    """What `integrate` returns.

    Attributes:
        value: at the end time; where a status says that it was not reached, the last bodies that are finite.
        steps: steps taken.
        evaluations: evaluations of the forces in them, one a step here; `init` did one more.
        error: change of the energy over this call relative to the energy before; infinite where that is undefined.
        status: 0, or non-finite input, out of range (negative duration, or a step parameter that is not positive), step
            cap reached, collision, non-finite result.
    """

    value: Bodies
    steps: Int[Array, ""]
    evaluations: Int[Array, ""]
    error: Float[Array, ""]
    status: Int[Array, ""]


class Units(NamedTuple):
    """The units in which G = 1, expressed in those that `units` was given.

    Attributes:
        length: unit of length.
        mass: unit of mass.
        time: unit of time.
        velocity: unit of velocity.
    """

    length: float
    mass: float
    time: float
    velocity: float


def units(length: float, mass: float, *, gravity: float = 6.6743e-11) -> Units:
    r"""N-body units: G = 1 with the given length and mass, time $\sqrt{L^3/(G M)}$.

    Divide by these to enter, multiply to leave. A builder: runs on the host in float64.

    Args:
        length: unit of length, in metres if `gravity` is in SI units.
        mass: unit of mass, usually that of all bodies together.
        gravity: G in the same units; $4\pi^2$ for astronomical units, solar masses and years.

    Raises:
        TypeError: a traced argument.
        ValueError: an argument that is not positive.

    Example:
        >>> import math
        >>> from jaxsci.rl.three_body import hermite
        >>> round(float(hermite.units(1.0, 1.0, gravity=4 * math.pi**2).time), 4)  # a year is 2 pi of these
        0.1592
    """
    remedy = "compute length, mass and sqrt(length**3 / (gravity * mass)) with jax.numpy instead"
    length, mass, gravity = (
        np.float64(concrete(value, "hermite.units", name, remedy))
        for name, value in (("length", length), ("mass", mass), ("gravity", gravity))
    )
    if not (length > 0 and mass > 0 and gravity > 0):
        raise ValueError(f"hermite.units: expected positive numbers, got {length}, {mass} and gravity {gravity}")
    time = np.sqrt(length**3 / (gravity * mass))
    return Units(length, mass, time, length / time)


def init(
    mass: Float[ArrayLike, " N"],
    position: Float[ArrayLike, "N d"],
    velocity: Float[ArrayLike, "N d"],
    *,
    allow_float32: bool = False,
) -> Bodies:
    """Bodies with their accelerations and jerks: one evaluation of the forces.

    Args:
        mass: masses, in units with G = 1; traced.
        position: positions, d = 2 or 3; traced.
        velocity: velocities; traced.
        allow_float32: single precision holds energies to 1e-6 at best and is refused without this (static).

    Raises:
        ValueError: shapes that do not fit together, d not 2 or 3, no body, or single precision without `allow_float32`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> print(pair.acceleration.tolist(), float(pair.collision_time))
        [[0.5, 0.0], [-0.5, 0.0]] 1.0
    """
    dtype = float_dtype(mass, position, velocity)
    require_double("hermite.init", dtype, allow_float32, "which holds energies to 1e-6 at best")
    mass, position, velocity = (as_real(a, dtype) for a in (mass, position, velocity))
    num = mass.shape[0] if mass.ndim == 1 else 0
    if num < 1 or position.shape not in ((num, 2), (num, 3)) or velocity.shape != position.shape:
        raise ValueError(
            f"hermite.init: expected mass [N], position and velocity [N, 2] or [N, 3], got {mass.shape}, "
            f"{position.shape} and {velocity.shape}; one system at a time, use jax.vmap for a batch"
        )
    return _init(mass, position, velocity)


@jax.jit
def _init(mass, position, velocity):
    return Bodies(mass, position, velocity, *forces(mass, position, velocity))


@jax.jit
def forces(
    mass: Float[Array, " N"], position: Float[Array, "N d"], velocity: Float[Array, "N d"]
) -> tuple[Float[Array, "N d"], Float[Array, "N d"], Float[Array, ""]]:
    """Accelerations, jerks and the collision time; every pair is visited once.

    The pairs (i, i + s mod N), s = 1 ... N/2, are taken shift by shift: a few long array operations instead of N^2
    short ones, which is what makes a step cheap on a CPU: benchmark "three_body: ten years of three bodies". For even N
    the last shift meets each pair twice and counts half.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[0.5, 0.0], [-0.5, 0.0]]), jnp.zeros((2, 2))
        >>> print(hermite.forces(jnp.array([1.0, 1.0]), place, speed)[0] + 0)
        [[-1.  0.]
         [ 1.  0.]]
    """
    num = mass.shape[0]
    acceleration, jerk = jnp.zeros_like(position), jnp.zeros_like(position)
    least = jnp.full(num, jnp.inf, position.dtype)
    for s in range(1, num // 2 + 1):
        other = jnp.roll(mass, -s)
        r, v = jnp.roll(position, -s, 0) - position, jnp.roll(velocity, -s, 0) - velocity
        r2, v2, rv = jnp.sum(r * r, -1), jnp.sum(v * v, -1), jnp.sum(r * v, -1)
        cubed = 1 / (r2 * jnp.sqrt(r2)) * (0.5 if 2 * s == num else 1.0)
        pull = cubed[:, None] * r
        change = cubed[:, None] * (v - (3 * rv / r2)[:, None] * r)
        acceleration += other[:, None] * pull - jnp.roll(mass[:, None] * pull, s, 0)
        jerk += other[:, None] * change - jnp.roll(mass[:, None] * change, s, 0)
        # Fourth powers of both times, so that one root is enough; two bodies at rest meet by falling alone.
        moving = v2 > 0
        crossing = jnp.where(moving, (r2 / jnp.where(moving, v2, 1)) ** 2, jnp.inf)
        least = jnp.minimum(least, jnp.minimum(crossing, r2**3 / (mass + other) ** 2))
    return acceleration, jerk, jnp.sqrt(jnp.sqrt(jnp.min(least)))


def step(bodies: Bodies, size: Float[ArrayLike, ""]) -> Bodies:
    """One predict-evaluate-correct step of the given size, with one evaluation of the forces.

    Args:
        bodies: from `init` or a step before.
        size: h, negative to go back in time; traced.

    Differentiable in both arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[0.5, 0.0], [-0.5, 0.0]]), jnp.array([[0.0, 0.5], [0.0, -0.5]])
        >>> bodies = hermite.step(hermite.init(jnp.array([0.5, 0.5]), place, speed, allow_float32=True), 0.01)
        >>> print(f"{bodies.position[0, 1]:.3f}")
        0.005
    """
    return _jitted_step(bodies, as_real(size, bodies.position.dtype))


def advance(bodies, h):
    """`step` uncompiled, for the loops of `march`."""
    mass, x, v, a, j, _ = bodies
    predicted = x + h * (v + h * (a / 2 + h * j / 6))
    a1, j1, collision_time = forces(mass, predicted, v + h * (a + h * j / 2))
    v1 = v + h * ((a + a1) / 2 + h * (j - j1) / 12)
    x1 = x + h * ((v + v1) / 2 + h * (a - a1) / 12)
    return Bodies(mass, x1, v1, a1, j1, collision_time)


_jitted_step = jax.jit(advance)


def integrate(
    bodies: Bodies,
    duration: Float[ArrayLike, ""],
    step_parameter: Float[ArrayLike, ""],
    *,
    max_steps: Int[ArrayLike, ""] = 1_000_000,
) -> Result:
    """Move the bodies on by `duration`, in steps of `step_parameter` times the collision time.

    Args:
        bodies: from `init`; a result's `value` goes on without another evaluation.
        duration: time, >= 0, in the same units with G = 1; met exactly. Traced.
        step_parameter: mu > 0; the energy error falls with its fifth power. Traced.
        max_steps: step cap, traced.

    Returns:
        `Result`. Under vmap a lane that has arrived is frozen, and its count is exact; the batch takes as long as its
        slowest lane.

    Not differentiable in reverse mode (the number of steps depends on the values); `step` is.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> pair = hermite.init(jnp.array([0.5, 0.5]), jnp.array([[-0.5, 0.0], [0.5, 0.0]]),
        ...                     jnp.array([[0.0, -0.5], [0.0, 0.5]]), allow_float32=True)
        >>> result = hermite.integrate(pair, 2 * jnp.pi, 0.05)  # once around
        >>> print((result.value.position.round(3) + 0).tolist(), int(result.steps), int(result.status))
        [[-0.5, 0.0], [0.5, 0.0]] 126 0
    """
    dtype = bodies.position.dtype
    scalars = (
        as_real(duration, dtype),
        as_real(step_parameter, dtype),
        as_count(max_steps, "hermite.integrate", "max_steps"),
    )
    return march(bodies, *scalars, advance, 1, True)


@eqx.filter_jit
def march(start: Bodies, duration, parameter, max_steps, advance, cost: int, variable: bool) -> Result:
    """Steps of ``advance(bodies, size) -> bodies`` up to the end time; each costs `cost` evaluations of the forces.

    The size is `parameter` times the collision time, or, where not `variable`, `parameter` itself.
    """
    finite = tree.all_finite((start[:3], duration, parameter))
    sound = finite & (duration >= 0) & (parameter > 0)
    # Below this size adding a step to the elapsed time could leave it unchanged.
    least = jnp.finfo(duration.dtype).eps * duration
    mass = start.mass

    def size_of(moving):
        return parameter * moving[-1] if variable else parameter

    def go_on(loop):
        elapsed, moving = loop
        # Written so that a NaN ends the loop; the last cut step may be short, so it is not the cut size that is asked.
        return (elapsed < duration) & (size_of(moving) > least) & sound & ~jnp.isnan(moving[-1])

    def move(loop):
        elapsed, moving = loop
        size, remaining = size_of(moving), duration - elapsed
        last = size >= remaining
        after = advance(Bodies(mass, *moving), jnp.where(last, remaining, size))
        return jnp.where(last, duration, elapsed + size), tuple(after[1:])

    (elapsed, moving), steps = loops.bounded_while(
        go_on, move, (jnp.zeros_like(duration), tuple(start[1:])), max_steps=max_steps
    )
    end = Bodies(mass, *moving)
    lost = sound & ~tree.all_finite(end[:3])
    end = tree.where(lost, start, end)
    before = energy(start)
    change = (energy(end) - before) / before
    code = status.flag(~finite, status.NONFINITE_INPUT) | status.flag(finite & ~sound, status.OUT_OF_RANGE)
    short = sound & ~lost & (elapsed < duration)
    code |= status.flag(short & (steps >= max_steps), status.MAX_STEPS)
    code |= status.flag(short & (steps < max_steps), COLLISION) | status.flag(lost, status.NONFINITE_RESULT)
    return Result(end, steps, cost * steps, jnp.where(jnp.isfinite(change), change, jnp.inf), code)


@jax.jit
def energy(bodies: Bodies) -> Float[Array, ""]:
    r"""$\sum_i m_i |v_i|^2/2 - \sum_{i<j} m_i m_j/|r_{ij}|$.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[0.5, 0.0], [-0.5, 0.0]]), jnp.array([[0.0, 0.5], [0.0, -0.5]])
        >>> print(hermite.energy(hermite.init(jnp.array([0.5, 0.5]), place, speed, allow_float32=True)))
        -0.125
    """
    mass, x, v = bodies[:3]
    kinetic = jnp.sum(mass * jnp.sum(v * v, -1)) / 2
    i, j = np.triu_indices(mass.shape[0], 1)
    r = x[j] - x[i]
    return kinetic - jnp.sum(mass[i] * mass[j] / jnp.sqrt(jnp.sum(r * r, -1)))


@jax.jit
def momentum(bodies: Bodies) -> Float[Array, " d"]:
    r"""$\sum_i m_i v_i$.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[0.5, 0.0], [-0.5, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 0.0]])
        >>> print(hermite.momentum(hermite.init(jnp.array([2.0, 1.0]), place, speed, allow_float32=True)))
        [0. 2.]
    """
    return jnp.sum(bodies.mass[:, None] * bodies.velocity, 0)


@jax.jit
def angular_momentum(bodies: Bodies) -> Float[Array, ""] | Float[Array, " 3"]:
    r"""$\sum_i m_i\, x_i \times v_i$: a scalar in two dimensions, a vector in three.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[0.5, 0.0], [-0.5, 0.0]]), jnp.array([[0.0, 0.5], [0.0, -0.5]])
        >>> print(hermite.angular_momentum(hermite.init(jnp.array([0.5, 0.5]), place, speed, allow_float32=True)))
        0.25
    """
    mass, x, v = bodies[:3]
    if x.shape[1] == 2:
        return jnp.sum(mass * (x[:, 0] * v[:, 1] - x[:, 1] * v[:, 0]))
    return jnp.sum(mass[:, None] * jnp.cross(x, v), 0)


@jax.jit
def center_of_mass(bodies: Bodies) -> Float[Array, " d"]:
    r"""$\sum_i m_i x_i / \sum_i m_i$.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxsci.rl.three_body import hermite
        >>> place, speed = jnp.array([[1.0, 0.0], [-1.0, 0.0]]), jnp.zeros((2, 2))
        >>> print(hermite.center_of_mass(hermite.init(jnp.array([3.0, 1.0]), place, speed, allow_float32=True)))
        [0.5 0. ]
    """
    return jnp.sum(bodies.mass[:, None] * bodies.position, 0) / jnp.sum(bodies.mass)


__all__ = [
    "COLLISION",
    "Bodies",
    "Result",
    "Units",
    "angular_momentum",
    "center_of_mass",
    "energy",
    "forces",
    "init",
    "integrate",
    "momentum",
    "step",
    "units",
]

entry.guard(globals())
