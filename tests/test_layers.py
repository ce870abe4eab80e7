"""The table of floors is a whitelist: every import of the two packages is parsed and held against it."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# room -> rooms it may import besides core and the kernels. The same table stands in jaxsci/__init__.py and the README.
BUILDS_ON: dict[str, set[str]] = {
    "core": set(),
    "linear": set(),
    "quadrature": set(),
    "gp": set(),
    "nn": set(),
    "sweep": set(),
    "plot": set(),
    "bandits": {"gp", "nn"},
    "control": {"quadrature", "nn"},
    "diffusion": {"nn"},
    "models": {"nn", "diffusion"},
    "pfn": {"gp", "nn"},
    "quantization": {"nn", "linear"},
    "smc": {"diffusion"},
    "rl": {"bandits", "nn"},
    "bayesopt": {"gp", "pfn", "quadrature"},
    "conformal": {"pfn"},
}
TOP = {"demo", "__main__"}
KERNEL_MAY = {"jax", "jaxlib", "numpy", "jaxtyping", "pallas_kernels"}
STANDARD = set(__import__("sys").stdlib_module_names)


def room_of(path: pathlib.Path) -> str:
    """Which room a file belongs to: 'kernels', a room of jaxsci, or 'root' for jaxsci/__init__.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "pallas_kernels":
        return "kernels"
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else "root"


def imports(source: str) -> list[tuple[int, str]]:
    """(line, dotted module) of every import, `from a import b` expanded to a.b."""
    found = []
    for node in ast.walk(ast.parse(source)):
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
            if room == "root" or target != "core" and target not in BUILDS_ON[room]:
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
    def depth(room, seen=()):
        assert room not in seen, f"cycle through {room}"
        return 1 + max((depth(r, (*seen, room)) for r in BUILDS_ON[room]), default=0)

    for room in BUILDS_ON:
        depth(room)


def test_the_table_in_the_docstring_and_the_readme_is_this_one():
    import jaxsci

    for text in (jaxsci.__doc__, (ROOT / "README.md").read_text()):
        for room in (p.name for p in (ROOT / "jaxsci").iterdir() if (p / "__init__.py").exists()):
            assert re.search(rf"\b{room}\b", text), f"room {room} missing from a table of floors"
