"""Mutated calls of everything registered: no silent number that is not finite, no hang, no crash."""

import dataclasses
import inspect
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mistakes
from fuzz import mutations, run
from fuzz.allowed import ALLOWED

# Under the type hook another error comes first.
pytestmark = pytest.mark.bad_input
CASES = 3000  # three or four minutes; counted, not timed, so that the gate tries the same everywhere


@pytest.mark.full
def test_nothing_is_silent_hangs_or_crashes():
    counts, texts = run.fuzz(mutations.CALLED, cases=CASES, seed=20, allowed=ALLOWED)
    print(dict(counts))
    assert not texts, "\n".join(texts)
    assert counts["answered"] + counts["refused"] > 300 and counts["unrecorded"] < 0.2 * counts.total()


# What was silent once: the function, the argument's place, the change.
FOUND = (
    ("jaxsci.diffusion.correctors.sample", "['table'].lam", "zero"),
    ("jaxsci.control.exact.running_maximum", "['path'].xs", "inf"),
    ("jaxsci.control.martingale.merge", "['states'][1].vector", "inf"),
    ("jaxsci.control.exploratory.solution", "['problem'].D", "huge"),
    ("jaxsci.gp.leave_one_out", "['gp'].y", "inf"),
    ("jaxsci.gp.leave_one_out", "['gp'].chol", "nan"),
    ("jaxsci.linear.bounds.power", "['margin']", "-inf"),
    ("jaxsci.pfn.priors.draw_curve", "['noise_law'][0]", "-inf"),
    ("jaxsci.pfn.priors.draw_curve", "['noise_law'][1]", "-inf"),
    ("jaxsci.rl.three_body.fixed_actions", "['cfg'].weights", "inf"),
    ("jaxsci.rl.three_body.start", "['corners']", "zero"),
    ("jaxsci.smc.gibbs", "['parameters']", "inf"),
    ("jaxsci.smc.log_z_variance", "['result'].value.log_weights", "huge"),
    ("jaxsci.pfn.bars.mixture", "['borders']", "nan"),
    ("jaxsci.pfn.curves.evaluate", "['runs']", "inf"),
    ("jaxsci.pfn.curves.normalize", "['normalizer'].soft[1]", "inf"),
    ("jaxsci.pfn.curves.predict", "['model'].params['encoder_x']['bias']", "nan"),
    ("jaxsci.pfn.curves.stretch", "['start']", "-inf"),
)


@pytest.mark.parametrize(("name", "place", "kind"), FOUND)
def test_what_was_silent_has_a_status(name, place, kind, key):
    call = mistakes.recorded(name, mutations.NAMES[name], mutations.ENTRIES[name], key)
    bound = inspect.signature(call.function).bind(*call.args, **call.kwargs)
    paths, tree = jax.tree.flatten_with_path(dict(bound.arguments))
    assert place in [jax.tree_util.keystr(path) for path, _ in paths]
    leaves = [mutations.VALUES[kind](np.asarray(a)) if jax.tree_util.keystr(p) == place else a for p, a in paths]
    bound.arguments.update(tree.unflatten(leaves))
    codes = mutations.statuses(call.function(*bound.args, **bound.kwargs))
    assert codes and any(code.any() for code in codes)


def test_every_exception_has_a_reason():
    assert all(len(reason) > 20 and beginning.startswith("jaxsci.") for beginning, reason in ALLOWED)


class _Result(NamedTuple):
    value: object
    status: object
    history: object = np.full(2, np.nan)


@dataclasses.dataclass
class _Outer:
    inner: _Result
    other_status: object


def test_what_is_silent_is_found():
    good, bad = _Result(jnp.ones(2), np.int32(0)), _Result(jnp.array([1, jnp.nan]), np.int32(0))
    assert mutations.silent(bad, good) == [".value"] and not mutations.silent(good, good)
    assert not mutations.silent(bad, bad) and not mutations.silent(bad._replace(status=np.int32(4)), good)
    assert not mutations.silent(bad.value, good.value)  # no status could have told
    nested = _Outer(bad, np.int32(0)), _Outer(good, np.int32(0))
    assert mutations.silent(*nested) == [".inner.value"]
    assert not mutations.silent(_Outer(bad, np.int32(1)), nested[1])
    assert not mutations.silent(bad, good, {"x": np.array([1, np.nan])})  # handed on


_OTHER = """
import json, os, sys, time
for line in sys.stdin:
    name = line.split()[0]
    time.sleep(60 * (name == "sleeps"))
    name == "ends" and os._exit(3)
    print(json.dumps(["silent" if name == "wrong" else "answered", name]), flush=True)
"""


def test_a_hang_and_a_crash_are_found(monkeypatch, tmp_path):
    """A worker of another kind: one name sleeps, one ends the process, one answers."""
    (tmp_path / "worker.py").write_text(_OTHER)
    monkeypatch.setattr(run, "HERE", tmp_path)
    monkeypatch.setattr(run, "LIMIT", 0.5)
    names = ["sleeps", "ends", "answers", "wrong"]
    monkeypatch.setattr(run, "IN_A_ROW", 1)
    counts, texts = run.fuzz(names, cases=4, seed=0, allowed=[("wrong", "shown here")])
    assert counts == {"hang": 1, "crash": 1, "answered": 1, "allowed": 1}
    assert sorted(texts) == ["crash: ends case 0", "hang: sleeps case 0"]


def test_cases_are_the_same_in_every_process():
    assert list(run.order(["a", "b"], 3, 50)) == list(run.order(["a", "b"], 3, 50))
    assert len(set(run.order(["a", "b"], 3, 50))) == 50
    assert mutations.seed_of(1, "a", 2) == 3994492192
