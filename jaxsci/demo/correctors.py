r"""Scene "correctors": what classifier-free guidance samples, and what it should: weights, and a constant.

Guidance of power w aims at $U^{1-w} C^w / Z$ of an unconditional and a conditional law, and misses it. In one dimension
quadrature tells that target and its Z. Stages, each measured and printed: log Z of the corrected clouds for several
powers against quadrature; means and standard deviations with the weights, and of the guided clouds alone; pictures.
"""

import pathlib
import shutil
import time

import jax
import numpy as np

from jaxsci.demo import _shared, page

_SETTINGS, _FAST = "PARTICLES, SEEDS = 4096, 8", "PARTICLES, SEEDS = 512, 4"
_SHOWN = 2.5  # the power whose densities are drawn


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
    device = _shared.opening(folder, "correctors")
    full, small = (_shared.source("_correctors_study.py", edits) for edits in ({}, {_SETTINGS: _FAST}))
    text = small if fast else full
    study = _shared.load(text)
    lead = (
        "Classifier-free guidance of power w moves samples by a mixture of two models' predictions and aims at "
        "U^(1-w) C^w, normalised. It does not get there. Weights that are followed along the way do, and tell the "
        f"constant Z of that law: {study.SEEDS} clouds of {study.PARTICLES:,} particles for each of "
        f"{study.POWERS.size} powers, against quadrature."
    )
    report = page.Page("What does guidance sample?", lead, _shared.environment(device))
    kept = _shared.sweep_folder(folder, text)
    ds = study.study(out=kept, progress=False)
    grid, density, exact = _quadrature(study)
    _constants(report, folder, ds, study, exact)
    _moments(report, ds, grid, density)
    _densities(report, folder, study, grid, density)
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(
        f"\nwrote {folder}/: index.html, results.nc, study.py and the pictures, in {time.perf_counter() - began:.0f} s"
    )


def _quadrature(study):
    """Points x, the normalised targets on them for every power, and log Z of each."""
    x = np.linspace(-14, 14, 28001)
    logs = []
    for law in study.LAWS:
        weights, means, stds = (np.asarray(a)[:, None] for a in law)
        logs.append(np.log(np.sum(weights / stds * np.exp(-0.5 * ((x - means) / stds) ** 2), 0) / np.sqrt(2 * np.pi)))
    powers = study.POWERS[:, None]
    values = np.exp((1 - powers) * logs[0] + powers * logs[1])
    z = np.sum(values, axis=1) * (x[1] - x[0])
    return x, values / z[:, None], np.log(z)


def _constants(report, folder, ds, study, exact) -> None:
    import matplotlib.pyplot as plt

    mean, error = ds.log_z.mean("key").values, ds.log_z.std("key", ddof=1).values / study.SEEDS**0.5
    report.line(
        f"log Z at {exact.size} powers from {study.POWERS[0]:g} to {study.POWERS[-1]:g}: largest difference from "
        f"quadrature {np.abs(mean - exact).max():.3f}, root mean square {np.sqrt(np.mean((mean - exact) ** 2)):.3f}, "
        f"mean standard error {error.mean():.3f}; {int((ds.status != 0).sum())} failed."
    )
    _, ax = plt.subplots(figsize=(7, 4), layout="constrained")
    ax.plot(study.POWERS, exact, "k:", label="quadrature")
    ax.errorbar(study.POWERS, mean, 2 * error, fmt="o", color="#0072B2", label="corrected clouds, 2 standard errors")
    ax.set(xlabel="power w of guidance", ylabel="log Z")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    report.figure([ax], folder / "constants.png", "The normalising constant of what guidance aims at.")


def _moments(report, ds, grid, density) -> None:
    step = grid[1] - grid[0]
    mean = density @ grid * step
    spread = np.sqrt(np.sum(density * (grid[None] - mean[:, None]) ** 2, axis=1) * step)
    off = {
        name: max(np.abs(ds[f"{prefix}{what}"].mean("key").values - truth).max() for what, truth in pairs)
        for name, prefix, pairs in (
            ("weighted", "", (("mean", mean), ("std", spread))),
            ("guided alone", "guided_", (("mean", mean), ("std", spread))),
        )
    }
    report.line(
        "Largest error of a mean or standard deviation over all powers: "
        + ", ".join(f"{name} {value:.3f}" for name, value in off.items())
        + "."
    )


def _densities(report, folder, study, grid, density) -> None:
    import matplotlib.pyplot as plt

    i = int(np.argmin(np.abs(study.POWERS - _SHOWN)))
    power, run = np.float32(study.POWERS[i]), jax.jit(study.run)
    _, ax = plt.subplots(figsize=(9, 4), layout="constrained")
    for threshold, name, colour in ((0.0, "guided alone", "#D55E00"), (0.5, "weighted", "#0072B2")):
        cloud = jax.device_get(run(jax.random.key(1), power, threshold).value)
        weights = np.exp(cloud.log_weights - cloud.log_weights.max()) if threshold else np.ones(study.PARTICLES)
        ax.hist(
            cloud.particles[:, 0], bins=np.linspace(-5, 5, 61), weights=weights, density=True, histtype="step",
            color=colour, label=name,
        )  # fmt: skip
    near = np.abs(grid) <= 5
    ax.plot(grid[near], density[i, near], "k:", label="target")
    ax.set(xlabel="x", ylabel="density")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    caption = f"U^(1-w) C^w for w = {power:g}: its density, and histograms of a cloud without and with weights."
    report.figure([ax], folder / "densities.png", caption)


__all__ = ["scene"]
