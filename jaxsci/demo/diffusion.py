"""Scene "diffusion": how many model calls does a sample need? Five solvers, two time grids, one compiled program.

The model is exact: the denoiser of 1797 blurred handwritten digits, so that the error of a sample is known. Stages,
each measured and printed: the study (`_diffusion_study.py`) through the sweep engine, the samples as pictures, the
error against the number of calls, and one program for all numbers of calls against one program for each.
"""

import json
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import diffusion, plot, sweep
from jaxsci.demo import _shared, page

_SETTINGS, _FAST = "SAMPLES = 64", "SAMPLES = 16"
_SHOWN = 6  # model calls of the pictures
_ROWS, _COLUMNS = 4, 8  # latents in each picture


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
    device = _shared.opening(folder, "diffusion")
    print("the exact samples, by a fine grid of 200 steps ...", flush=True)
    full, small = _shared.source("_diffusion_study.py", {}), _shared.source("_diffusion_study.py", {_SETTINGS: _FAST})
    text = small if fast else full
    study = _shared.load(text)
    report = page.Page("How many model calls does a sample need?", _summary(study), _shared.environment(device))
    kept = _shared.sweep_folder(folder, text)
    print("the statistics of the model and the study ...", flush=True)
    started = time.perf_counter()
    ds = _run(study, kept)
    _study(report, ds, time.perf_counter() - started)
    _pictures(report, folder, ds, study)
    _errors(report, folder, ds)
    print("one program for all numbers of calls, against one for each ...", flush=True)
    _programs(report, study, study.CALLS[:2] if fast else study.CALLS[::3])
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(
        f"\nwrote {folder}/: index.html, results.nc, study.py and the pictures, in {time.perf_counter() - began:.0f} s"
    )


def _run(study, kept: pathlib.Path):
    """The study; a sweep of this scene under other versions or data takes seconds, so it is computed anew."""
    try:
        return study.study(out=kept, progress=False)
    except sweep.SweepMismatch:
        print(f"{kept} holds results of other versions or settings: computed anew", flush=True)
        return study.study(out=kept, overwrite=True, progress=False)


def _summary(study) -> str:
    return (
        f"{len(study.SOLVERS)} solvers on {len(study.GRIDS)} time grids with {min(study.CALLS)} to {max(study.CALLS)} "
        f"model calls, from the same {len(study.START)} latents. The model is the exact denoiser of 1797 handwritten "
        f"digits with a blur of {study.BANDWIDTH}; errors are the distance per pixel to the exact sample of the same "
        "latent. DPM-v3 uses statistics of the model, estimated here."
    )


def _study(report, ds, seconds: float) -> None:
    timing = json.loads(ds.attrs["provenance"])
    failed = int((ds["status"] != 0).sum())
    calls = int(ds["calls"].sum()) * ds["error"].size // ds.sizes["calls"]
    report.line(
        f"{ds['error'].size:,} samples, {calls:,} model calls, {failed} failed: {timing['run_seconds']:.1f} s running "
        f"and {timing['compile_seconds']:.1f} s compiling one program; {seconds:.1f} s with the model's statistics."
    )
    mean = ds["error"].mean("latent")
    rows = [
        [str(grid), str(solver), *(f"{v:.3f}" for v in mean.sel(grid=grid, solver=solver).values)]
        for grid in ds["grid"].values
        for solver in ds["solver"].values
    ]
    header = ["time grid", "solver", *(f"{n} calls" for n in ds["calls"].values)]
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))), flush=True)
    report.table(header, rows)
    report.paragraph(
        f"The table holds the mean error per pixel over the latents for every number of model calls; the best solver "
        f"with {ds['calls'].values[1]} calls stands out on each grid."
    )
    best = mean.sel(grid=ds["grid"].values[0], calls=8)
    report.line(
        f"8 calls, {ds['grid'].values[0]}: DPM-v3 {float(best.sel(solver='DPM-v3')):.3f}, UniPC-3 "
        f"{float(best.sel(solver='UniPC-3')):.3f}, DDIM {float(best.sel(solver='DDIM')):.3f}."
    )


def _pictures(report, folder, ds, study) -> None:
    """The same latents by every solver at few calls, and the exact samples."""
    count = _ROWS * _COLUMNS
    shown = ds["image"].isel(grid=0, latent=slice(count))
    pictures = {
        f"{solver}, {_SHOWN} calls": shown.sel(solver=solver, calls=_SHOWN).values for solver in ds["solver"].values
    } | {"exact": np.asarray(study.EXACT[:count])}
    mosaics = []
    for images in pictures.values():
        images = np.pad(images.reshape(_ROWS, _COLUMNS, 8, 8), ((0, 0),) * 2 + ((0, 1),) * 2, constant_values=-1)
        mosaics.append(images.transpose(0, 2, 1, 3).reshape(_ROWS * 9, _COLUMNS * 9))
    axes = plot.images(mosaics, titles=list(pictures), columns=3, limits=(-1, 1))
    report.figure(
        axes, folder / "samples.png", f"The same {count} latents by every solver, times {ds['grid'].values[0]}."
    )


def _errors(report, folder, ds) -> None:
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, ds.sizes["grid"], figsize=(12, 4.6), layout="constrained", sharey=True)
    for ax, grid in zip(np.ravel(axes), ds["grid"].values):
        error = ds["error"].sel(grid=grid).rename("error per pixel")
        plot.lines(error, x="calls", over="latent", by="solver", band=None, log="y", title=str(grid), ax=ax)
    text = "Mean error over all latents against the number of model calls, on both time grids."
    report.figure(np.ravel(axes), folder / "errors.png", text)


def _programs(report, study, calls) -> None:
    """UniPC-3 at several numbers of calls: tables padded to one shape and one program, or a program for each shape."""
    make, grid = study.SOLVERS["UniPC-3"], study.GRIDS["uniform in time"]
    tables = [make(grid(study.SCHEDULE, n), None) for n in calls]

    def timed(tables):
        began = time.perf_counter()
        run, out = jax.jit(study.sample), []
        for table in tables:
            out.append(np.asarray(run(jax.tree.map(jnp.asarray, table), study.START)))
        return out, time.perf_counter() - began

    padded, together = timed(diffusion.SolverTable.unify(tables))
    plain, apart = timed(tables)
    difference = max(float(np.abs(a - b).max()) for a, b in zip(padded, plain))
    report.line(
        f"UniPC-3 with {', '.join(map(str, calls))} calls, compilation included: one program for all {together:.2f} s, "
        f"a program for each {apart:.2f} s: {apart / together:.1f} times as long; largest difference {difference:.0e}."
    )


__all__ = ["scene"]
