"""Runs mutated calls one after another: reads lines ``name index`` and answers each with one line of JSON.

A process of its own, so that a hang or a crash of one case costs the parent no more than this process.
"""

import functools
import json
import os
import sys
import warnings

import jax

import mistakes
from fuzz import mutations


@functools.lru_cache(maxsize=1)
def _good(name: str, seed: int):
    """The good call of a name and its result; None for the result where it has none."""
    jax.clear_caches()
    call = mistakes.recorded(name, mutations.NAMES[name], mutations.ENTRIES[name], jax.random.key(seed))
    return call, None if call is None else call.function(*call.args, **call.kwargs)


def judged(name: str, index: int, seed: int) -> tuple[str, str]:
    """The verdict on one case: "unrecorded", "refused", "silent" or "answered", and what was changed."""
    call, good = _good(name, seed)
    if call is None:
        return "unrecorded", name
    case = mutations.mutated(call, mutations.seed_of(seed, name, index))
    if case is None:
        return "unrecorded", name
    function, args, kwargs = case.call.function, case.call.args, case.call.kwargs
    try:
        if case.values_only or not call.compiled:
            result = jax.block_until_ready(function(*args, **kwargs))
        else:  # its form alone is wrong: nothing needs to be compiled

            def whole():
                return [leaf for leaf in jax.tree.leaves(function(*args, **kwargs)) if isinstance(leaf, jax.Array)]

            jax.eval_shape(whole)
            return "answered", case.text
    except Exception as error:
        return "refused", f"{case.text}: {type(error).__name__}: {str(error)[:100]}"
    places = mutations.silent(result, good, (args, kwargs))
    return ("silent", f"{case.text} -> {', '.join(places[:3])}") if places else ("answered", case.text)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    given = int(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints, in Python or below it, is no answer
    for line in sys.stdin:
        which, number = line.split()
        print(json.dumps(judged(which, int(number), given)), file=answers, flush=True)
