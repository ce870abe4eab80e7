"""The site's pages: every block of code runs and prints what the page says, every public name is in the reference."""

import contextlib
import importlib.util
import io
import pathlib
import re

import matplotlib.pyplot as plt
import pytest

import registry

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
_BLOCK = re.compile(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```$", re.S | re.M)


def _hook(name):
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "hooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages():
    """The pages that are written by hand; those that are generated hold no code of their own."""
    return sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))


def blocks(text):
    """(language, code) of every fenced block in order, those inside tabs and admonitions too."""
    for indent, language, code in _BLOCK.findall(text):
        yield language, re.sub(rf"(?m)^{indent}", "", code)


def test_the_reference_shows_every_public_name():
    names = _hook("names")
    shown = {public for module in names.modules() for public, _ in module.names}
    offered = set(registry.public_names())
    assert not offered - shown and not shown - offered
    pages_of_names = names.pages()
    for module in names.modules():  # each on the page of its room, so that the build looks for it
        page = pages_of_names[names.page_of(names.room_of(module.name))]
        assert all(f"::: {origin}\n" in page for _, origin in module.names)


def test_every_notebook_is_in_the_gallery():
    files = _hook("gallery").pages()
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"gallery/{path.stem}.md" in files and f"gallery/{path.stem}-0.png" in files


def test_the_picture_of_the_readme_is_that_of_its_notebook():
    file, content = _hook("gallery").readme_picture()
    assert file.read_bytes() == content, "run python docs/hooks/gallery.py"
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_pictures_and_pages_that_are_named_exist():
    made = {*_hook("gallery").pages(), *_hook("names").pages(), "benchmarks.md", "assets/roofline.svg"}
    for page in pages():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text()):
            place = (DOCS / page).parent / target
            assert place.exists() or str(place.resolve().relative_to(DOCS)) in made, f"{page}: {target}"


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text()
    missing = [page for page in pages() if f" {page}\n" not in navigation]
    assert not missing


# Scripts for several machines: tests/sweep/test_distributed_page.py runs what one can run.
OWN_TEST = ("distributed.md",)


@pytest.mark.full
@pytest.mark.parametrize(
    "page", [page for page in pages() if page not in OWN_TEST and "```python" in (DOCS / page).read_text()]
)
def test_the_code_of_a_page(page, tmp_path, monkeypatch):
    """All blocks in order in one namespace; a block ```text that follows one is what it prints."""
    monkeypatch.chdir(tmp_path)
    space, printed = {"__name__": "__page__"}, None
    try:
        for language, code in blocks((DOCS / page).read_text()):
            if language == "python":
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile(code, page, "exec"), space)
            elif language == "text" and printed is not None:
                assert printed.getvalue().rstrip() == code.rstrip()
                printed = None
    finally:
        plt.close("all")


def test_the_workflow_runs_the_gate_and_nothing_else():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert re.findall(r"run: (.+)", text) == ["bash .ci/run"]
    for command in re.findall(r"run: make (\w+)", "".join(p.read_text() for p in (ROOT / ".github").rglob("*.yml"))):
        assert f"\n{command}:" in (ROOT / "Makefile").read_text()
