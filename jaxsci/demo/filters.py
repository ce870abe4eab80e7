"""Scene "filters": likelihoods by particle filters, right in float32 at a million particles.

The model is linear and Gaussian, so that Kalman's filter gives the exact likelihood. Stages, each measured and printed:
a filter with a million particles against the exact one, 64 parameters as lanes of one program against the same filters
one by one, and the surface of the likelihood as a picture.
"""

import json
import math
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import plot, smc
from jaxsci.demo import _shared, page

_SETTINGS, _FAST = "PARTICLES, MANY = 1000, 1_000_000", "PARTICLES, MANY = 300, 20_000"


def scene(folder: pathlib.Path, fast: bool) -> None:
    """Run the scene into `folder`.

    Args:
        folder: made if it is not there; what a former run of the same sizes finished in it is kept and used.
        fast: small sizes; their sweep is kept beside that of the full ones.

    Raises:
        OSError: the folder cannot be written, or holds another scene.
        ImportError: the extra "demo" is missing.
    """
    began = time.perf_counter()
    device = _shared.opening(folder, "filters")
    full, small = _shared.source("_smc_study.py", {}), _shared.source("_smc_study.py", {_SETTINGS: _FAST})
    text = small if fast else full
    study = _shared.load(text)
    lead = (
        f"A linear-Gaussian state-space model, 50 observations; particle filters with {study.MANY:,} particles in "
        f"float32, and with {study.PARTICLES:,} for each of {study.SLOPES.size * study.SCALES.size} parameters."
    )
    report = page.Page("How likely is a series?", lead, _shared.environment(device))
    kept = _shared.sweep_folder(folder, text)
    ds = study.study(out=kept, progress=False)
    _surface(report, folder, ds, study)
    _lanes(report, ds, study)
    _many(report, study)
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(f"\nwrote {folder}/: index.html, results.nc, study.py and a picture, in {time.perf_counter() - began:.0f} s")


def _kalman(y: np.ndarray, slope: float, scale: float) -> tuple[float, np.ndarray]:
    """Log-likelihood and filtering means of x_t = slope x_{t-1} + e_t, y_t = x_t + scale n_t, in float64."""
    mean, variance, log_z, means = 0.0, 1 / (1 - slope**2), 0.0, []
    for t, value in enumerate(np.asarray(y, np.float64)):
        if t:
            mean, variance = slope * mean, slope**2 * variance + 1
        total = variance + scale**2
        log_z -= 0.5 * (math.log(2 * math.pi * total) + (value - mean) ** 2 / total)
        mean, variance = mean + variance / total * (value - mean), variance * scale**2 / total
        means.append(mean)
    return log_z, np.array(means)


def _exact(study) -> np.ndarray:
    y = study.series()
    return np.array([[_kalman(y, slope, scale)[0] for scale in study.SCALES] for slope in study.SLOPES])


def _surface(report, folder, ds, study) -> None:
    found, exact = ds["log_z"].isel(key=0).values, _exact(study)
    report.line(
        f"{found.size} parameters, {study.PARTICLES:,} particles each: largest error of a log-likelihood "
        f"{np.abs(found - exact).max():.2f}, root mean square {np.sqrt(np.mean((found - exact) ** 2)):.2f}; "
        f"{int((ds['status'] != 0).sum())} failed."
    )
    best, true = (np.unravel_index(a.argmax(), a.shape) for a in (found, exact))
    report.line(
        f"Largest likelihood at slope {study.SLOPES[best[0]]:.2f}, scale {study.SCALES[best[1]]:.2f}; by the exact "
        f"filter at {study.SLOPES[true[0]]:.2f}, {study.SCALES[true[1]]:.2f}."
    )
    surfaces = [np.maximum(a - exact.max(), -40) for a in (found, exact)]
    axes = plot.images(surfaces, titles=["particle filters", "exact"], columns=2)
    report.figure(
        axes, folder / "likelihood.png", "Log-likelihood below its maximum; slopes downwards, scales to the right."
    )


def _lanes(report, ds, study) -> None:
    """All parameters as lanes of one program, against one filter after another; compilation apart."""
    timing = json.loads(ds.attrs["provenance"])
    single, key = jax.jit(study.point), jax.random.key(0)
    pairs = [(jnp.float32(a), jnp.float32(b)) for a in study.SLOPES for b in study.SCALES]
    jax.block_until_ready(single(key, *pairs[0]))
    began = time.perf_counter()
    for pair in pairs:
        jax.block_until_ready(single(key, *pair))
    report.line(
        f"{len(pairs)} filters of 50 steps as lanes of one program: {timing['run_seconds']:.2f} s, and "
        f"{timing['compile_seconds']:.1f} s compiling; one after another {time.perf_counter() - began:.2f} s."
    )


def _many(report, study) -> None:
    began = time.perf_counter()
    result = jax.jit(study.run, static_argnums=3)(jax.random.key(0), jnp.float32(0.9), jnp.float32(0.5), study.MANY)
    found, error = float(result.log_z), float(jnp.sqrt(smc.log_z_variance(result).value))
    seconds, (log_z, means) = time.perf_counter() - began, _kalman(study.series(), 0.9, 0.5)
    miss = np.abs(np.asarray(result.history.statistics[0]) - means).max()
    report.line(
        f"{study.MANY:,} particles in {result.log_z.dtype}: log-likelihood {found:.3f}, exact {log_z:.3f}: "
        f"{abs(found - log_z) / error:.1f} standard errors of {error:.3f} that the run itself tells; largest error of "
        f"a filtering mean {miss:.4f}; {seconds:.1f} s with compilation."
    )


__all__ = ["scene"]
