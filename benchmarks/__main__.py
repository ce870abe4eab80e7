"""`python -m benchmarks [subject ...] [--fast] [--json FILE]`: all subjects, or those named, one after the other."""

import argparse
import importlib
import pathlib
import sys
import traceback

from benchmarks import _harness


def subjects() -> list[str]:
    """The files of this folder that are subjects."""
    files = pathlib.Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def main(argv: list[str] | None = None) -> int:
    """Run them; 0 when all ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    there = ", ".join(subjects())
    parser.add_argument("subjects", nargs="*", metavar="subject", help=f"any of {there}; all by default")
    _harness.add_options(parser)
    options = parser.parse_args(argv)
    unknown = [name for name in options.subjects if name not in subjects()]
    if unknown:
        parser.error(f"no subject {unknown[0]!r}; there are {there}")
    _harness.check_writable(parser, options)
    rows, failed = [], []
    for name in options.subjects or subjects():
        done = []
        try:
            _harness.collect(name, importlib.import_module(f"benchmarks.{name}").rows, options.fast, done)
        except Exception:  # the other subjects still run; the exit status tells
            traceback.print_exc()
            failed.append(name)
        rows += [{**line, "name": f"{name}: {line['name']}"} for line in done]  # also those before an exception
    _harness.report(" ".join(["benchmarks", *options.subjects]), rows, options)
    if failed:
        print(f"did not run to the end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
