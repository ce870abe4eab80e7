"""Scene "pfn": a network that has only ever seen data sets of a prior predicts the posterior in one pass.

The prior is a Gaussian process, so that the exact posterior is known. Stages, each measured and printed: by how much
the network's log-density is lower than the exact one, beside the latter, for several numbers of known points; the
predictive densities of both as pictures; a thousand data sets in one call against the same calls one by one.
"""

import pathlib
import shutil
import time
import warnings

import jax
import numpy as np

from jaxsci import plot
from jaxsci.demo import _shared, page

_SETTINGS, _FAST = "SETS, MANY = 1024, 1000", "SETS, MANY = 64, 50"


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
    device = _shared.opening(folder, "pfn")
    full, small = _shared.source("_pfn_study.py", {}), _shared.source("_pfn_study.py", {_SETTINGS: _FAST})
    text = small if fast else full
    study = _shared.load(text)
    lead = (
        "A network of 125,504 parameters, trained on data sets drawn from a Gaussian process and on nothing else, "
        f"against the exact posterior of that process, on {study.SETS:,} fresh data sets."
    )
    report = page.Page("A network that knows Bayes' rule", lead, _shared.environment(device))
    kept = _shared.sweep_folder(folder, text)
    with warnings.catch_warnings():  # the score takes its factorisations one after the other
        warnings.filterwarnings("ignore", "sweep.run: this program holds factorisations")
        ds = study.study(out=kept, progress=False).isel(key=0)
    for row in ds.to_dataframe().itertuples():
        report.line(
            f"{row.Index:>2} known points: exact log-density {row.exact:.3f} nats, the network's lower by "
            f"{row.gap:.3f} (standard error {row.error:.3f}); {row.coverage:.1%} of the targets in its central 90 %."
        )
    _pictures(report, folder, study)
    _many(report, study)
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(f"\nwrote {folder}/: index.html, results.nc, study.py and a picture, in {time.perf_counter() - began:.0f} s")


def _pictures(report, folder, study) -> None:
    x, y, network, exact = (np.asarray(a) for a in jax.jit(study.densities)(jax.random.key(1)))
    shown = [np.sqrt(np.minimum(a, 4)) for a in (network, exact)]
    for picture in shown:  # the known points, as crosses of the largest value
        rows = np.clip(((3 - y) / 6 * picture.shape[0]).astype(int), 1, picture.shape[0] - 2)
        columns = np.clip((x * picture.shape[1]).astype(int), 1, picture.shape[1] - 2)
        for row, column in zip(rows, columns):
            picture[row - 1 : row + 2, column] = picture[row, column - 1 : column + 2] = 2
    axes = plot.images(shown, titles=["network, one pass", "exact posterior"], columns=2)
    caption = f"Predictive densities (square roots) of y from -3 to 3 over x from 0 to 1, after {x.size} known points."
    report.figure(axes, folder / "densities.png", caption)


def _many(report, study) -> None:
    """Many data sets in one call against the same calls one after another; compilation apart."""
    keys = jax.random.split(jax.random.key(2), study.MANY)
    together, single = jax.jit(jax.vmap(study.means)), jax.jit(study.means)
    jax.block_until_ready((together(keys), single(keys[0])))
    began = time.perf_counter()
    whole = jax.block_until_ready(together(keys))
    middle = time.perf_counter()
    parts = [jax.block_until_ready(single(key)) for key in keys]
    alone, once = time.perf_counter() - middle, middle - began
    report.line(
        f"{study.MANY:,} data sets of 20 points, drawn and predicted: {once:.2f} s in one call, {alone:.2f} s one by "
        f"one: {alone / once:.1f} times; largest difference {np.abs(whole - np.asarray(parts)).max():.0e}."
    )


__all__ = ["scene"]
