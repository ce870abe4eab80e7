"""The command line: ``python -m jaxsci`` tells what is here, ``python -m jaxsci demo`` runs a study."""

import argparse
import os
import pathlib
import sys


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    _use_all_cores()
    from jaxsci import demo as scenes

    parser = argparse.ArgumentParser(prog="python -m jaxsci", description="jaxsci: functional numerics in JAX")
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="run a study: pictures, a labelled data set and a page")
    demo.add_argument("scene", nargs="?", default="solvers", choices=scenes.SCENES, help="default: solvers")
    demo.add_argument("--fast", action="store_true", help="small sizes, for a machine that only checks that it runs")
    told = "folder to write into (default: jaxsci-demo, or jaxsci-demo-SCENE for the other scenes)"
    demo.add_argument("--out", type=pathlib.Path, help=told)
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        import jaxsci

        print(f"jaxsci {jaxsci.__version__}\n\n{jaxsci.__doc__}\nTry: python -m jaxsci demo")
        return 0
    from jaxsci import sweep

    # Each scene has a folder of its own: they write files of the same names.
    usual = "jaxsci-demo" if arguments.scene == "solvers" else f"jaxsci-demo-{arguments.scene}"
    folder = arguments.out or pathlib.Path(usual)
    try:
        return scenes.run(arguments.scene, folder, fast=arguments.fast)
    except sweep.SweepMismatch as error:
        # What an earlier run under other versions or settings left behind is not thrown away unasked.
        print(f"{error}\n\ndemo: give another folder with --out, or delete {folder}", file=sys.stderr)
        return 1


def _use_all_cores() -> None:
    """One virtual CPU device a core, so that a sweep splits over them; must happen before JAX starts."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "jax" not in sys.modules and "xla_force_host_platform_device_count" not in flags:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={min(cores, 8)}".strip()


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
