"""The hook of mkdocs: adds what is generated (reference, gallery, benchmarks) and MathJax's files to the site.

Everything that a page needs when it is looked at comes from the site itself. MathJax and its fonts are copied from the
Python package django-static-mathjax, of which only the files are used.
"""

import importlib.metadata
import pathlib
import sys

from mkdocs.structure.files import File, Files

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import figures  # noqa: E402
import gallery  # noqa: E402
import names  # noqa: E402
import roofline  # noqa: E402

_MATHJAX = "mathjax/static/mathjax/es5/"
_NEEDED = ("tex-chtml.js", "output/chtml/fonts/woff-v2/")


def on_config(config):
    """Put the generated pages where the navigation says REFERENCE and GALLERY."""
    reference = [{room: names.page_of(room)} for room in names.ROOMS]
    studies = ["gallery/index.md", *(f"gallery/{path.stem}.md" for path in gallery.notebooks())]
    config.nav = _replaced(config.nav, {"REFERENCE": reference, "GALLERY": studies})
    return config


def _replaced(nav, generated):
    out = []
    for item in nav:
        if isinstance(item, dict):
            ((title, value),) = item.items()
            if isinstance(value, list):
                value = _replaced(value, generated)
            out.append({title: generated.get(value, value) if isinstance(value, str) else value})
        else:
            out.append(item)
    return out


def on_files(files: Files, config) -> Files:
    """Add the generated files."""
    made = names.pages() | gallery.pages() | {"benchmarks.md": figures.page(), "assets/roofline.svg": roofline.svg()}
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    for file in importlib.metadata.files("django-static-mathjax"):
        part = str(file).removeprefix(_MATHJAX)
        if part != str(file) and part.startswith(_NEEDED):
            files.append(File.generated(config, f"assets/mathjax/{part}", abs_src_path=str(file.locate())))
    return files
