"""The table of floors is a whitelist: every import of the two packages is parsed and held against it.

The table stands in the docstring of jaxsci. Its copy in the README, the list of rooms that `import jaxsci` offers, the
folders, and what each room says of itself in its docstring and its README must say the same.
"""

import ast
import graphlib
import importlib
import pathlib
import re
import sys
from typing import NamedTuple

import pytest

import jaxsci

ROOT = pathlib.Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A row of the table of floors."""

    floor: str
    room: str
    builds_on: frozenset[str]


def floors(text: str) -> list[Row]:
    """The table in a text: cells lie between bars or two blanks; lines that do not start with a floor are no rows."""
    cells = [re.split(r" \| | {2,}", line.strip("| ")) for line in text.splitlines()]
    rows = [row for row in cells if re.fullmatch(r"\d+|top", row[0])]
    names = [(floor, room.strip("`").removeprefix("jaxsci."), below.split(", ")) for floor, room, _, below in rows]
    return [Row(floor, room, frozenset(below) - {"-", "–"}) for floor, room, below in names]


TABLE = floors(jaxsci.__doc__)
BUILDS_ON = {row.room: row.builds_on for row in TABLE if row.floor not in ("0", "top")}
TOP = {"demo", "__main__"}
KERNEL_MAY = {"jax", "jaxlib", "numpy", "jaxtyping", "pallas_kernels"}
STANDARD = set(sys.stdlib_module_names)


def room_of(path: pathlib.Path) -> str:
    """Which room a file belongs to: 'kernels', a room of jaxsci, or 'root' for jaxsci/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "pallas_kernels":
        return "kernels"
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else "root"


def imports(source: str, lazy: bool = True) -> list[tuple[int, str]]:
    """(line, dotted module) of every import, or of those outside functions; `from a import b` expanded to a.b."""
    found, todo, skipped = [], [ast.parse(source)], () if lazy else (ast.FunctionDef, ast.AsyncFunctionDef)
    while todo:
        node = todo.pop()
        todo += [child for child in ast.iter_child_nodes(node) if not isinstance(child, skipped)]
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it in full"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return found


def violations(room: str, source: str) -> list[str]:
    """What `source`, standing in `room`, imports against the table."""
    wrong = []
    for line, module in imports(source):
        package, *rest = module.split(".")
        if room == "kernels":
            if package not in KERNEL_MAY | STANDARD:
                wrong.append(f"line {line}: pallas_kernels may import jax, numpy, jaxtyping alone, not {package}")
        elif package == "jaxsci" and rest:
            target = rest[0]
            if room in TOP or target in {room, "check", "explain", "__version__"}:
                continue
            if room == "root" or target not in {"core", *BUILDS_ON[room]}:
                wrong.append(f"line {line}: room {room!r} may not import {module!r}")
        elif package in {"tests", "benchmarks", "notebooks"}:
            wrong.append(f"line {line}: {module!r} is not part of the installed packages")
    return wrong


def _files():
    return sorted([*(ROOT / "jaxsci").rglob("*.py"), *(ROOT / "pallas_kernels").rglob("*.py")])


@pytest.mark.parametrize("path", _files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in {*BUILDS_ON, *TOP, "root", "kernels"}, f"room {room!r} is not in the table of floors"
    assert not violations(room, path.read_text())


@pytest.mark.parametrize(
    ("room", "source"),
    [
        ("core", "from jaxsci import linear"),
        ("core", "import jaxsci.sweep"),
        ("linear", "from jaxsci.bandits import policies"),
        ("sweep", "def f():\n    from jaxsci.plot import lines"),
        ("bandits", "import jaxsci.demo"),
        ("kernels", "import equinox"),
        ("kernels", "from jaxsci.core import tree"),
        ("linear", "import tests.contracts"),
    ],
)
def test_a_broken_layer_is_found(room, source):
    assert violations(room, source)


def test_rows_name_lower_floors_only():
    floor = {row.room: int(row.floor) for row in TABLE if row.floor != "top"}
    assert [(room, below) for room in BUILDS_ON for below in BUILDS_ON[room] if floor[below] >= floor[room]] == []


def test_every_copy_of_the_table_is_the_same():
    assert floors((ROOT / "README.md").read_text()) == TABLE
    folders = {path.parent.name for path in (ROOT / "jaxsci").glob("*/__init__.py")}
    assert folders == {*BUILDS_ON, "demo"}, "rooms and rows differ"
    assert set(jaxsci.__all__) == {*BUILDS_ON, "check", "explain"}, "import jaxsci offers other rooms"


@pytest.mark.parametrize("file", ["__init__.py", "README.md"])
@pytest.mark.parametrize("room", sorted(BUILDS_ON))
def test_a_room_says_what_it_builds_on(room, file):
    sentence = re.search(r"Builds on:? ([^.]*)\.", (ROOT / "jaxsci" / room / file).read_text())[1]
    assert set(re.findall(r"\w+", sentence)) & set(BUILDS_ON) - {"core", room} == BUILDS_ON[room], sentence


# --- circles -----------------------------------------------------------------------------------------------


def circle(sources: dict[str, str]) -> list[str]:
    """Modules that import each other in a circle, each the next, while they are loaded; [] if there is none.

    `from package import module` counts as an import of the module, not of the package around it.
    """
    graph = {name: {m for _, m in imports(text, lazy=False)} for name, text in sources.items()}
    modules = {name: {m if m in graph else m.rpartition(".")[0] for m in found} for name, found in graph.items()}
    try:
        graphlib.TopologicalSorter({name: found & set(graph) for name, found in modules.items()}).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def test_no_module_imports_itself_in_a_circle():
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in _files()}
    assert not circle({name.removesuffix(".__init__"): path.read_text() for path, name in names.items()})


def test_a_circle_is_found():
    modules = {"room": "from room import a", "room.a": "from room import b", "room.b": "def f():\n    import room.a"}
    assert not circle(modules)
    assert circle(modules | {"room.b": "if True:\n    from room.a import f"}) == ["room.a", "room.b", "room.a"]
    assert set(circle(modules | {"room.b": "from room import some_function"})) == set(modules)


def test_status_bits_are_disjoint_along_the_floors():
    """A result holds bits of its room and of all rooms below, a sweep those of any room."""
    import registry
    from jaxsci.core import status

    for module in registry.public_modules():
        importlib.import_module(module)
    owned: dict[str, set[int]] = {}
    for bit, text in status.bits():
        owned.setdefault(text.room, set()).add(bit)
    assert {"core", "gp", "sweep"} <= set(owned) <= {*BUILDS_ON, "kernels"}

    def below(room):
        return {"core", *BUILDS_ON[room]}.union(*map(below, BUILDS_ON[room]))

    for room in set(owned) - {"core"}:
        others = set(owned) - {"sweep"} if room == "sweep" else below(room) & set(owned)
        for other in others:
            assert not owned[room] & owned[other], f"{room} and {other} share bits {owned[room] & owned[other]}"
    # Without a room's name `check` passes a bit only if all that own it call it a notice.
    kinds: dict[int, set[bool]] = {}
    for bit, text in status.bits():
        kinds.setdefault(bit, set()).add(text.notice)
    assert [bit for bit, both in kinds.items() if len(both) > 1] == []
