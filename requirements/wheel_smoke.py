"""Build the wheel, install it into a fresh environment, and use both packages from another directory.

An editable install puts the repository on the path and hides what a wheel forgets; this does not.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAM = """
import importlib.resources, pathlib, sys
import jaxsci, pallas_kernels, jax, jax.numpy as jnp
root = pathlib.Path(sys.argv[1]).resolve()
for package in (jaxsci, pallas_kernels):
    place = pathlib.Path(package.__file__).resolve()
    assert root not in place.parents, place
    assert (place.parent / "py.typed").exists(), place
assert jaxsci.__version__ != "0+unknown"
op, method = jaxsci.linear.operators.shifted_laplacian((8, 8)), jaxsci.linear.methods.sor(1.5)
result = jaxsci.linear.solve(op, jnp.ones((8, 8)), method=method, tol=1e-4)
jaxsci.check(result)
model = jaxsci.pfn.load("gp-1d-small")
found = jaxsci.pfn.predict(model, jnp.full((2, 1), 0.5), jnp.zeros(2), 1, jnp.full((1, 1), 0.4))
assert float(jaxsci.pfn.bars.variance(jaxsci.check(found))[0]) < 0.5
low, high = pallas_kernels.extrema(jnp.arange(5.0))
assert (float(low), float(high)) == (0.0, 4.0)
try:
    jaxsci.plot.lines(jnp.arange(3.0))
except ImportError as error:
    assert "jaxsci[plot]" in str(error), error
else:
    raise AssertionError("matplotlib should be missing here")
print("wheel smoke: jaxsci", jaxsci.__version__, "works outside the repository, a missing extra says which to install")
"""


def main() -> None:
    """Build, install with the core's pins alone, run."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, str(ROOT)]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        wheel = next(place.glob("*.whl"))
        names = zipfile.ZipFile(wheel).namelist()
        for needed in (
            "jaxsci/py.typed",
            "pallas_kernels/py.typed",
            "pallas_kernels/extrema/gpu.py",
            "jaxsci/sweep/_run.py",
            "jaxsci/pfn/weights/gp-1d-small.npz",
        ):
            assert needed in names, f"{needed} is not in the wheel"
        assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "notebooks/"))]
        env = place / "env"
        subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
        python = str(env / ("Scripts" if os.name == "nt" else "bin") / "python")
        pins = ROOT / "requirements" / ("py311.txt" if sys.version_info[:2] == (3, 11) else "py312.txt")
        install = [
            python,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "-c",
            str(pins),
            str(wheel),
        ]
        subprocess.run(install, check=True)
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHONPATH", "JAX_"))} | {
            "JAX_PLATFORMS": "cpu"
        }
        subprocess.run([python, "-c", PROGRAM, str(ROOT)], check=True, cwd=folder, env=clean)


if __name__ == "__main__":
    main()
