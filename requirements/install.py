"""Make a virtual environment with the pinned packages and jaxsci itself, editable; do nothing when it is current.

    python requirements/install.py VENV [--python NAME] [--probe] [--only FILE]

Standard library only, so that any Python >= 3.11 can run it. pip brings uv, which installs some hundred pinned
wheels in seconds; where uv cannot be had or fails, pip installs the same files. A stamp in the environment holds
a hash of all that it was made from, so an unchanged checkout costs a few milliseconds. --probe only says by the exit
status whether that Python works: 0, or 3 where there is none. --only installs the pins of one file and not jaxsci, for
tools that read the sources without importing them.
"""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent


class NoPython(Exception):
    """There is no interpreter of that name which runs."""


def working_python(name: str) -> tuple[list[str], dict[str, str], tuple[int, int]]:
    """The command and environment with which `name` runs, and its version.

    A name on PATH may be a version manager's shim that fails when run, so it is executed to find out; for a
    pyenv shim the newest installed version of that name is tried next.
    """
    probe = ["-c", "import sys; print(sys.version_info[0], sys.version_info[1])"]
    tries: list[dict[str, str]] = [{}]
    if shutil.which("pyenv"):
        wanted = name.removeprefix("python")
        listed = subprocess.run(["pyenv", "versions", "--bare"], capture_output=True, text=True).stdout.split()
        tries += [{"PYENV_VERSION": v} for v in reversed(listed) if wanted and v.startswith(wanted)]
    for extra in tries:
        env = os.environ | extra
        try:
            done = subprocess.run([name, *probe], env=env, capture_output=True, text=True)
        except OSError:
            break
        if done.returncode == 0:
            major, minor = map(int, done.stdout.split())
            if (major, minor) < (3, 11):
                raise SystemExit(f"install: jaxsci needs Python >= 3.11, and {name} is {major}.{minor}")
            return [name], env, (major, minor)
    raise NoPython(f"install: no working interpreter called {name!r}; give one with PYTHON=...")


def main() -> None:
    """Parse the arguments and bring the environment up to date."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("venv", type=pathlib.Path)
    parser.add_argument("--python", default="python3")
    parser.add_argument("--probe", action="store_true", help="make nothing; exit status 3 if there is no such Python")
    parser.add_argument("--only", type=pathlib.Path, help="a file of pins, in place of those of this Python and jaxsci")
    args = parser.parse_args()

    try:
        command, env, version = working_python(args.python)
    except NoPython as error:
        print(error, file=sys.stderr)
        raise SystemExit(3 if args.probe else 1) from None
    if args.probe:
        return
    pins = args.only or ROOT / "requirements" / ("py311.txt" if version == (3, 11) else "py312.txt")
    parts = [pins.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), repr(version).encode(), str(ROOT).encode()]
    stamp, wanted = args.venv / ".jaxsci-stamp", hashlib.sha256(b"\0".join(parts)).hexdigest()
    python = args.venv / ("Scripts" if os.name == "nt" else "bin") / "python"
    # An environment links to the interpreter that made it, which may be gone by now: exists() follows the links.
    if stamp.exists() and stamp.read_text() == wanted and (python.exists() or python.with_suffix(".exe").exists()):
        return

    print(f"making {args.venv} (Python {version[0]}.{version[1]}, {pins.name})", flush=True)
    subprocess.run([*command, "-m", "venv", "--clear", str(args.venv)], check=True, env=env)
    python = str(python)
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    got_uv = subprocess.run([*pip, "install", "uv"]).returncode == 0
    # --no-deps: the pins are complete, so nothing is resolved and nothing can backtrack.
    jobs = [["-r", str(pins)]] if args.only else [["-r", str(pins)], ["-e", str(ROOT)]]
    for job in jobs:
        if got_uv:
            # Bytecode is compiled here because imports are several times slower without it.
            uv = [python, "-m", "uv", "pip", "install", "--quiet", "--python", python, "--no-deps"]
            if subprocess.run([*uv, "--compile-bytecode", *job]).returncode == 0:
                continue
            print("install: uv failed, trying pip", file=sys.stderr, flush=True)
        subprocess.run([*pip, "install", "--no-deps", *job], check=True)
    stamp.write_text(wanted)


if __name__ == "__main__":
    main()
