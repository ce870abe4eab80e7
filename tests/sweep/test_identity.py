"""What makes a folder's sweep another one, in fresh processes and within one: programs, sources of loops, labels."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from jaxsci import sweep

AXES = {"x": [1.0, 2.0, 3.0]}


def run(folder, point, space=None, **options):
    return sweep.run(point, space or sweep.product(**AXES), out=folder, progress=False, **options)


STUDY = """
    import pathlib, sys
    import jax, jax.numpy as jnp, numpy as np
    from jaxsci import sweep
    from numpy.random import normal, rand
    import settings as s
    LOG = []

    def table(x):
        return x * np.loadtxt(pathlib.Path(__file__).with_name("data.txt"))

    def by_text(x, n):
        return getattr(jnp, s.NAME)(x) ** n

    def bound(x):
        return x * s.GET("a") * s.REDUCE([2, 3])

    def draws(x):
        return x * rand()

    def cython(x):
        return x * normal(1.0, 0.0)

    def logs(x):
        LOG.append(x)
        return x + 1

    space = sweep.product(x=[1.0, 2.0])
    spaces = {"by_text": sweep.product(space, n=sweep.static([1, 2]))}
    for f in (table, by_text, bound, draws, cython, logs, logs):
        name = f.__name__
        try:
            told = []
            sweep.run(f, spaces.get(name, space), out=sys.argv[1] + "/" + name, progress=lambda *a: told.append(a))
            print(name, "computed" if told else "continued")
        except sweep.SweepMismatch as error:
            print(name, "refused:", str(error).splitlines()[1].strip())
"""
SETTINGS = 'import numpy as np\nNAME, GET, REDUCE = "sin", {"a": 1.0}.get, np.add.reduce\n'


def told(folder, sweeps, seed, edits=()):
    """What STUDY says in a process of its own, name by name; its second use of `logs` comes last."""
    folder.mkdir()
    texts = {"study.py": textwrap.dedent(STUDY), "settings.py": SETTINGS, "data.txt": "1.5"}
    for file, before, after in edits:
        assert before in texts[file]
        texts[file] = texts[file].replace(before, after)
    for file, text in texts.items():
        (folder / file).write_text(text)
    env = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "study.py", str(sweeps)]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return [line.split(" ", 1) for line in done.stdout.splitlines()]


def test_refusals_and_continuations_across_processes(tmp_path):
    sweeps = tmp_path / "sweeps"
    names = ["table", "by_text", "bound", "draws", "cython", "logs", "logs"]
    first = told(tmp_path / "a", sweeps, "1")
    assert first == [[n, "computed"] for n in names[:-1]] + [["logs", "continued"]]
    comments = [("study.py", "def ", "# a comment\ndef "), ("study.py", "told", "renamed")]
    again = dict(told(tmp_path / "elsewhere", sweeps, "2", comments))
    assert again.pop("draws").startswith("refused: the program at every point: draws gives another program each time")
    assert again == dict.fromkeys(set(names) - {"draws"}, "continued")
    edits = [("settings.py", '"sin"', '"cos"'), ("settings.py", "np.add", "np.multiply"), ("data.txt", "1.5", "2.5")]
    edited = dict(told(tmp_path / "edited", sweeps, "1", edits))
    assert edited["table"].startswith("refused: the program at every point, though the text of table is the same")
    assert edited["by_text"].startswith("refused: the point function, what it closes over")
    assert edited["bound"].startswith("refused") and edited["logs"] == edited["cython"] == "continued"


def test_an_accepted_edit_continues_and_both_texts_are_kept(tmp_path):
    def first(x):
        return x * 1.0

    def second(x):
        return x * 2.0

    def stop(done, *_):
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(first, sweep.product(**AXES), out=tmp_path, lanes=1, devices=1, progress=stop)
    with pytest.raises(sweep.SweepMismatch, match=r"\+ *return x \* 2.0\n.*accept_changes=True to go on") as raised:
        run(tmp_path, second)
    assert "-    return x * 1.0" in str(raised.value)
    ds = run(tmp_path, second, accept_changes=True)
    assert ds["value"].values.tolist() == [1.0, 4.0, 6.0]
    (edit,) = json.loads(ds.attrs["provenance"])["edits"]
    assert "x * 1.0" in edit["before"] and "x * 2.0" in edit["after"] and "+    " in edit["differences"]
    assert run(tmp_path, second).equals(ds), "from now on it is the edited function's"
    with pytest.raises(sweep.SweepMismatch):
        run(tmp_path, first)
    with pytest.raises(sweep.SweepMismatch, match="axis 'x'"):
        run(tmp_path, second, sweep.product(x=[1.0]), accept_changes=True)
    grown = sweep.extend(tmp_path, first, sweep.product(x=[0.0, 1.0, 2.0, 3.0]), progress=False, accept_changes=True)
    assert grown["value"].values.tolist() == [0.0, 1.0, 4.0, 6.0]
    assert len(json.loads(grown.attrs["provenance"])["edits"]) == 2


def test_only_the_edited_combination_is_named(tmp_path):
    table = {"value": 1.0}

    def point(x, n):
        return x * (table["value"] if n == 2 else 1.0)

    space = sweep.product(**AXES, n=sweep.static([1, 2, 3]))
    run(tmp_path, point, space)
    table["value"] = 2.0
    with pytest.raises(sweep.SweepMismatch, match=r"closure table = \{'value': 2.0\}"):
        run(tmp_path, point, space)
    run(tmp_path / "b", lambda x, n: point(x, n), space)


def test_a_loop_counts_by_its_source_and_the_version_that_the_user_gives(tmp_path):
    def point(x, n):
        return x * n

    def other(x, n):
        return x * n * 1.0

    space, options = sweep.product(**AXES, n=sweep.static({"one": 1})), {"batch": "loop", "version": "data of May"}
    first = run(tmp_path, point, space, **options)
    assert run(tmp_path, point, space, **options).equals(first)
    with pytest.raises(sweep.SweepMismatch, match="version: 'data of May' in the folder, 'data of June' here"):
        run(tmp_path, point, space, **options | {"version": "data of June"})
    with pytest.raises(sweep.SweepMismatch, match=r"\+ *return x \* n \* 1.0"):
        run(tmp_path, other, space, **options)
    with pytest.raises(sweep.SweepMismatch, match="static values behind the same labels, at n=one"):
        run(tmp_path, point, sweep.product(**AXES, n=sweep.static({"one": 2})), **options)
    with pytest.raises(sweep.SweepMismatch, match="batch: loop in the folder, vmap here"):
        run(tmp_path, point, space, version="data of May", batch="vmap")


def test_a_host_callback_counts_by_its_source_and_prints_count(tmp_path):
    def point(x, offset=1.0):
        def host(a):
            return np.asarray(a) + offset

        return jax.pure_callback(host, jax.ShapeDtypeStruct((), x.dtype), x, vmap_method="sequential")

    first = run(tmp_path / "a", point)
    assert run(tmp_path / "a", point).equals(first)
    with pytest.raises(sweep.SweepMismatch):
        run(tmp_path / "a", lambda x: point(x, 2.0))

    def printing(x):
        jax.debug.print("x")
        return x + 1

    run(tmp_path / "b", lambda x: x + 1)
    with pytest.raises(sweep.SweepMismatch):
        run(tmp_path / "b", printing)


def test_a_rule_of_batching_counts(tmp_path):
    def point(slope):
        @jax.custom_batching.custom_vmap
        def f(x):
            return x

        f.def_vmap(lambda size, batched, x: (x * slope, True))
        return lambda x: f(x)

    run(tmp_path, point(2.0))
    assert run(tmp_path, point(2.0))["value"].values.tolist() == [2.0, 4.0, 6.0]
    with pytest.raises(sweep.SweepMismatch):
        run(tmp_path, point(3.0))


def test_static_values_are_told_apart_by_label():
    with pytest.raises(ValueError, match="two different values are labelled 'reduce'"):
        sweep.static([np.add.reduce, np.multiply.reduce])
    axis = sweep.static({"sum": np.add.reduce, "product": np.multiply.reduce})
    ds = sweep.run(lambda x, f: x * f([2, 3]), sweep.product(x=[1.0], f=axis), progress=False)
    assert ds["value"].values.ravel().tolist() == [5.0, 6.0]
    assert sweep.static([1, 1, 2]).codes.tolist() == [0, 0, 1]


@pytest.mark.bad_input
def test_bad_version():
    with pytest.raises(TypeError, match="version must be text or None, got int"):
        sweep.run(lambda x: x, sweep.product(**AXES), version=3)
