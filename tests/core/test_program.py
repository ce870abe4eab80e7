"""The program as fingerprint: what keeps a digest and what changes it, in one process and across processes."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.core import program

ROOT = pathlib.Path(__file__).resolve().parents[2]
X = jax.ShapeDtypeStruct((3,), jnp.float32)


def digest(f, *args):
    return program.fingerprint(f, *(args or (X,)))


def called(constant, name):
    """A jitted helper under a name of its own, as Python and JAX number them."""

    def helper(x):
        return jnp.sin(x) * constant

    helper.__name__ = name
    return jax.jit(helper)


def captured(a):
    return lambda x: x * a


def weighed(a):
    return lambda x: x * np.tile(a, 300).reshape(300, 3).sum(0) + jnp.sum(jnp.asarray(np.tile(a, 300)))


def batched(slope):
    @jax.custom_batching.custom_vmap
    def f(x):
        return x * 2

    f.def_vmap(lambda size, batched, x: (x * slope, True))
    return lambda x: f(x)


def hosted(offset):
    def add(a):
        return np.asarray(a) + offset

    return lambda x: jax.pure_callback(add, X, x)


A = np.arange(3, dtype=np.float32)
ULP = np.nextafter(A, 4).astype(np.float32)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: x + 1, lambda y: y + 1),
        (lambda x: called(2.0, "f")(x) + called(3.0, "g")(x), lambda x: called(2.0, "g")(x) + called(3.0, "f")(x)),
        (captured(A), captured(A.copy())), (captured(jnp.asarray(A)), captured(jnp.asarray(A))),
        (batched(2.0), batched(2.0)), (hosted(1.0), hosted(1.0)),
        (lambda x: x * np.add.reduce([1, 2]), lambda x: x * np.sum([1, 2])),
        (lambda x: jax.random.normal(jax.random.key(3), (3,)), lambda y: jax.random.normal(jax.random.key(3), (3,))),
    ],
    ids=["renamed", "functions", "numpy", "array", "custom_vmap", "callback", "host", "key"],
)  # fmt: skip
def test_what_computes_the_same_has_one_digest(one, other):
    assert digest(one) == digest(other) == digest(one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda x: called(2.0, "f")(x), lambda x: called(3.0, "f")(x)),
        (captured(A), captured(ULP)), (captured(jnp.asarray(A)), captured(jnp.asarray(ULP))),
        (lambda x: jax.jit(captured(A))(x), lambda x: jax.jit(captured(ULP))(x)),
        (lambda x: jax.jit(weighed(A))(x), lambda x: jax.jit(weighed(ULP))(x)),
        (captured(np.float32(0.0)), captured(np.float32(-0.0))),
        (batched(2.0), batched(3.0)), (hosted(1.0), hosted(2.0)),
        (captured(np.add.reduce([1, 2])), captured(np.multiply.reduce([1, 2]))),
        (lambda x: x + x, lambda x: 2 * x),
        (lambda x: jax.random.normal(jax.random.key(3), (3,)), lambda x: jax.random.normal(jax.random.key(4), (3,))),
        (jax.grad(lambda x: jnp.sum(x**2)), jax.grad(lambda x: jnp.sum(x**3))),
    ],
    ids="helper ulp ulp_array nested long zero custom_vmap callback reduce algebra key grad".split(),
)  # fmt: skip
def test_what_computes_otherwise_has_another(one, other):
    assert digest(one) != digest(other)


def test_shapes_dtypes_platforms_and_prints_count():
    f = lambda x: x * 2  # noqa: E731
    found = {digest(f), digest(f, jnp.ones(4)), digest(f, jnp.ones(3, jnp.int32)), digest(lambda x: f(x) + 0.0)}
    found |= {program.fingerprint(f, X, platform=p) for p in ("cpu", "tpu")}

    def printing(x):
        jax.debug.print("{x}", x=x)
        return f(x)

    assert len(found | {digest(printing)}) == 5 and digest(f) == program.fingerprint(f, X, platform="cpu")


def test_every_function_of_a_module_is_reached(monkeypatch):
    seen = []
    plain = program._hash
    monkeypatch.setattr(program, "_hash", lambda text: seen.append(text) or plain(text))
    digest(lambda x: called(2.0, "f")(x) + jax.lax.fori_loop(0, 3, lambda i, y: called(3.0, "f")(y), x))
    assert "\n" not in seen[-1], "the last hash is that of main alone"
    assert not any(re.search(r"call @f\b", text) for text in seen), "no name of a function is left in what is hashed"


def test_the_setting_of_locations_comes_back():
    before = jax.config.jax_traceback_in_locations_limit
    with pytest.raises(ZeroDivisionError):
        digest(lambda x: 1 / 0)
    digest(lambda x: x)
    assert jax.config.jax_traceback_in_locations_limit == before


STUDY = """
    import json, pathlib, sys
    import jax, jax.numpy as jnp, numpy as np
    from jaxsci.core import program, tree
    from jaxsci import linear
    import ladder, pallas_kernels
    import settings as s
    LOG = []
    X = jnp.ones(3)

    def table(x):
        return x * np.loadtxt(pathlib.Path(__file__).with_name("data.txt"))

    def by_text(x):
        return getattr(jnp, s.NAME)(x)

    def bound(x):
        return x * np.sum(s.DOT([1.0, 2.0])) + s.GET("a")

    def held(x):
        return x * s.HOLDER.f([2, 3])

    def library(x):
        return tree.norm({"a": x})

    def solve(x):
        op = linear.operators.shifted_laplacian((4, 4), 0.1)
        return linear.solve(op, jnp.ones((4, 4)) * x[0], method=linear.methods.sor(1.5), tol=1e-3).value

    def cython(x):
        return x * s.normal(1.0, 0.0)

    def logs(x):
        LOG.append(x)  # changes no number
        return x + 1

    functions = [table, by_text, bound, held, library, solve, cython, logs, logs]
    found = {f"{i} {f.__name__}": program.fingerprint(f, X) for i, f in enumerate(functions)}
    for platform, name in {"tpu": "tpu", "cuda": "gpu"}.items():
        with ladder.lowering_for(platform):
            f = lambda x: pallas_kernels.extrema(x, implementation=name)
            found[platform] = program.fingerprint(f, jax.ShapeDtypeStruct((1 << 16,), jnp.float32), platform=platform)
    print(json.dumps(found))
"""
SETTINGS = """
    import numpy as np
    from numpy.random import normal
    NAME, DOT, GET = "sin", np.eye(2).dot, {"a": 1.0}.get
    class Holder:
        def __init__(self, f): self.f = f
    HOLDER = Holder(np.add.reduce)
"""
EDITS = {  # file -> (before, after): each changes numbers of one or more of the functions above
    "settings.py": [('"sin"', '"cos"'), ("np.eye(2)", "np.full((2, 2), 2.0)"), ("np.add", "np.multiply")],
    "data.txt": [("1.5", "2.5")],
    "jaxsci/core/tree.py": [("jnp.sqrt(jnp.where(positive, square, 1))", "jnp.cbrt(jnp.where(positive, square, 1))")],
    "jaxsci/linear/_stationary.py": [("_prepare_sor, as_scalar(omega, ", "_prepare_sor, 1.001 * as_scalar(omega, ")],
    "pallas_kernels/extrema/gpu.py": [("jnp.minimum(low, v)", "jnp.minimum(low, 2 * v)")],
    "pallas_kernels/extrema/tpu.py": [("jnp.minimum(low, v)", "jnp.minimum(low, 2 * v)")],
}


def digests_in_a_process(folder, seed, edits=None, comments=False):
    """The digests of STUDY in a process of its own, with both packages copied into `folder`."""
    folder.mkdir()
    for package in ("jaxsci", "pallas_kernels"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    shutil.copy(ROOT / "tests" / "ladder.py", folder)
    (folder / "data.txt").write_text("1.5")
    (folder / "study.py").write_text(textwrap.dedent(STUDY))
    (folder / "settings.py").write_text(textwrap.dedent(SETTINGS))
    for file, pairs in (edits or {}).items():
        text = (folder / file).read_text()
        for before, after in pairs:
            assert before in text, f"{file} no longer holds {before!r}"
            text = text.replace(before, after)
        (folder / file).write_text(text)
    if comments:
        for file in folder.rglob("*.py"):
            file.write_text("# one more line\n" + file.read_text().replace("\n\n\ndef ", "\n\n\n# and here\ndef "))
        study = folder / "study.py"
        study.write_text(re.sub(r"\bop\b", "renamed", study.read_text()))
    env = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "study.py"], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_digests_across_processes_folders_comments_and_edits(tmp_path):
    first = digests_in_a_process(tmp_path / "first", "1")
    assert digests_in_a_process(tmp_path / "elsewhere", "2", comments=True) == first
    edited = digests_in_a_process(tmp_path / "edited", "1", EDITS)
    assert first["7 logs"] == first["8 logs"]
    same = {name for name in first if edited[name] == first[name]}
    assert same == {"6 cython", "7 logs", "8 logs"}, "each of the edits is seen, and nothing else"
