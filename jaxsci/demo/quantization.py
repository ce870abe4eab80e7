"""Scene "quantization": a classifier of handwritten digits with weights and activations of four bits down to one.

Stages, each measured and printed: all formats and seeds trained as lanes of one program, against the same trainings one
by one; then every network packed, an eighth to a thirty-second of its kernels' bytes, and run by the same `apply`, in
floats and in integers, with the same predictions.
"""

import json
import pathlib
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxsci import plot
from jaxsci import quantization as qz
from jaxsci.core.extras import require
from jaxsci.demo import _shared, page

_SETTINGS, _FAST = "STEPS, SEEDS = 100, 2", "STEPS, SEEDS = 20, 1"


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
    require("sklearn", "demo", "the demo")
    require("optax", "nets", "training in the demo")
    device = _shared.opening(folder, "quantization")
    name = "_quantization_study.py"
    full, small = _shared.source(name, {}), _shared.source(name, {_SETTINGS: _FAST})
    text = small if fast else full
    study = _shared.load(text)
    lead = (
        f"A residual network on scikit-learn's handwritten digits, {study.STEPS} steps of training; the matrices of "
        "its blocks and what they are multiplied with have four bits down to one, by QuEST: Hadamard transform, levels "
        "from the root mean square of a row, gradients that are trusted up to half a step beyond them."
    )
    report = page.Page("How few bits does a classifier need?", lead, _shared.environment(device))
    kept = _shared.sweep_folder(folder, text)
    ds = study.study(out=kept, progress=False)
    _accuracies(report, folder, ds)
    print("the same trainings one by one, then packed ...", flush=True)
    _packed(report, study, _one_by_one(report, study, ds))
    shutil.copyfile(kept / "results.nc", folder / "results.nc")
    _shared.write_study(folder / "study.py", text, (full, small))
    report.write(folder / "index.html", text)
    print(f"\nwrote {folder}/: index.html, results.nc, study.py and a picture, in {time.perf_counter() - began:.0f} s")


def _accuracies(report, folder, ds) -> None:
    mean = 100 * ds["accuracy"].mean("key")
    told = ", ".join(f"{name} {value:.1f} %" for name, value in zip(ds["format"].values, mean.values))
    report.line(f"{ds['accuracy'].size} trainings, {int((ds['status'] != 0).sum())} failed. Test accuracy: {told}.")
    axes = plot.lines(ds["loss"], x="step", over="key", by="format", band=None, log="y")
    report.figure([axes], folder / "losses.png", "Training loss of each format, the mean over seeds.")


def _one_by_one(report, study, ds):
    """Format -> parameters of the first seed; one program serves all formats here too, called for one at a time."""
    formats = dict(zip(study.FORMATS, qz.unify(list(study.FORMATS.values()))))
    single, key = jax.jit(lambda key, spec: study.fit(key, spec).value), jax.random.key(0)
    began = time.perf_counter()
    compiled = single.lower(key, next(iter(formats.values()))).compile()
    compiling, began = time.perf_counter() - began, time.perf_counter()
    params = {name: jax.block_until_ready(compiled(key, spec)) for name, spec in formats.items()}
    each = (time.perf_counter() - began) / len(formats)
    timing, lanes = json.loads(ds.attrs["provenance"]), ds["accuracy"].size
    report.line(
        f"{lanes} trainings as lanes of one program: {timing['run_seconds']:.1f} s, and "
        f"{timing['compile_seconds']:.1f} s compiling; one by one {lanes * each:.1f} s, and {compiling:.1f} s "
        "compiling, once for each number of bits where bits are static."
    )
    return params


def _packed(report, study, params) -> None:
    """Every network packed: predictions and bytes."""
    _, (x, y) = study.data()
    for name, spec in study.FORMATS.items():
        rules = study.rules(spec)
        packed = qz.pack_params(params[name], rules)

        trained, floats, integers = _predictions(study, x, rules, params[name], packed)
        blocks = [part for part in packed if rules.get(part, spec) is not None]
        equal = [int((a == trained).sum()) for a in (floats, integers)]
        before, after = (qz.num_bytes([tree[part] for part in blocks]) for tree in (params[name], packed))
        codes = qz.num_bytes([packed[part]["kernel"].codes for part in blocks])
        told = "equal predictions" if min(equal) == len(x) else f"{min(equal)} equal predictions"
        report.line(
            f"{name} packed: kernels of the blocks take 1/{before / after:.1f} of their bytes in float32, codes alone "
            f"1/{before / codes:.0f}; {told} on {len(x)} images by floats and by integers, "
            f"{100 * np.mean(floats == y):.1f} % right."
        )
    report.paragraph(
        "Packed networks are run by the same function, by products of floats and by products of integers, and compared "
        "with the network as it was trained on all test images. Codes of three bits are held in bytes."
    )


def _predictions(study, x, rules, params, packed):
    """Labels of the trained network and of the packed one, by floats and by integers."""

    def predict(params, packed):
        floats, integers = (qz.dense(rules, execution=how) for how in ("float", "integer"))
        logits = [study.apply(p, x, dense) for p, dense in ((params, floats), (packed, floats), (packed, integers))]
        return [jnp.argmax(a, -1) for a in logits]

    return [np.asarray(a) for a in jax.jit(predict)(params, packed)]


__all__ = ["scene"]
