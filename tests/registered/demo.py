"""Entries of jaxsci.demo and the command line."""

import jax.numpy as jnp

from contracts import Bad, Compiled, Driver
from jaxsci import demo
from jaxsci.demo import correctors, diffusion, filters, mimic, page, photographs, quantization, resume, solvers


def _pictures(folder):
    clean, noisy = photographs.clean(), photographs.noisy()
    assert clean.shape == (42, 64, 3) and 0 <= clean.min() and clean.max() <= 1
    assert noisy.shape == (6, 42, 64) and abs(float((noisy[0] - clean[:, :, 0]).std()) - 0.03) < 0.002


def _resumed(folder):
    assert "bit-identical" in resume.demonstrate(folder / "resume")


def _small_sweep(folder):
    ds = resume.small_sweep(folder)
    assert ds["x"].sizes == {"omega": 10, "key": 64, "row": 12, "col": 12} and not ds["status"].values.any()


def _point(key, dtype):
    return resume.point, (key, jnp.asarray(1.4, dtype))


def _page(folder):
    report = page.Page("A title", "lead & more", "here")
    report.table(["a", "b", "n", "r"], [["x", "one", "10", "1.0"], ["x", "two", "5", "0.5"]])
    report.line("measured < 3")
    report.write(folder / "index.html", "code")
    text = (folder / "index.html").read_text()
    assert "lead &amp; more" in text and "measured &lt; 3" in text and 'class="best"' in text
    assert "src=" not in text and "http" not in text


def _into_a_file(folder):
    (folder / "taken").touch()
    demo.run("solvers", folder / "taken", fast=True)


def _scene_into_a_file(scene):
    def call(folder):
        (folder / "taken").touch()
        scene(folder / "taken", True)

    return call


def _diffusion(folder):
    diffusion.scene(folder / "out", True)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"index.html", "results.nc", "study.py", "samples.png", "errors.png"} <= written
    text = (folder / "out" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 2 and " 0 failed" in text and "DPM-v3" in text


def _filters(folder):
    filters.scene(folder / "out", True)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"index.html", "results.nc", "study.py", "states.png", "likelihood.png"} <= written
    text = (folder / "out" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 2 and " 0 failed" in text and "standard errors" in text


def _correctors(folder):
    correctors.scene(folder / "out", True)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"index.html", "results.nc", "study.py", "constants.png", "densities.png"} <= written
    text = (folder / "out" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 2 and " 0 failed" in text and "guided alone" in text


def _quantization(folder):
    quantization.scene(folder / "out", True)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"index.html", "results.nc", "study.py", "losses.png"} <= written
    text = (folder / "out" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 1 and " 0 failed" in text and "equal predictions" in text


def _mimic(folder):
    mimic.scene(folder / "out", True)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"index.html", "results.nc", "study.py", "densities.png"} <= written
    text = (folder / "out" / "index.html").read_text()
    assert text.count("data:image/png;base64,") == 1 and text.count("known points: exact") == 6


ENTRIES = {
    "jaxsci.demo.run": Driver(
        bad=(
            Bad(lambda folder: demo.run("nothing", folder), SystemExit, "there is no scene 'nothing'"),
            Bad(_into_a_file, SystemExit, "cannot write into"),
        )
    ),
    "jaxsci.demo.solvers.scene": Driver(
        bad=(Bad(_scene_into_a_file(solvers.scene), OSError, "choose another folder with --out"),)
    ),
    "jaxsci.demo.diffusion.scene": Driver(
        bad=(Bad(_scene_into_a_file(diffusion.scene), OSError, "choose another folder with --out"),), works=_diffusion
    ),
    "jaxsci.demo.filters.scene": Driver(
        bad=(Bad(_scene_into_a_file(filters.scene), OSError, "choose another folder with --out"),), works=_filters
    ),
    "jaxsci.demo.correctors.scene": Driver(
        bad=(Bad(_scene_into_a_file(correctors.scene), OSError, "choose another folder with --out"),),
        works=_correctors,
    ),
    "jaxsci.demo.mimic.scene": Driver(
        bad=(Bad(_scene_into_a_file(mimic.scene), OSError, "choose another folder with --out"),), works=_mimic
    ),
    "jaxsci.demo.quantization.scene": Driver(
        bad=(Bad(_scene_into_a_file(quantization.scene), OSError, "choose another folder with --out"),),
        works=_quantization,
    ),
    "jaxsci.demo.page.Page": Driver(works=_page),
    "jaxsci.demo.photographs.clean": Driver(works=_pictures),
    "jaxsci.demo.photographs.noisy": Driver(works=_pictures),
    "jaxsci.demo.resume.demonstrate": Driver(works=_resumed),
    "jaxsci.demo.resume.small_sweep": Driver(works=_small_sweep),
    "jaxsci.demo.resume.point": Compiled(_point, tol=1e-4),
}
