"""What all scenes need: a folder of their own, the study as it runs and as it is shown, one line about the machine."""

import hashlib
import linecache
import pathlib
import types

import jax

from jaxsci.core.extras import require
from jaxsci.core.provenance import device_description, versions

_MARK = ".jaxsci-demo"  # names the scene whose folder this is


def claim(folder: pathlib.Path, scene: str) -> None:
    """Make the folder and mark it as this scene's, or raise the OSError that names the remedy.

    A folder that another scene has written is left as it is: both have a sweep, a results.nc and a page.
    """
    mark = folder / _MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        owner = mark.read_text(encoding="utf-8").strip() if mark.exists() else None
        if owner is None and (folder / "sweep").exists():
            owner = "?"  # of an earlier version, or the user's own
        if owner in (None, scene):
            mark.write_text(f"{scene}\n", encoding="utf-8")
            return
    except OSError as error:
        raise OSError(
            f"cannot write into {str(folder)!r} ({error.strerror}); choose another folder with --out"
        ) from error
    what = "a sweep that is not of this demo" if owner == "?" else f"the results of the scene {owner!r}"
    raise OSError(f"{str(folder)!r} holds {what}; choose another folder with --out, or delete it")


def opening(folder: pathlib.Path, scene: str) -> dict:
    """What every scene begins with: its extras are there, the folder is its own, one line about the machine.

    Returns:
        The description of the devices, see `environment`.
    """
    require("matplotlib", "demo", "the demo")
    require("xarray", "demo", "the demo")
    claim(folder, scene)
    device = device_description()
    print(
        f"jaxsci {versions()['jaxsci']} · jax {jax.__version__} · {jax.device_count()} x {device['kind']}", flush=True
    )
    return device


def source(name: str, edits: dict[str, str]) -> str:
    """The text of a study of this room with other settings, so that what is shown is what has run."""
    text = (pathlib.Path(__file__).parent / name).read_text(encoding="utf-8")
    for old, new in edits.items():
        if text.count(old) != 1:
            raise ValueError(f"demo: {name} must hold {old!r} once")
        text = text.replace(old, new)
    return text


def sweep_folder(folder: pathlib.Path, text: str) -> pathlib.Path:
    """Where the sweep of exactly this study is kept: other settings or another source never meet its points."""
    return folder / f"sweep-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def load(text: str) -> types.ModuleType:
    """A study as a module of its own, from its text.

    What runs is the text that is shown, settings included, as for a user who runs study.py; its lines are known to
    tracebacks and to the refusals of a sweep.
    """
    file = f"<study {_digest(text)}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)  # for readable differences
    module = types.ModuleType("study")
    exec(compile(text, file, "exec"), module.__dict__)
    return module


def write_study(file: pathlib.Path, text: str, ours: tuple[str, ...]) -> None:
    """Write the study, unless the file there is none of `ours`: then somebody has edited it, and it stays."""
    if file.exists() and file.read_text(encoding="utf-8", errors="replace") not in ours:
        print(f"{file} is not what this demo writes, so it was edited, and stays; delete it to get the one that ran")
        return
    file.write_text(text, encoding="utf-8")


def environment(device: dict) -> str:
    """Versions and device, for the foot of a page."""
    known = versions()
    return (
        f"jaxsci {known['jaxsci']}, jax {known['jax']}, Python {known['python']}, {device['count']} x {device['kind']}"
    )


__all__ = ["claim", "environment", "load", "opening", "source", "sweep_folder", "write_study"]
