"""Every public name of both packages with the page of the reference that shows it, read from the source alone.

A name is public when it stands in the `__all__` of a module whose path has no underscore. It is shown once, where its
path is shortest. Standard library only: the site's environment has no jax, and the test of completeness
(`tests/test_site.py`), which compares with what the imported packages offer, has no mkdocs.
"""

import ast
import functools
import pathlib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
PACKAGES = ("jaxsci", "pallas_kernels")
# Rooms in the order of the floors; what is not named here would be missing, and the test says so.
ROOMS = (
    "jaxsci",
    "jaxsci.linear",
    "jaxsci.bandits",
    "jaxsci.gp",
    "jaxsci.quadrature",
    "jaxsci.control",
    "jaxsci.rl",
    "jaxsci.diffusion",
    "jaxsci.smc",
    "jaxsci.pfn",
    "jaxsci.quantization",
    "jaxsci.sweep",
    "jaxsci.nn",
    "jaxsci.models",
    "jaxsci.plot",
    "jaxsci.core",
    "jaxsci.demo",
    "pallas_kernels",
)


class Module(NamedTuple):
    """A public module: its dotted name, the first lines of its docstring, and (public path, place of definition)."""

    name: str
    lead: str
    names: list[tuple[str, str]]


def file_of(dotted: str) -> pathlib.Path | None:
    """The source file of a module, None if there is no such module."""
    base = ROOT.joinpath(*dotted.split("."))
    return next((p for p in (base / "__init__.py", base.with_suffix(".py")) if p.exists()), None)


def public_modules() -> list[str]:
    """Dotted names of all public modules, shallow ones first."""
    found = []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if not any(part.startswith("_") for part in dotted.split(".")):
                found.append(dotted)
    return sorted(found, key=lambda name: (name.count("."), name))


@functools.cache
def _parsed(file: pathlib.Path) -> ast.Module:
    return ast.parse(file.read_text())


def _bindings(tree: ast.Module) -> dict[str, tuple[str, str]]:
    """Names that a module imports: name -> (module, name there)."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
    return found


def _assigned(tree: ast.Module, name: str) -> ast.expr | None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return node.value
    return None


def _origin(module: str, name: str) -> str:
    """Where a public name is defined, through any number of imports."""
    file = file_of(module)
    if file is None:
        return f"{module}.{name}"
    tree = _parsed(file)
    there = _bindings(tree).get(name)
    if there is not None and there != (module, name) and there[0].split(".")[0] in PACKAGES:
        return _origin(*there)
    lazy = _assigned(tree, "_FUNCTIONS")
    if lazy is not None and name in (places := ast.literal_eval(lazy)):
        return _origin(f"{module}.{places[name]}", name)
    return f"{module}.{name}"


@functools.cache
def modules() -> list[Module]:
    """All public modules that show something, each name at its shortest path only."""
    seen, found = set(), []
    for dotted in public_modules():
        tree = _parsed(file_of(dotted))
        listed = _assigned(tree, "__all__")
        names = []
        for name in [] if listed is None else ast.literal_eval(listed):
            origin = _origin(dotted, name)
            if file_of(origin) is None and origin not in seen:
                seen.add(origin)
                names.append((f"{dotted}.{name}", origin))
        lead = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
        found.append(Module(dotted, lead, names))
    return [module for module in found if module.names]


def room_of(dotted: str) -> str:
    """The room whose page shows a module."""
    parts = dotted.split(".")
    return parts[0] if parts[0] == "pallas_kernels" else ".".join(parts[:2]) if len(parts) > 1 else "jaxsci"


def page_of(room: str) -> str:
    """The file of a room's page of the reference."""
    return f"reference/{room.removeprefix('jaxsci.')}.md"


def pages() -> dict[str, str]:
    """Markdown of every page of the reference, by file; mkdocstrings fills in each ``:::``."""
    by_room: dict[str, list[Module]] = {room: [] for room in ROOMS}
    for module in modules():
        by_room[room_of(module.name)].append(module)
    texts = {}
    for room, parts in by_room.items():
        lines = [f"# {room}", ""]
        for part in parts:
            if part.name != room:
                lines += [f"## {part.name}", ""]
            lines += [part.lead, ""]
            for public, origin in part.names:
                short = public.removeprefix("jaxsci.")
                lines += [f'<a id="{short}"></a>', "", f"::: {origin}", "    options:", f'      heading: "{short}"', ""]
        texts[page_of(room)] = "\n".join(lines) + "\n"
    return texts
