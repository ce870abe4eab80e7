r"""Streams of related linear systems: the test beds on which solver parameters are tuned online.

A stream is a `core.protocols.Stream` (init, next): `next(key, carry, i)` draws problem i inside the compiled loop,
and the driver writes the last solution into `carry.solution`, from which time-stepping streams go on. Systems that you
already have become a stream by `from_systems`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import ArrayLike, Float

from jaxsci.core import entry
from jaxsci.core.protocols import Problem, Stream, StreamCarry
from jaxsci.core.static import bind, check_size
from jaxsci.core.types import Scalar, as_float, float_dtype
from jaxsci.linear import operators, theory
from jaxsci.linear._systems import from_systems


def shifted_laplacian(
    shape: tuple[int, int] = (10, 10),
    *,
    beta: tuple[ArrayLike, ArrayLike] = (0.5, 1.5),
    low: Scalar = -0.15,
    width: Scalar = 0.6,
) -> Stream:
    r"""Independent systems $(A + c_t I) x = b_t$: Laplacian with a random shift, $c_t = low + width \cdot B_t$.

    $B_t \sim \mathrm{Beta}(\mathrm{beta})$; $b_t$ is standard normal conditioned on $\|b_t\| \le \sqrt n$. The
    context is $c_t$, a scalar in [low, low + width].

    Args:
        shape: (rows, cols), static.
        beta: both parameters of the Beta law, traced; (0.5, 1.5) is the high-variance stream, (2, 6) the low one.
        low, width: range of the shift, traced; low > -8 sin^2(pi/(2 (n + 1))) keeps the systems definite.

    Raises:
        ValueError: a shape without cells.

    Example:
        >>> import jax
        >>> from jaxsci import linear
        >>> stream = linear.streams.shifted_laplacian((4, 4))
        >>> carry, problem = stream.next(jax.random.key(1), stream.init(jax.random.key(0)), 0)
        >>> print(problem.b.shape, bool(-0.15 <= problem.context <= 0.45))
        (4, 4) True

    References: Khodak et al. 2024, Learning to Relax, section 5.
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"shifted_laplacian: expected shape (rows, cols) with at least one cell, got {shape}")
    dtype = float_dtype(*beta, low, width)
    a, b, low, width = (jnp.asarray(v, dtype) for v in (*beta, low, width))
    shape = tuple(shape)
    return Stream(
        Partial(bind(_init_laplacian, shape=shape), low), Partial(bind(_next_laplacian, shape=shape), a, b, low, width)
    )


def _init_laplacian(low, key, *, shape):
    return StreamCarry(jnp.zeros(shape, low.dtype))


def _next_laplacian(a, b, low, width, key, carry, i, *, shape):
    shift_key, rhs_key = jax.random.split(key)
    # Beta(a, b) as one of two normalised gammas; both from one call, which compiles once.
    gammas = jax.random.loggamma(shift_key, jnp.stack([a, b]), dtype=low.dtype)
    shift = low + width * jax.nn.softmax(gammas)[0]
    rhs = _bounded_normal(rhs_key, shape, low.dtype)
    return carry, Problem(operators.shifted_laplacian(shape, shift), rhs, jnp.zeros_like(rhs), shift)


@partial(jax.jit, static_argnames=("shape", "dtype"))
def _bounded_normal(key, shape, dtype):
    """Standard normal conditioned on norm <= sqrt(n), by rejection: about every second draw passes."""
    size = shape[0] * shape[1]

    def reject(carry):
        return jnp.sum(carry[1] ** 2) > size

    def draw(carry):
        return carry[0] + 1, jax.random.normal(jax.random.fold_in(key, carry[0]), shape, dtype)

    # The start is outside the ball on purpose, so that the draw is traced once.
    return jax.lax.while_loop(reject, draw, (jnp.uint32(0), jnp.full(shape, 2, dtype)))[1]


def laplacian_omega(action, shift, *, shape: tuple[int, int]):
    """Arms function of `linear.tuned_sequence`: Young's omega for the system at hand, the instance-optimal choice.

    Use it as ``Partial(bind(linear.streams.laplacian_omega, shape=(10, 10)))`` with `jax.tree_util.Partial` and
    `jaxsci.core.static.bind`, which keeps the shape static under jit; the action is ignored.

    Example:
        >>> from jaxsci import linear
        >>> print(linear.streams.laplacian_omega(0, 0.1, shape=(10, 10)).round(2))
        1.48
    """
    return theory.young_omega(theory.laplacian_radius(shape, shift))


def heat(num_cells: int = 25, *, step: Scalar = 1e-3) -> Stream:
    r"""Crank-Nicolson steps of a heat equation whose conductivity swings by a factor of 100.

    $u_t = \kappa(t) \Delta u + f(t, x)$ on the unit square, u = 0 on the border, $\kappa(t) = \max(0.1 \sin 2\pi t,
    -10 \sin 2\pi t)$, a circling source $f = 32\,\phi(x; (\frac12 + \frac14\cos 16\pi t, \frac12 + \frac14 \sin
    16\pi t), \frac18)$ and $u_0 = \phi(x; (\frac12, \frac12), \frac14)$ with the bump $\phi(x; c, r) = \exp(1 - 1/(1 -
    |x - c|^2/r^2))$. Problem i steps from t = i dt, starting at the last solution; the context is $\kappa(t)$, in
    [0, 10].

    Args:
        num_cells: cells per side, static; (num_cells - 1)^2 unknowns.
        step: dt, traced; its dtype is the stream's, and counts near a tight tolerance need float64.

    Raises:
        ValueError: fewer than 2 cells.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxsci import linear
        >>> stream = linear.streams.heat(5)
        >>> carry, problem = stream.next(jax.random.key(0), stream.init(jax.random.key(0)), jnp.int32(0))
        >>> print(carry.solution.shape == problem.b.shape)
        True

    References: Khodak et al. 2024, Learning to Relax, section 5 (heat equation).
    """
    if num_cells < 2:
        raise ValueError(f"heat: num_cells must be >= 2, got {num_cells}")
    step = as_float(step)
    return Stream(
        Partial(bind(_init_heat, num_cells=num_cells), step), Partial(bind(_next_heat, num_cells=num_cells), step)
    )


def _bump(num_cells: int, centre_x, centre_y, radius: float, dtype):
    points = jnp.arange(1, num_cells, dtype=dtype) / num_cells
    squares = (points - centre_x)[:, None] ** 2 + (points - centre_y)[None, :] ** 2
    inside = 1 - jnp.minimum(1, squares / radius**2)
    return jnp.where(inside > 0, jnp.exp(1 - 1 / jnp.where(inside > 0, inside, 1)), 0)


def _conductivity(t):
    wave = jnp.sin(2 * jnp.pi * t)
    return jnp.maximum(0.1 * wave, -10 * wave)


def _init_heat(step, key, *, num_cells):
    return StreamCarry(_bump(num_cells, 0.5, 0.5, 0.25, step.dtype))


def _next_heat(step, key, carry, i, *, num_cells):
    t = i.astype(step.dtype) * step
    middle = t + step / 2
    u = carry.solution
    number = 0.5 * _conductivity(middle) * step * num_cells**2
    shape = (num_cells - 1, num_cells - 1)
    implicit = operators.stencil5(1 + 4 * number, -number, -number, -number, -number, shape=shape, symmetric=True)
    angle = 16 * jnp.pi * middle
    source = 32 * _bump(num_cells, 0.5 + jnp.cos(angle) / 4, 0.5 + jnp.sin(angle) / 4, 0.125, step.dtype)
    # (I + k/2 Lap) u = 2 u - (I - k/2 Lap) u
    rhs = 2 * u - implicit.mv(u) + step * source
    return carry, Problem(implicit, rhs, u, _conductivity(t))


def perona_malik(
    images: Float[ArrayLike, "num_images rows cols"],
    *,
    steps_per_image: int,
    contrast: Scalar = 0.05,
    first_step: Scalar = 0.1,
    last_step: Scalar = 20.0,
) -> Stream:
    r"""Implicit nonlinear (Perona-Malik) diffusion of pictures: variable-coefficient systems whose best omega drifts.

    Each problem is one step $(I - \tau_s\,\mathrm{div}(g\nabla))\,u_{s+1} = u_s$ with conductances $g = 1/(1 + (\delta
    / \lambda)^2)$ from the differences $\delta$ of neighbouring pixels of $u_s$, no flux through the border, and time
    steps that grow geometrically from `first_step` to `last_step`, as scale spaces are sampled. After
    `steps_per_image` steps the stream turns to the next picture, round and round. The context is $\log_{10}(1 + 4
    \tau_s \bar g)$, which says how far the system is from the identity.

    Args:
        images: grey values, about in [0, 1], traced.
        steps_per_image: S, static.
        contrast: lambda: differences well above it are edges and survive, traced.
        first_step, last_step: tau of the first and last step of a picture in squared pixels, traced.

    Raises:
        ValueError: images not of shape (num_images, rows, cols), or no step.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import numpy as np
        >>> from jaxsci import linear
        >>> picture = np.tile(np.linspace(0.0, 1.0, 6, dtype=np.float32), (1, 6, 1))
        >>> stream = linear.streams.perona_malik(picture, steps_per_image=2)
        >>> carry, problem = stream.next(jax.random.key(0), stream.init(jax.random.key(0)), jnp.int32(0))
        >>> print(problem.b.shape)
        (6, 6)

    References: Perona and Malik 1990, IEEE TPAMI 12(7), equation 7 (second conductance); Weickert 1998, Anisotropic
    Diffusion in Image Processing, section 4.
    """
    dtype = float_dtype(images, contrast, first_step, last_step)
    images = jnp.asarray(images, dtype)
    if images.ndim != 3 or 0 in images.shape:
        raise ValueError(f"perona_malik: expected images of shape (num_images, rows, cols), got {images.shape}")
    steps_per_image = check_size("perona_malik", "steps_per_image", steps_per_image)
    contrast, first, last = (jnp.asarray(v, dtype) for v in (contrast, first_step, last_step))
    return Stream(
        Partial(_init_picture, images),
        Partial(bind(_next_picture, steps_per_image=steps_per_image), images, contrast, first, last),
    )


def _init_picture(images, key):
    return StreamCarry(images[0])


def _next_picture(images, contrast, first, last, key, carry, i, *, steps_per_image: int):
    step_of_image = i % steps_per_image
    picture = images[(i // steps_per_image) % images.shape[0]]
    u = jnp.where(step_of_image == 0, picture, carry.solution)
    tau = first * (last / first) ** (step_of_image.astype(first.dtype) / max(steps_per_image - 1, 1))
    down = 1 / (1 + (jnp.diff(u, axis=0) / contrast) ** 2)
    right = 1 / (1 + (jnp.diff(u, axis=1) / contrast) ** 2)
    mean = (jnp.sum(down) + jnp.sum(right)) / max(down.size + right.size, 1)
    return carry, Problem(operators.diffusion(down, right, tau), u, u, jnp.log10(1 + 4 * tau * mean))


__all__ = ["from_systems", "heat", "laplacian_omega", "perona_malik", "shifted_laplacian"]

entry.guard(
    globals(), "_init_heat", "_init_laplacian", "_init_picture", "_next_heat", "_next_laplacian", "_next_picture"
)
