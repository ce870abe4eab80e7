"""Execute every percent script of this folder, in full, into an .ipynb beside it."""

import pathlib
import sys

import jupytext
import nbformat
from nbconvert.preprocessors import ExecutePreprocessor

HERE = pathlib.Path(__file__).resolve().parent
LIMIT = 500_000


def build(source: pathlib.Path) -> None:
    """Convert, execute, check the size, write."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    ExecutePreprocessor(timeout=600, kernel_name="python3").preprocess(notebook, {"metadata": {"path": str(HERE)}})
    for number, cell in enumerate(notebook.cells):  # wall-clock stamps and random names would change at every build
        cell.metadata.pop("execution", None)
        cell["id"] = f"cell-{number}"
    text = nbformat.writes(notebook)
    if len(text) > LIMIT:
        raise SystemExit(f"{source.name}: the executed notebook has {len(text)} bytes, more than {LIMIT}")
    source.with_suffix(".ipynb").write_text(text + "\n")
    print(f"{source.stem}: {len(text) / 1e3:.0f} kB")


if __name__ == "__main__":
    names, sources = sys.argv[1:], {p.stem: p for p in sorted(HERE.glob("*.py")) if p.name != "build.py"}
    if unknown := [name for name in names if name not in sources]:
        raise SystemExit(f"notebooks: there is no {unknown[0]!r}; there are: {', '.join(sources)}")
    for stem, path in sources.items():
        if not names or stem in names:
            build(path)
