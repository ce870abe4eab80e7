"""Build sdist and wheel twice, at two places, and keep them only if both times give the same bytes; then twine's check.

    python requirements/dist.py [--out dist]

The time stamps inside are those of the last commit (SOURCE_DATE_EPOCH), so that anyone can repeat the build from the
commit alone. Runs in an environment made from `release.txt`, whose hatchling is pinned: nothing else is downloaded.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def build(out: pathlib.Path, epoch: str) -> dict[str, str]:
    """sha256 of every file that a build makes, by name."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SOURCE_DATE_EPOCH": epoch})
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(out.iterdir())}


def main() -> None:
    """Build, compare, check, keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "dist")
    out = parser.parse_args().out
    asked = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True)
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or asked.stdout.strip() or "315532800"
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        first, second = build(pathlib.Path(one), epoch), build(pathlib.Path(two), epoch)
        if first != second:
            raise SystemExit(f"dist: two builds differ: {first} and {second}")
        files = sorted(str(file) for file in pathlib.Path(one).iterdir())
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], check=True)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(one, out)
    for name, digest in first.items():
        print(f"{digest}  {name}")


if __name__ == "__main__":
    main()
