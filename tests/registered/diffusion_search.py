"""Entries of jaxsci.diffusion.unified and jaxsci.diffusion.search."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import contracts
from contracts import Bad, Builder, Compiled, Driver
from jaxsci.diffusion import grids, schedules, search, solvers, unified

U, S = "jaxsci.diffusion.unified", "jaxsci.diffusion.search"
_VP = schedules.vp_linear()
_LAMS = np.array([-4.0, -1.5, 0.5, 3.0])


def _where(dtype=None, num_calls=3):
    made = search.space(num_calls, -4.0, 3.0, kinds=(0.5, 0.5, 0.0))
    return made if dtype is None else jax.tree.map(lambda a: a.astype(dtype), made)


def _uniform():
    """Second order everywhere but at both ends; nodes as given."""

    def truth(lams):
        points = np.zeros((3, 3, 4), bool)
        points[1, 0, 1] = True
        return lams, np.ones(3), np.array([1, 2, 1]), np.zeros(3), points, np.zeros(3), np.zeros(3), np.zeros(3), 0, 3

    def run(lams):
        return tuple(unified.uniform(lams))

    return run, (_LAMS,), truth


def _solver():
    """DPM-Solver++ 2M."""

    def run(lams):
        table = unified.solver(_VP, unified.uniform(lams, order=2, relaxation="bh2"))
        return table.lam, table.predictor.x, table.predictor.data

    def truth(lams):
        table = solvers.dpm_multistep(grids.at_lams(_VP, lams), order=2)
        return table.lam, table.predictor.x, table.predictor.data

    return run, (_LAMS,), truth


def _builder(made):
    run, args, truth = made()
    return Builder(lambda: (run, args), truth)


def _random(key, dtype):
    return lambda k, end: search.random(k, _ending(dtype, end)), (key, jnp.asarray(3.0, dtype))


def _ending(dtype, end):
    return eqx.tree_at(lambda where: where.ends, _where(dtype), jnp.stack([jnp.asarray(-4.0, dtype), end]))


def _mutate(key, dtype):
    where = _where(dtype)
    return lambda k: search.mutate(k, search.random(k, where), where), (key,)


def _crossover(key, dtype):
    where = _where(dtype)

    def run(k):
        other = jax.random.fold_in(k, 1)
        return search.crossover(k, search.random(k, where), search.random(other, where), where)

    return run, (key,)


def _model(x, t, cond, w):
    return jnp.tanh(x), x


def _matching(key, dtype):
    table = solvers.ddim(grids.at_lams(_VP, _LAMS))
    x = contracts.normal(key, (4, 2), dtype)
    return lambda x, y: search.matching(_model, x, y)(table), (x, x[::-1])


def _objective(table):
    return jnp.sum(table.lam**2)


def _search(folder):
    found = search.search(jax.random.key(0), _objective, _where(), _VP, num_evaluations=30, batch=5, predictor=False)
    assert len(found.history.losses) == 30 and found.loss == found.history.losses.min()


def _files(folder):
    start, options = search.starting_population(_VP, _where())[:2], {"num_evaluations": 2, "predictor": False}
    found = search.search(jax.random.key(0), _objective, _where(), _VP, start=start, out=folder / "h.npz", **options)
    again = search.load_history(folder / "h.npz")
    chex.assert_trees_all_equal(again, found.history)
    np.testing.assert_array_equal(again.decisions.lam, [d.lam for d in start])


def _no_history(folder):
    np.savez(folder / "other.npz", losses=np.zeros(2))
    search.load_history(folder / "other.npz")


def _space(folder):
    np.testing.assert_allclose(_where().kinds, [0.5, 0.5, 0], rtol=1e-6)


def _rule(folder):
    from jaxsci.diffusion import tables

    d = unified.uniform(_LAMS, order=2, relaxation="linear")
    assert d.num_calls == 3
    with pytest.raises(TypeError, match="discrete"):
        jax.jit(lambda d: unified.rule(d) and 0)(d)
    one = tables.tabulate(unified.rule(d), grids.at_lams(_VP, _LAMS))
    np.testing.assert_allclose(one.predictor.data, unified.solver(_VP, d).predictor.data)


def _unsorted(folder):
    unified.rule(unified.uniform(_LAMS[::-1]))


def _nearest(folder):
    assert np.argwhere(unified.nearest(3, size=1)).tolist() == [[0, 1], [1, 1], [1, 2]]
    assert np.argwhere(unified.nearest(2, start=1)).tolist() == [[0, 0]]


ENTRIES = {
    f"{U}.nearest": Driver(works=_nearest),
    f"{U}.rule": Driver(works=_rule, bad=(Bad(_unsorted, ValueError, "rise strictly"),)),
    f"{U}.solver": _builder(_solver),
    f"{U}.uniform": _builder(_uniform),
    f"{S}.crossover": Compiled(_crossover),
    f"{S}.load_history": Driver(works=_files, bad=(Bad(_no_history, ValueError, "no history"),)),
    f"{S}.matching": Compiled(_matching, grad=(0, 1)),
    f"{S}.mutate": Compiled(_mutate),
    f"{S}.random": Compiled(_random),
    f"{S}.search": Driver(works=_search, bad=(Bad(lambda f: _bad_batch(), ValueError, "must be an int >= 1"),)),
    f"{S}.space": Driver(works=_space, bad=(Bad(lambda f: search.space(0, 0, 1), ValueError, "num_calls >= 1"),)),
    f"{S}.starting_population": Driver(works=_files),
}


def _bad_batch():
    search.search(jax.random.key(0), _objective, _where(), _VP, batch=0)
