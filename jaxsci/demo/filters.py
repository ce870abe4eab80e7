"""Scene "filters": likelihoods by particle filters, right in float32 at a million particles.

The model is linear and Gaussian, so that Kalman's filter gives the exact likelihood. Stages, each measured and printed:
a filter with a million particles against the exact one, step by step as a picture; and 64 parameters as one sweep,
their likelihood as a picture beside the exact one.
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
        "50 noisy observations y of a hidden walk, x[t] = slope x[t-1] + e[t] and y[t] = x[t] + scale n[t] with normal "
        "e and n. A particle filter guesses the walk and says how likely the observations are: here with "
        f"{study.MANY:,} particles in float32, and with {study.PARTICLES:,} for each of "
        f"{study.SLOPES.size * study.SCALES.size} pairs of slope and scale. Kalman's filter, exact here, is the judge."
    )
    report = page.Page("How likely is a series?", lead, _shared.environment(device))
    print(f"a filter with {study.MANY:,} particles ...", flush=True)
    _many(report, folder, study)
    kept = _shared.sweep_folder(folder, text)
    print("the likelihood under other slopes and scales ...", flush=True)
    ds = study.study(out=kept, progress=False)
    _surface(report, folder, ds, study)
    _lanes(report, ds, study)
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(
        f"\nwrote {folder}/: index.html, results.nc, study.py and the pictures, in {time.perf_counter() - began:.0f} s"
    )


def _kalman(y: np.ndarray, slope: float, scale: float) -> tuple[float, np.ndarray]:
    """Log-likelihood of y_t = x_t + scale n_t, x_t = slope x_{t-1} + e_t, filtering means and variances, in float64."""
    mean, variance, log_z, rows = 0.0, 1 / (1 - slope**2), 0.0, []
    for t, value in enumerate(np.asarray(y, np.float64)):
        if t:
            mean, variance = slope * mean, slope**2 * variance + 1
        total = variance + scale**2
        log_z -= 0.5 * (math.log(2 * math.pi * total) + (value - mean) ** 2 / total)
        mean, variance = mean + variance / total * (value - mean), variance * scale**2 / total
        rows.append((mean, variance))
    return log_z, np.array(rows).T


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
    import matplotlib.pyplot as plt
    import xarray as xr

    _, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained")
    for ax, values, title in zip(axes, (found, exact), (f"{study.PARTICLES:,} particles", "exact")):
        below = xr.DataArray(
            values - exact.max(),
            dims=("slope", "scale"),
            coords={"slope": study.SLOPES, "scale": study.SCALES},
            attrs={"long_name": "log-likelihood, from the exact maximum"},
        )
        plot.heatmap(below, best="max", title=title, ax=ax)
    caption = (
        "How likely the observations are under each pair of parameters; the frame marks the likeliest pair. They were "
        "made with slope 0.9 and scale 0.5. The noise of a filter decides between neighbours that are about as likely."
    )
    report.figure(axes, folder / "likelihood.png", caption)


def _lanes(report, ds, study) -> None:
    """What all parameters took as lanes of one program; compilation, which is once for any parameters, apart."""
    timing, lanes, steps = json.loads(ds.attrs["provenance"]), ds["log_z"].size, ds.sizes["time"]
    seconds = timing["run_seconds"]
    report.line(
        f"{lanes} filters of {steps} steps as lanes of one program: {seconds:.2f} s, "
        f"{lanes * steps * study.PARTICLES / seconds / 1e6:.0f} million steps of a particle a second, and "
        f"{timing['compile_seconds']:.1f} s compiling."
    )


def _many(report, folder, study) -> None:
    """One large filter: its likelihood and what it says of the state at every step."""
    began = time.perf_counter()

    @jax.jit
    def run(key, slope, scale):
        result = study.run(key, slope, scale, study.MANY)
        return result.log_z, jnp.sqrt(smc.log_z_variance(result).value), result.history.statistics

    log_z, error, (means, variances) = jax.device_get(run(jax.random.key(0), jnp.float32(0.9), jnp.float32(0.5)))
    seconds, (exact, (mean, _)) = time.perf_counter() - began, _kalman(study.series(), 0.9, 0.5)
    report.line(
        f"{study.MANY:,} particles in {log_z.dtype}: log-likelihood {log_z:.3f}, exact {exact:.3f}: "
        f"{abs(log_z - exact) / error:.1f} standard errors of {error:.3f} that the run itself tells; largest error of "
        f"a filtering mean {np.abs(means - mean).max():.4f}; {seconds:.1f} s with compilation."
    )
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(12, 4), layout="constrained")
    time_, spread = np.arange(mean.size), 2 * np.sqrt(variances)
    ax.fill_between(time_, means - spread, means + spread, color="#0072B2", alpha=0.25, label="95 % of the particles")
    ax.plot(time_, means, color="#0072B2", label=f"mean of {study.MANY:,} particles")
    ax.plot(time_, mean, "k:", label="exact mean (Kalman)")
    ax.plot(time_, study.series(), "o", color="#D55E00", markersize=4, label="observation y")
    ax.set(xlabel="time t", ylabel="hidden state x")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1))
    caption = "What the filter says of the hidden state at time t, given the observations up to then."
    report.figure([ax], folder / "states.png", caption)


__all__ = ["scene"]
