"""`extend` equals a fresh run of the bigger space and computes only what is new."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import sweep
from jaxsci.core import status
from jaxsci.sweep import _store

TABLES = {"a": {"w": np.float32(1)}, "b": {"w": np.float32(2)}, "c": {"w": np.float32(3)}}


def point(lr, table, n, key):
    seed = jax.random.key_data(key)[-1].astype(lr.dtype)
    return {"y": lr * table["w"] * n + seed, "v": jnp.stack([lr, jnp.log(seed)]), "status": status.flag(lr > 2, 4)}


def space(lr=(1.0, 2.0), tables="ab", n=(1,), seeds=2, independent=False):
    return sweep.product(
        lr=list(lr),
        table=sweep.stack({t: TABLES[t] for t in tables}, dims=("solver",)),
        n=sweep.static(list(n)),
        key=sweep.keys(seeds, independent=independent),
    )


BIG = {"lr": (1.0, 1.5, 2.0, 3.0), "tables": "cab", "n": (1, 2), "seeds": 4}
OPTIONS = {"progress": False, "dims": {"v": ("part",)}, "units": {"y": "m"}, "allow_nan": "v", "lanes": 2}


@pytest.mark.parametrize("kind", ["folder", "other folder"])
def test_extend_equals_a_fresh_run_and_computes_only_new_points(tmp_path, kind):
    place = tmp_path / "a"
    small = sweep.run(point, space(), out=place, **OPTIONS)
    told = []
    options = {"progress": lambda *a: told.append(a[0])}
    out = {"out": tmp_path / "b"} if kind == "other folder" else {}
    big = sweep.extend(place, point, space(**BIG), **options, **out)
    fresh = sweep.run(point, space(**BIG), **OPTIONS)
    assert big.equals(fresh) and big["y"].attrs == {"units": "m"} and big["v"].dims[-1] == "part"
    computed = [n for n in told if n]
    assert 8 < computed[0] <= 8 + 4 and computed[-1] == 96, "8 of the 96 points were there and are not computed again"
    if kind == "folder":
        assert [p.name for p in place.glob("sweep-chunks*")] == [f"{_store.CHUNKS}-1"]
        assert sweep.load(place).equals(fresh)
        assert sweep.run(point, space(**BIG), out=place, **OPTIONS).equals(fresh)
        bigger = sweep.extend(place, point, space(**BIG | {"seeds": 5}), progress=False)
        assert bigger.isel(key=slice(4)).equals(fresh)
    if kind == "other folder":
        assert sweep.load(place).equals(small) and sweep.load(tmp_path / "b").equals(fresh)


def test_a_killed_extension_continues(tmp_path):
    sweep.run(point, space(), out=tmp_path, **OPTIONS)

    def stop(done, total, text):
        if done >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.extend(tmp_path, point, space(**BIG), progress=stop)
    left = int((sweep.load(tmp_path)["status"] == status.NOT_RUN).sum())
    assert 0 < left <= 56
    told = []
    done = sweep.extend(tmp_path, point, space(**BIG), progress=lambda *a: told.append(a[0]))
    assert min(told) > 40 and done.equals(sweep.run(point, space(**BIG), **OPTIONS))


def test_an_unfinished_sweep_is_extended(tmp_path):
    def stop(done, total, text):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep.run(point, space(), out=tmp_path, **OPTIONS | {"progress": stop, "chunk": 4})
    assert sweep.extend(tmp_path, point, space(seeds=3), **OPTIONS).equals(sweep.run(point, space(seeds=3), **OPTIONS))


def test_independent_keys_stay_with_their_points(tmp_path):
    def bits(lr, key):
        return jax.random.key_data(key)

    def grid(lr, n):
        return sweep.product(lr=lr, key=sweep.keys(n, independent=True))

    sweep.run(bits, grid([1.0, 2.0], 2), out=tmp_path, progress=False)
    fresh = sweep.run(bits, grid([1.0, 2.0, 3.0], 3), progress=False)
    with pytest.raises(ValueError, match="keys of axis 'key' are independent.*add new values of 'lr' at its end"):
        sweep.extend(tmp_path, bits, grid([3.0, 1.0, 2.0], 2), progress=False)
    assert sweep.extend(tmp_path, bits, grid([1.0, 2.0, 3.0], 3), progress=False).equals(fresh)


def test_loops_and_zipped_axes_grow(tmp_path):
    def pair(lr, wd, solver):
        return lr * wd + len(solver)

    def grid(*pairs):
        lr, wd, solver = zip(*pairs)
        return sweep.product(pair=sweep.zip(lr=lr, wd=wd, solver=sweep.static(list(solver))), lr2=sweep.static([0]))

    def point(lr, wd, solver, lr2):
        return pair(lr, wd, solver)

    sweep.run(point, grid((1.0, 2.0, "cg"), (3.0, 4.0, "sor")), batch="loop", progress=False, out=tmp_path)
    big = grid((1.0, 2.0, "cg"), (1.0, 9.0, "cg"), (3.0, 4.0, "sor"))
    grown = sweep.extend(tmp_path, point, big, progress=False)
    assert grown.equals(sweep.run(point, big, batch="loop", progress=False))
    assert json.loads(grown.attrs["provenance"])["batch"] == "loop"


@pytest.mark.bad_input
def test_bad_input(tmp_path):
    small = sweep.run(point, space(), out=tmp_path / "a", **OPTIONS)
    folder = tmp_path / "a"

    def changed(lr, table, n, key):
        return {"y": lr}

    def fewer(lr):
        return {"y": lr, "v": lr + jnp.ones(2)}

    def edited(lr, table, n, key):
        seed = jax.random.key_data(key)[-1].astype(lr.dtype)
        return {"y": lr * table["w"] * n - seed, "v": jnp.stack([lr, seed])}

    cases = [
        (3, point, space(seeds=3), {}, TypeError, "expected the folder of a sweep, got int"),
        (small, point, space(seeds=3), {}, TypeError, "expected the folder of a sweep, got Dataset; pass what run got"),
        (tmp_path / "none", point, space(), {}, ValueError, "holds no sweep"),
        (folder, point, space(seeds=3), {"lane": 3}, TypeError, "unknown option 'lane'"),
        (folder, point, space(lr=(1.0, 3.0)), {}, ValueError, "the new space lacks lr=2.0, which the old one has"),
        (folder, point, space(tables="bc"), {}, ValueError, "the new space lacks solver=a"),
        (folder, changed, space(seeds=3), {"allow_nan": ()}, ValueError, "dims names 'v'; the outputs are y"),
        (folder, edited, space(seeds=3), {}, sweep.SweepMismatch, r"\+.*lr \* table\[\"w\"\] \* n - seed"),
        (folder, point, space(seeds=3), {"allow_nan": ()}, sweep.SweepMismatch, r"allow_nan: \['v'\] in the folder"),
        (folder, fewer, sweep.product(lr=[1.0]), {}, ValueError, "must stay the same"),
    ]
    for done, function, where, options, error, match in cases:
        with pytest.raises(error, match=match):
            sweep.extend(done, function, where, progress=False, **options)
    with jax.enable_x64(True), pytest.raises(sweep.SweepMismatch, match="x64: False in the folder, True here"):
        sweep.extend(folder, point, space(seeds=3), progress=False)
    other = {"a": {"w": np.float32(7)}, "b": TABLES["b"]}
    where = sweep.product(
        lr=[1.0, 2.0], table=sweep.stack(other, dims=("solver",)), n=sweep.static([1]), key=sweep.keys(3)
    )
    with pytest.raises(sweep.SweepMismatch, match="entry 0 of axis 'table' has the same label as before and another"):
        sweep.extend(folder, point, where, progress=False)
    where = sweep.product(
        table=sweep.stack(TABLES, dims=("solver",)), lr=[1.0, 2.0], n=sweep.static([1]), key=sweep.keys(2)
    )
    with pytest.raises(ValueError, match="axes and dimensions must stay the same"):
        sweep.extend(folder, point, where, progress=False)
    assert sweep.load(folder).equals(small)
