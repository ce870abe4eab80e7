"""The executed notebooks as pages: text, code and what the code printed and drew. Nothing is executed here.

`pages()` gives the Markdown of every page and the bytes of every picture. Pictures are numbered in their order:
``gallery/sor_bandit-0.png`` is the first one of that notebook; the pages of rooms show them under these names.

    python docs/hooks/gallery.py    # after a notebook was executed again: the one picture that the README shows
"""

import base64
import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def notebooks() -> list[pathlib.Path]:
    """Executed notebooks in the order in which the folder's README lists them, then the rest."""
    listed = re.findall(r"^\d+\. `(\w+)`", (ROOT / "notebooks" / "README.md").read_text(), re.M)
    files = {p.stem: p for p in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    return [files.pop(name) for name in listed if name in files] + list(files.values())


def pages() -> dict[str, str | bytes]:
    """All files of the gallery: its index, a page and the pictures of each notebook."""
    files, index = {}, []
    for path in notebooks():
        text, pictures = page(path)
        files[f"gallery/{path.stem}.md"] = text
        files |= {f"gallery/{path.stem}-{i}.png": data for i, data in enumerate(pictures)}
        index += _entry(path.stem, text, pictures)
    files["gallery/index.md"] = "\n".join([_LEAD, "", *index])
    return files


_LEAD = """# Gallery

Every notebook is a script of the repository's folder `notebooks`, executed in full. The pages show what was printed and
drawn when it was; the tests run all of them again at small size. Click a picture to read the study behind it.
"""


def _entry(stem, text, pictures):
    title = re.search(r"^# (.+)$", text, re.M).group(1)
    # The first picture that is not the small one of the data.
    best = max(range(len(pictures)), key=lambda i: len(pictures[i]))
    return [f"## [{title}]({stem}.md)", "", f"[![{title}]({stem}-{best}.png)]({stem}.md)", ""]


def page(path: pathlib.Path) -> tuple[str, list[bytes]]:
    """One notebook as Markdown, and its pictures in their order."""
    parts, pictures = [], []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(_markdown(source))
            continue
        if source:
            parts.append(f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                encoded = "".join(data["image/png"])
                parts.append(f"![figure {len(pictures)} of {path.stem}]({path.stem}-{len(pictures)}.png)")
                pictures.append(base64.b64decode(encoded))
            elif text := _text(output):
                parts.append(f"```text\n{text}\n```")
    where = f"*The script behind this page is `notebooks/{path.stem}.py`.*"
    return "\n\n".join([*parts, where]) + "\n", pictures


def _text(output) -> str:
    lines = output.get("text") or output.get("data", {}).get("text/plain") or []
    return _ESCAPES.sub("", "".join(lines)).rstrip()


def _markdown(text: str) -> str:
    """The cell, with the blank line before a list that Python-Markdown wants and notebooks do without."""
    return re.sub(r"(?m)^(?![ \t]*(?:[*+-]|\d+\.)[ \t])(.*\S.*)\n(?=[*+-] |\d+\. )", r"\1\n\n", text)


# What the README shows must be a file of the repository: (notebook, number of the picture).
README_PICTURE = ("sor_bandit", 0)


def readme_picture() -> tuple[pathlib.Path, bytes]:
    """The file of that picture, and what it should hold."""
    stem, number = README_PICTURE
    return ROOT / "docs" / "assets" / "omega.png", page(ROOT / "notebooks" / f"{stem}.ipynb")[1][number]


if __name__ == "__main__":
    file, content = readme_picture()
    file.write_bytes(content)
