r"""How the cloud of a corrector starts, moves and is weighed, and what each of its moves is told; see `correctors`.

A move takes a row of a solver's table. Its weights come from the models' predictions at the node it leaves (the
trapezoidal rule of the growth in `_composed.py`), or from densities at both nodes.

References: M. Skreta et al. 2025, algorithm 1; P. Del Moral, A. Doucet, A. Jasra, "Sequential Monte Carlo samplers",
2006, section 3.3.
"""

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxsci.core import entry, status, tree
from jaxsci.core.host import namespace
from jaxsci.core.keys import unrolled
from jaxsci.diffusion import _composed
from jaxsci.diffusion._composed import Place, Seen
from jaxsci.diffusion._sample import State, advanced, beginning, choose, rows_of
from jaxsci.diffusion.tables import SolverTable


class Particle(NamedTuple):
    """Samples on their way with the solver's histories; with exact densities, what the models say of them too."""

    state: State
    seen: Seen | None = None
    log_target: Array | None = None


class Input(NamedTuple):
    """What one move is told: the table's row, the target at both its nodes and its change between them."""

    row: dict
    here: Place
    then: Place
    change: Place
    kappa: Array
    counts: Array
    alpha_next: Array
    sigma_next: Array


class Options(NamedTuple):
    """What is done to the increments of the weights."""

    window: Any
    clip: Any
    centre: bool


# --- the cloud's model --------------------------------------------------------------------------------------


def start(target, law, key, num, now, *, exact):
    """The cloud at node 0, drawn from `law`, and its log-weights; what `smc.Model` calls init."""
    row, here = now.row, now.here
    centre, variance, log_z = (a[None] for a in law)
    x = centre + jnp.sqrt(variance) * jax.random.normal(unrolled(key), (num, *centre.shape[1:]), centre.dtype)
    state, laws = beginning(row, x, 0, True), _composed.log_laws(target, x, row["t"])
    reward = _composed.rewards(target, x, row["t"])
    if laws is None:
        weights = jnp.broadcast_to(log_z, (num,))
        return Particle(state), weights if reward is None else weights + _composed.times(here.scale, reward)
    density = _composed.log_target(laws, reward, here)
    weights = density - _log_normal(x, centre, variance)
    if not exact:
        return Particle(state), weights
    return Particle(state, _composed.look(target, x, row["t"], here, row["alpha"], True), density), weights


def _log_normal(x, mean, variance):
    return -0.5 * jnp.sum(jnp.log(2 * math.pi * variance) + (x - mean) ** 2 / variance, axis=tuple(range(1, x.ndim)))


def _weighed(target, key, particle, now):
    """Move by fresh predictions, and weigh by what they tell of this node."""
    row, x = now.row, particle.state.x
    seen = _composed.look(target, x, row["t"], now.here, row["alpha"], callable(target.beta))
    pair = _composed.pair(seen, now.here, now.kappa, row["alpha"], row["sigma"])
    growth = _composed.log_growth(seen, now.here, now.change, x, row["sigma"])
    return Particle(advanced(key, row, particle.state, *pair)[0]), growth


def _compared(target, key, particle, now):
    r"""Move by the predictions of the move before; weigh by the target's densities and the law of the way back.

    That law is the time reversal of the move, over h in lambda with the noise kappa: normal of mean
    $\frac{s}{s'} e^{-\kappa h} x' - a\varphi\,((1-\kappa) D' - \kappa\frac{s'^2}{a'}\rho\nabla r')$ with
    $\varphi = (e^{(1-\kappa)h} - 1)/(1-\kappa)$, and of variance $s^2(1 - e^{-2\kappa h})$; a, s are alpha and sigma
    here, a', s' at the next node. Any law would be exact; this one has even weights.
    """
    row, kappa, h = now.row, now.kappa, now.change.lam
    state, seen, before = particle
    pair = _composed.pair(seen, now.here, kappa, row["alpha"], row["sigma"])
    new = advanced(key, row, state, *pair)[0]
    drawn = jax.random.normal(unrolled(key), state.x.shape, state.x.dtype)  # what moved the cloud
    then = _composed.look(target, new.x, row["t_next"], now.then, now.alpha_next, True)
    after = _composed.log_target(then.log_densities, then.reward, now.then)
    small = jnp.abs((1 - kappa) * h) < 1e-6
    phi = jnp.where(small, h, jnp.expm1((1 - kappa) * h) / jnp.where(small, 1, 1 - kappa))
    drift = (1 - kappa) * then.data
    if then.slope is not None:
        drift = drift - kappa * now.sigma_next**2 / now.alpha_next * now.then.scale * then.slope
    back = row["sigma"] / now.sigma_next * jnp.exp(-kappa * h) * new.x - row["alpha"] * phi * drift
    way_back = _log_normal(state.x, back, -(row["sigma"] ** 2) * jnp.expm1(-2 * kappa * h))
    onward = _log_normal(drawn, 0.0, 1.0) - state.x[0].size * jnp.log(row["predictor"].std)
    return Particle(new, then, after), after - before + way_back - onward


def move(target, options, key, particle, log_weights, now, *, exact):
    """One row of the table: the cloud at the next node, the growth of its log-weights, whether it is biased."""

    def go(particle):
        moved, growth = (_compared if exact else _weighed)(target, key, particle, now)
        return moved, growth.astype(log_weights.dtype)

    def stay(particle):
        return particle, jnp.zeros_like(log_weights)

    active = now.row["active"]
    moved, growth = go(particle) if active is None else choose(active, go, stay, particle)
    growth, biased = jnp.where(now.counts, growth, 0), jnp.asarray(False)
    if options.window is not None:
        inside = _inside(options.window, now.here.lam)
        growth, biased = jnp.where(inside, growth, 0), now.counts & ~inside
    if options.centre:
        usable = jnp.isfinite(growth)
        growth = growth - jnp.sum(jnp.where(usable, growth, 0)) / jnp.maximum(jnp.sum(usable), 1)
        biased = biased | now.counts
    if options.clip is not None:
        clip = options.clip.astype(growth.dtype)
        biased = biased | jnp.any(jnp.abs(growth) > clip)
        growth = jnp.clip(growth, -clip, clip)
    return moved, growth, biased


def _inside(window, lam):
    return (lam >= window[0]) & (lam <= window[1])


# --- what a run is told -------------------------------------------------------------------------------------


class Prepared(NamedTuple):
    """Inputs of the run, and what its result tells beside."""

    inputs: Input
    shares: Array
    law: tuple[Array, Array, Array]
    status: Array
    nfe: Array
    kappa: Array
    variance_ratio: Array


@eqx.filter_jit
def prepared(target, table, kappas, mean, std, options, share, interval, exact):
    """All that does not depend on the cloud: inputs and thresholds of every move, the law of the start, its status."""
    size = table.num_rows
    table, kappas = tree.cast(jax.tree.map(jnp.asarray, (table, kappas)), mean[0].dtype)
    kappas = jnp.broadcast_to(kappas, (size,))
    lam, active = table.lam, jnp.ones(size, bool) if table.active is None else table.active
    every = _composed.places(target, lam, table.alpha)
    here, then = (jax.tree.map(lambda a, s=s: a[s], every) for s in (slice(None, -1), slice(1, None)))
    weighs = active & jnp.isfinite(lam[1:])  # the step to a node without noise is not weighed
    change, counts = _changes(every, weighs, active, exact)
    inputs = Input(rows_of(table), here, then, change, kappas, counts, table.alpha[1:], table.sigma[1:])
    wanted = active & (jnp.arange(size) % interval == 0)
    if options.window is not None:
        wanted = wanted & _inside(options.window, lam[:-1])
    law = _start(jax.tree.map(lambda a: a[0], here), table.alpha[0], table.sigma[0], mean, std)
    steps = jnp.where(weighs, lam[1:] - lam[:-1], 0)
    kappa, total = jnp.sum(kappas * steps) / jnp.sum(steps), jnp.sum(then.beta[-1])
    usable = jnp.all(jnp.isfinite(law[1])) & jnp.isfinite(lam[0]) & jnp.isfinite(kappa)
    bits = status.flag(~usable, status.OUT_OF_RANGE)
    limit = (1 + kappa) * total - 1
    ratio = jnp.where(limit > 0, total * kappa / jnp.where(limit > 0, limit, 1), jnp.inf)
    nfe = jnp.sum(active, dtype=jnp.int32) + int(exact)
    # the start has no row: it is told the first, and nothing is resampled before it
    inputs = jax.tree.map(lambda a: jnp.concatenate([a[:1], a]), inputs)
    shares = jnp.append(False, wanted) * share.astype(jnp.promote_types(lam.dtype, jnp.float32))
    return Prepared(inputs, shares, law, bits, nfe, kappa, ratio)


def _changes(every: Place, weighs, active, exact: bool):
    """How much the parameters change by a row, and whether the row weighs at all.

    By the trapezoidal rule a node takes half of the intervals on either side, and the last evaluated node all that
    follows; densities compare both ends of an interval and take all of it.
    """
    column = lambda a, ndim: a.reshape(-1, *(1,) * (ndim - 1))  # noqa: E731
    again = jnp.append(active[1:], False)

    def change(values):
        steps = jnp.where(column(weighs, values.ndim), values[1:] - values[:-1], 0)
        if exact:
            return steps
        halves = jnp.where(column(again, values.ndim), 0.5 * steps, 0)
        return steps - halves + jnp.concatenate([jnp.zeros_like(halves[:1]), halves[:-1]])

    before = jnp.concatenate([jnp.zeros(1, bool), weighs[:-1]])
    return jax.tree.map(change, every), weighs if exact else weighs | (active & before)


def _start(here: Place, alpha, sigma, mean, std):
    """(mean, variance, log of the constant) of the normal law that the powers of the models' laws make at node 0."""
    precision, slope, constant = 0.0, 0.0, 0.0
    for beta, m, s in zip(here.beta, mean, std):
        variance = jnp.broadcast_to((alpha * s) ** 2 + sigma**2, m.shape)
        precision = precision + beta / variance
        slope = slope + beta * alpha * m / variance
        constant = constant - 0.5 * beta * (jnp.log(2 * math.pi * variance) + (alpha * m) ** 2 / variance)
    precision = jnp.where(precision > 0, precision, jnp.nan)
    centre = slope / precision
    return centre, 1 / precision, jnp.sum(constant + 0.5 * (jnp.log(2 * math.pi / precision) + precision * centre**2))


def kappas_of(table: SolverTable):
    """tau^2 of every row by the noise it adds, sigma^2 (1 - exp(-2 kappa h)) for the reverse SDE."""
    xp = namespace(table)
    if table.predictor.std is None:
        return xp.zeros(table.num_rows, table.t.dtype)
    lam = xp.where(xp.isfinite(table.lam), table.lam, 0)
    h, sigma = lam[1:] - lam[:-1], table.sigma[1:]
    usable = xp.isfinite(table.lam[1:]) & xp.isfinite(table.lam[:-1]) & (h > 0) & (sigma > 0)
    h, sigma = xp.where(usable, h, 1), xp.where(usable, sigma, 1)
    return xp.where(usable, -xp.log1p(-xp.clip((table.predictor.std / sigma) ** 2, 0, 1 - 1e-7)) / (2 * h), 0)


__all__: list[str] = []

entry.hold(globals(), "move", "start")
