"""`python -m benchmarks [subject ...] [--fast] [--json FILE]`: all subjects, or those named, one after the other.

`python -m benchmarks --quote` measures nothing: it fills the figures that the README files quote from the newest
results file.
"""

import argparse
import importlib
import pathlib
import sys
import traceback

from benchmarks import _harness, _quotes
from benchmarks._peers import Peers


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
    parser.add_argument("--quote", action="store_true", help="only write the newest results into the README files")
    options = parser.parse_args(argv)
    if options.quote:
        return _quotes.write()
    unknown = [name for name in options.subjects if name not in subjects()]
    if unknown:
        parser.error(f"no subject {unknown[0]!r}; there are {there}")
    _harness.check_options(parser, options)
    failed = []
    with Peers(options.peer_python) as peers:
        report = _harness.Report(" ".join(["benchmarks", *options.subjects]), options, peers)
        for name in options.subjects or subjects():
            try:
                rows = importlib.import_module(f"benchmarks.{name}").rows
                _harness.collect(name, rows, options.fast, report, prefix=f"{name}: ")
            except Exception:  # the other subjects still run; the exit status tells
                traceback.print_exc()
                failed.append(name)
        report.show()
    if failed:
        print(f"did not run to the end: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
