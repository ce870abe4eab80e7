"""The usual mistakes with every registered function: an error says whose fault it is, and hardly ever the wrong one's.

All of them in the gate, a sample that is drawn by the names in every run. `python tests/test_mistakes.py SEED` prints
the counts for arguments drawn with another seed: of public functions, of what families hold, and of drivers, which
are counted by that option alone.
"""

import collections
import contextlib
import pathlib
import random
import sys
import tempfile
import warnings

import jax
import numpy as np
import pytest

import contracts
import held
import mistakes
import registry

pytestmark = pytest.mark.bad_input

NAMES, ENTRIES = registry.public_names(), registry.entries()
KINDS = (contracts.Compiled, contracts.Builder, contracts.Family)
# Only what stands below core has no wrapper.
CALLED = sorted(n for n, e in ENTRIES.items() if isinstance(e, KINDS) and not n.startswith("pallas_kernels"))
# Training takes a mistake that it accepts for a task of hours; the demo and what wraps functions have no wrapper.
_LONG = ("jaxsci.models.", "jaxsci.pfn.train", "jaxsci.demo.", "jaxsci.core.entry.")
DRIVERS = sorted(
    n
    for n, e in ENTRIES.items()
    if isinstance(e, contracts.Driver) and (e.works or e.resume) and not n.startswith(_LONG)
)


def count(names, key):
    """Verdicts over all wrong calls of some public names, and the texts of what should not be."""
    counts, texts = collections.Counter(), []
    for name in names:
        with _scratch() as folder:
            call = mistakes.recorded(name, NAMES[name], ENTRIES[name], key, folder=folder)
            counts["unrecorded"] += call is None
            if call is not None:
                _judge(call, counts, texts)
    return counts, texts


def count_held(entries, key, names=None):
    """The same over held functions, those that some registered entries call."""
    jax.clear_caches()  # what was traced before would not be called again
    counts, texts = collections.Counter(), []
    for call in held.recorded(entries, key, names).values():
        _judge(call, counts, texts)
    return counts, texts


def _judge(call, counts, texts):
    for wrong in mistakes.wrong_calls(call):
        verdict, text = mistakes.verdict(call, wrong)
        counts[verdict] += 1
        if verdict in ("bare", "blamed", "lost"):
            texts.append(f"{verdict}: {call.name}: {wrong.mistake} {wrong.arguments}: {text[:200]}")


@contextlib.contextmanager
def _scratch():
    """An empty folder to work in, for drivers that take a mistake for the name of a file; what they print is lost."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.redirect_stdout(None):
        yield pathlib.Path(folder)
        if "matplotlib.pyplot" in sys.modules:
            sys.modules["matplotlib.pyplot"].close("all")


def refused(counts) -> int:
    return sum(counts[v] for v in mistakes.VERDICTS if v != "accepted")


def test_a_sample_is_named(key):
    sample = random.Random(20).sample(CALLED, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, texts = count(sample, key)
    assert refused(counts) > 300
    assert counts["bare"] <= 0.01 * refused(counts) and counts["blamed"] <= 0.02 * refused(counts), "\n".join(texts)
    assert counts["named"] + counts["own words"] > 0.8 * refused(counts)


@pytest.mark.full
def test_all_are_named(key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, texts = count(CALLED, key)
    print(dict(counts))
    assert refused(counts) > 4000 and counts["unrecorded"] <= 0.05 * len(CALLED)
    assert counts["bare"] <= 0.01 * refused(counts), "\n".join(texts)
    assert counts["blamed"] <= 0.005 * refused(counts), "\n".join(texts)
    assert counts["named"] > 0.75 * refused(counts)


def test_the_verdicts_can_be_told_apart():
    """A function without a wrapper, errors of callbacks, a message that names another argument."""

    def call(function, name="made.f"):
        return mistakes.Call(name, function, (), {}, False)

    def plain(x, y):
        return np.zeros(2) @ np.zeros(3)

    def verdict(function, arguments=("x",)):
        return mistakes.verdict(call(function), mistakes.Wrong("text", arguments, lambda: function(1, 2)))[0]

    assert verdict(plain) == "bare" and verdict(lambda x, y: 1) == "accepted"
    path = NAMES["jaxsci.gp.condition"]
    good = mistakes.recorded("jaxsci.gp.condition", path, ENTRIES["jaxsci.gp.condition"], jax.random.key(0))
    text = next(w for w in mistakes.wrong_calls(good) if w.mistake == "text" and w.arguments == ("x",))
    assert mistakes.verdict(good, text)[0] == "named"
    assert mistakes.verdict(good, text._replace(arguments=("noise",)))[0] == "blamed"


if __name__ == "__main__":
    jax.config.update("jax_numpy_rank_promotion", "raise")
    warnings.simplefilter("ignore")
    seed = jax.random.key(int(sys.argv[1]))
    for what, found, lines in (
        ("public", *count(CALLED, seed)),
        ("held", *count_held({n: ENTRIES[n] for n in CALLED}, seed)),
        ("drivers", *count(DRIVERS, seed)),
    ):
        print("\n".join([*lines, f"{what}: {dict(found)}"]), flush=True)
