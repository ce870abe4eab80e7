"""The far side of `benchmarks._peers`: runs peers' functions in whichever interpreter has the packages.

Requests and answers are lines of JSON, arrays travel as npz files, nothing is pickled. Needs NumPy and the peer alone,
not jaxsci. What a peer prints goes to standard error, so that it cannot be taken for an answer.

    {"ask": "look", "packages": [...]}                      -> {"missing": [...], "versions": {...}, "python": "3.12.3"}
    {"ask": "prepare", "file": ..., "function": ..., "inputs": npz}         -> {"number": 0, "compile_seconds": null}
    {"ask": "call", "number": 0, "outputs": npz}            -> {"kind": "array" | "tuple" | "dict"}
    {"ask": "time", "number": 0, "repeats": 3}              -> {"seconds": ...}

A function takes arrays and numbers by name and returns a call without arguments, or a tuple (function, *args) that is
first compiled by JAX; the call returns an array, or a tuple or dictionary of arrays. An exception is answered by
{"error": its last line, "trace": all of it}.
"""

import os
import sys

if __name__ == "__main__" and os.path.dirname(os.path.abspath(__file__)) in sys.path:
    sys.path.remove(os.path.dirname(os.path.abspath(__file__)))  # the files beside this one are no packages

import importlib.metadata
import importlib.util
import json
import platform
import time
import traceback

_calls, _modules = [], {}


def look(packages):
    """Which packages this interpreter lacks, and the versions of the others."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    return {
        "missing": missing,
        "versions": {name: _version(name) for name in packages if name not in missing},
        "python": platform.python_version(),
    }


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def prepare(file, function, inputs):
    """Load the function's file, call it with the inputs, compile what it returns if that is asked for."""
    import numpy as np

    if file not in _modules:
        spec = importlib.util.spec_from_file_location("peer_" + os.path.basename(file)[:-3], file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _modules[file] = module
    with np.load(inputs, allow_pickle=False) as arrays:
        given = {name: arrays[name] if arrays[name].ndim else arrays[name].item() for name in arrays.files}
    call, seconds = getattr(_modules[file], function)(**given), None
    if isinstance(call, tuple):
        call, seconds = _compiled(*call)
    _calls.append(call)
    return {"number": len(_calls) - 1, "compile_seconds": seconds}


def _compiled(function, *args):
    import jax

    start = time.perf_counter()
    program = jax.jit(function).lower(*args).compile()
    return (lambda: program(*args)), time.perf_counter() - start


def call(number, outputs):
    """Call once and write what it returns."""
    import numpy as np

    value = _calls[number]()
    kind = type(value).__name__ if isinstance(value, (tuple, dict)) else "array"
    named = value if kind == "dict" else dict(enumerate(value if kind == "tuple" else [value]))
    arrays = {str(name): np.asarray(leaf) for name, leaf in named.items()}
    odd = [name for name, leaf in arrays.items() if leaf.dtype == object]
    if odd:
        raise TypeError(f"expected an array, or a tuple or dictionary of arrays; output {odd[0]} is none")
    np.savez(outputs, **{"_" + name: leaf for name, leaf in arrays.items()})
    return {"kind": kind}


def time_(number, repeats):
    """Seconds of so many calls, by this process's own clock."""
    run = _calls[number]
    start = time.perf_counter()
    for _ in range(repeats):
        value = run()
    for leaf in value if isinstance(value, tuple) else (value,):
        getattr(leaf, "block_until_ready", bool)()  # an array of JAX may still be on its way
    return {"seconds": time.perf_counter() - start}


def main():
    """Answer until the other side closes its end."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        ask = {"look": look, "prepare": prepare, "call": call, "time": time_}[request.pop("ask")]
        try:
            answer = ask(**request)
        except Exception as error:
            last = traceback.format_exception_only(type(error), error)[-1].strip()
            answer = {"error": last, "trace": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
