"""Demo scenes: real studies in one command each. Nothing imports this room; it may import all others.

``python -m jaxsci demo [scene]`` runs one. A scene is a function ``(folder, fast) -> None`` in a module of its own
that prints what it measures and leaves pictures, a data set, the script behind it and a page in its folder.
"""

import importlib
import pathlib
import sys

SCENES = {
    "solvers": "jaxsci.demo.solvers",
    "diffusion": "jaxsci.demo.diffusion",
    "filters": "jaxsci.demo.filters",
    "correctors": "jaxsci.demo.correctors",
    "pfn": "jaxsci.demo.mimic",
    "quantization": "jaxsci.demo.quantization",
}


def run(scene: str, folder: pathlib.Path, *, fast: bool = False) -> int:
    """Run one scene into `folder`; returns an exit status. Ctrl-C leaves what is finished, and a rerun goes on.

    Raises:
        SystemExit: an unknown scene, a folder that cannot be used, or a missing extra, with the remedy.
    """
    if scene not in SCENES:
        raise SystemExit(f"jaxsci demo: there is no scene {scene!r}; there are: {', '.join(SCENES)}")
    try:
        importlib.import_module(SCENES[scene]).scene(pathlib.Path(folder), fast)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on with what the sweep in {folder}/ has finished", file=sys.stderr)
        return 130
    except (ImportError, OSError) as error:
        raise SystemExit(f"jaxsci demo: {error}") from error
    return 0


__all__ = ["SCENES", "run"]
