"""The command line: ``python -m jaxsci`` tells what is here, ``python -m jaxsci demo`` runs a study."""

import argparse
import os
import pathlib
import sys


def main(argv: list[str] | None = None) -> int:
    """Parse the arguments and run; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jaxsci", description="jaxsci: functional numerics in JAX")
    commands = parser.add_subparsers(dest="command")
    demo = commands.add_parser("demo", help="run a study: pictures, a labelled data set and a page")
    demo.add_argument("scene", nargs="?", default="solvers", help="which scene (default: solvers)")
    demo.add_argument("--fast", action="store_true", help="small sizes, for a machine that only checks that it runs")
    demo.add_argument("--out", type=pathlib.Path, default=pathlib.Path("jaxsci-demo"), help="folder to write into")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        import jaxsci

        print(f"jaxsci {jaxsci.__version__}\n\n{jaxsci.__doc__}\nTry: python -m jaxsci demo")
        return 0
    _use_all_cores()
    from jaxsci import demo as scenes
    from jaxsci import sweep

    try:
        return scenes.run(arguments.scene, arguments.out, fast=arguments.fast)
    except sweep.SweepMismatch as error:
        # What an earlier run under other versions left behind is not thrown away unasked.
        print(f"{error}\n\ndemo: give another folder with --out, or delete {arguments.out}", file=sys.stderr)
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
