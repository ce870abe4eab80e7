"""Hooks, image-to-image starts: what they change, and that their parameters are axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from diffusion import mixture
from jaxsci import diffusion
from jaxsci.diffusion import grids, hooks, schedules, solvers, tables

PROBLEM = mixture.problem_a()
VP = PROBLEM.schedule
DENOISER = mixture.denoiser(PROBLEM.mixture, VP)
GRID = grids.logsnr(VP, 12)
KNOWN, MASK = np.asarray([1.2, 0.0]), np.asarray([True, False])


def test_inpainting_keeps_what_is_known_and_consistent_pairs():
    hook = hooks.inpaint(KNOWN, MASK)
    table = solvers.unipc(grids.with_zero(GRID))
    run = diffusion.sample(None, DENOISER, table, PROBLEM.x_T[0], denoised_hook=hook, save="trajectory")
    np.testing.assert_allclose(run.value[0], 1.2, rtol=1e-6)
    np.testing.assert_allclose(run.trajectory.data[:, 0], 1.2, rtol=1e-6)
    # isotropic data have independent coordinates: the other one does not notice
    gauss = mixture.denoiser(mixture.single_gaussian(), VP)
    plain = diffusion.sample(None, gauss, table, PROBLEM.x_T[0])
    hooked = diffusion.sample(None, gauss, table, PROBLEM.x_T[0], denoised_hook=hook)
    np.testing.assert_allclose(hooked.value[1], plain.value[1], rtol=1e-5)


def test_inpainting_draws_the_rest_to_match():
    """Two far modes on the diagonal: knowing one coordinate decides the other, for four fifths of the starts."""
    modes = mixture.Mixture(np.full(2, 0.5), np.asarray([(-1.0, -1.0), (1.0, 1.0)]), np.full(2, 0.2))
    denoiser, table = mixture.denoiser(modes, VP), solvers.unipc(grids.with_zero(GRID))

    def run(x, known):
        return diffusion.sample(None, denoiser, table, x, denoised_hook=hooks.inpaint(known, MASK)).value

    ends = jax.vmap(jax.vmap(run, (0, None)), (None, 0))(PROBLEM.x_T, np.asarray([[1.0, 0.0], [-1.0, 0.0]]))
    assert np.mean(ends[0, :, 1] > 0) > 0.75 and np.mean(ends[1, :, 1] < 0) > 0.75  # measured .82; by chance .5


@pytest.mark.x64
def test_soft_masks_mix_and_scalars_broadcast():
    hook = hooks.inpaint(2.0, 0.25)
    data = jnp.asarray([[1.0, -1.0]])
    np.testing.assert_allclose(hook(data, data, 0.5, None), 0.5 + 0.75 * data)


def test_thresholding_hooks_look_at_the_data_alone():
    data = jnp.asarray([-3.0, -0.5, 0.2, 2.0])
    np.testing.assert_array_equal(hooks.clip(1.5)(data, data, 0.1, None), hooks.clip(1.5)(data))
    got = hooks.dynamic_threshold(0.7, max_value=2.5)(data, data, 0.1, None)
    np.testing.assert_array_equal(got, hooks.dynamic_threshold(0.7, max_value=2.5)(data))


def test_replaced_parts_have_the_law_of_their_node(key):
    """After every step the known part is alpha y + sigma xi: mean and variance to 5 standard errors."""
    hook, num = hooks.replace_known(KNOWN, MASK, VP), 20_000
    x = jnp.asarray([7.0, -7.0])
    t = jnp.asarray(0.3)
    alpha, sigma = VP.alpha_sigma(VP.lam(0.3))
    draws = np.asarray(jax.vmap(lambda k: hook(x, t, k))(jax.random.split(key, num)))
    assert np.all(draws[:, 1] == -7.0)
    assert abs(draws[:, 0].mean() - alpha * 1.2) < 5 * sigma / np.sqrt(num)
    assert abs(draws[:, 0].var() - sigma**2) < 5 * sigma**2 * np.sqrt(2 / num)
    with_zero = diffusion.sample(key, DENOISER, solvers.ddim(grids.with_zero(GRID)), x, state_hook=hook)
    np.testing.assert_allclose(with_zero.value[0], 1.2, rtol=1e-6)
    assert int(with_zero.status) == 0


def test_composition_is_in_order_with_keys_of_its_own(key):
    double = lambda D, x, t, key: 2 * D  # noqa: E731
    both = hooks.compose(hooks.clip(1.0), double)
    data = jnp.asarray([-3.0, 0.2])
    np.testing.assert_allclose(both(data, data, 0.1, None), [-2.0, 0.4])
    np.testing.assert_allclose(hooks.compose(double, hooks.clip(1.0))(data, data, 0.1, None), [-1.0, 0.4])
    noise = lambda x, t, key: x + jax.random.normal(key, x.shape)  # noqa: E731
    twice = hooks.compose(noise, noise)(jnp.zeros(2), 0.1, key)
    own = [jax.random.normal(jax.random.fold_in(key, j), (2,)) for j in range(2)]
    np.testing.assert_allclose(twice, own[0] + own[1], rtol=1e-6)


def test_hooks_are_axes_and_compile_once():
    known = jnp.asarray(np.linspace(-1, 1, 6).reshape(3, 2), jnp.float32)
    table = solvers.dpm_multistep(GRID)
    x = jnp.asarray(PROBLEM.x_T[0], jnp.float32)

    def one(known, radius):
        hook = hooks.compose(hooks.inpaint(known, MASK), hooks.clip(radius))
        return diffusion.sample(None, DENOISER, table, x, denoised_hook=hook).value

    many = jax.vmap(one, (0, None))(known, 1.5)
    loop = [one(k, 1.5) for k in known]
    np.testing.assert_allclose(many, loop, rtol=2e-5, atol=2e-5)
    other = known[1] + 0.1
    with contracts.count_compilations() as events:
        one(other, 1.1).block_until_ready()
    assert not events


@pytest.mark.bad_input
def test_bad_hooks():
    with pytest.raises(ValueError, match="replace_known: draws noise; pass a key"):
        hook = hooks.replace_known(KNOWN, MASK, VP)
        diffusion.sample(None, DENOISER, solvers.ddim(GRID), PROBLEM.x_T[0], state_hook=hook)
    with pytest.raises(TypeError, match="hook 1 must be a function, got float"):
        hooks.compose(hooks.clip(), 0.5)


# --- image to image -----------------------------------------------------------------------------------------


def test_strength_keeps_the_last_steps():
    grid = grids.time(VP, 10)
    part = grids.from_strength(grid, 0.3)
    np.testing.assert_array_equal(part.t, grid.t[7:])
    np.testing.assert_array_equal(part.lam, grid.lam[7:])
    assert grids.from_strength(grid, 1.0).t.shape == (11,)
    assert grids.from_strength(grid, 0.59).t.shape == (6,)
    for wrong in (0.0, 1.2, -0.5, 0.05):
        with pytest.raises(ValueError, match=r"strength must be in \(0, 1\] and leave a step of 10"):
            grids.from_strength(grid, wrong)


@pytest.mark.x64
def test_start_is_the_forward_kernel(key):
    grid = grids.from_strength(grids.time(VP, 10), 0.4)
    image = jnp.asarray([0.5, -1.0])
    for source in (grid, solvers.unipc(grid)):
        np.testing.assert_allclose(
            grids.start(key, source, image),
            grid.alpha[0] * image + grid.sigma[0] * jax.random.normal(key, (2,)),
            rtol=1e-12,
        )
    ve = grids.karras(schedules.ve(), 5)
    np.testing.assert_allclose(grids.start(key, ve, 0 * image), 80 * jax.random.normal(key, (2,)), rtol=1e-12)
    third = grids.start(key, grid, image, node=2)
    np.testing.assert_allclose(third, grid.alpha[2] * image + grid.sigma[2] * jax.random.normal(key, (2,)))


@pytest.mark.x64
def test_image_to_image_keeps_the_law_of_the_data(key):
    """Noise data to the middle and come back: the law is that of the data, and the mode is mostly kept."""
    num = 4000
    w, mu, s = PROBLEM.mixture
    keys = jax.random.split(key, 3)
    which = np.asarray(jax.random.choice(keys[0], 5, (num,), p=jnp.asarray(w)))
    image = mu[which] + s[which, None] * np.asarray(jax.random.normal(keys[1], (num, 2)))
    grid = grids.from_strength(grids.time(VP, 40), 0.25)
    table = solvers.unipc(grid)
    start = jax.vmap(lambda k, y: grids.start(k, table, y))(jax.random.split(keys[2], num), image)
    back = np.asarray(jax.vmap(lambda x: diffusion.sample(None, DENOISER, table, x).value)(start))
    mean = w @ mu
    var = w @ (s[:, None] ** 2 + mu**2) - mean**2
    assert np.all(np.abs(back.mean(0) - mean) < 5 * np.sqrt(var / num) + 2e-3)
    assert np.all(np.abs(back.var(0) - var) < 5 * var * np.sqrt(2 / num) + 4e-3)
    moved = np.linalg.norm(back - image, axis=1).mean()
    assert 0.1 < moved < 0.75 * np.linalg.norm(image - image[::-1], axis=1).mean()


def test_a_truncated_table_still_stacks():
    grid = grids.time(VP, 10)
    stacked = tables.stack([solvers.unipc(grids.from_strength(grid, s)) for s in (0.2, 0.5, 1.0)])
    np.testing.assert_array_equal(stacked.active.sum(1), [2, 5, 10])
    starts = jax.vmap(lambda t: grids.start(jax.random.key(0), t, jnp.ones(2)))(stacked)
    assert starts.shape == (3, 2)
