"""Entries of jaxsci.sweep."""

import numpy as np
import pytest

from contracts import Bad, Driver
from jaxsci import sweep


def _cube(x, n):
    return {"y": x**n}


def _space(points=6):
    return sweep.product(x=np.arange(float(points)), n=sweep.static([2, 3]))


def _run(folder, **options):
    return sweep.run(_cube, _space(), out=folder, lanes=2, chunk=4, **options)


def _resume(folder):
    """Interrupted after the first chunk, continued, and equal to a run that was left alone."""

    def stop(done, total, text):
        if done:
            raise KeyboardInterrupt

    whole = _run(folder / "b", progress=False)
    with pytest.raises(KeyboardInterrupt):
        _run(folder / "a", progress=stop)
    assert _run(folder / "a", progress=False).equals(whole)


def _extended(folder):
    _run(folder, progress=False)
    big = sweep.extend(folder, _cube, _space(8), progress=False)
    np.testing.assert_array_equal(big["y"].sel(n=3), np.arange(8.0) ** 3)


def _composed(folder):
    space = sweep.product(sweep.zip(a=[1, 2], b=[3, 4]), t=sweep.stack({"u": 1.0, "v": 2.0}), key=sweep.keys(3))
    assert space.sizes == {"a": 2, "t": 2, "key": 3} and set(space.coords) == {"a", "b", "t", "key"}


def _summary(folder):
    assert sweep.summary(_run(folder, progress=False), "y", mode="max").best == (125.0, {"x": 5.0, "n": 3})


ENTRIES = {
    "jaxsci.sweep.product": Driver(
        bad=(Bad(lambda folder: sweep.product(a=[]), ValueError, "is empty"),), works=_composed
    ),
    "jaxsci.sweep.zip": Driver(
        bad=(Bad(lambda folder: sweep.zip(a=[1], b=[1, 2]), ValueError, "equal lengths"),), works=_composed
    ),
    "jaxsci.sweep.static": Driver(bad=(Bad(lambda folder: sweep.static([]), ValueError, "is empty"),)),
    "jaxsci.sweep.stack": Driver(bad=(Bad(lambda folder: sweep.stack({}), ValueError, "is empty"),), works=_composed),
    "jaxsci.sweep.keys": Driver(bad=(Bad(lambda folder: sweep.keys([-1]), ValueError, "seeds must lie"),)),
    "jaxsci.sweep.run": Driver(
        bad=(
            Bad(lambda folder: sweep.run(_cube, sweep.product(x=[1.0])), ValueError, "needs 'n'"),
            Bad(lambda folder: sweep.run(_cube, _space(), batch="fast"), ValueError, "batch must be one of"),
            Bad(lambda folder: sweep.run(_cube, _space(), executor=2), TypeError, "executor must have a method submit"),
        ),
        resume=_resume,
    ),
    "jaxsci.sweep.plan": Driver(
        bad=(Bad(lambda folder: sweep.plan(_cube, _space(), lanes=0), ValueError, "lanes must be"),)
    ),
    "jaxsci.sweep.load": Driver(bad=(Bad(sweep.load, ValueError, "holds no sweep"),)),
    "jaxsci.sweep.extend": Driver(
        bad=(Bad(lambda folder: sweep.extend(folder, _cube, _space()), ValueError, "holds no sweep"),), works=_extended
    ),
    "jaxsci.sweep.summary": Driver(
        bad=(Bad(lambda folder: sweep.summary(_run(folder, progress=False), "z"), ValueError, "unknown variable"),),
        works=_summary,
    ),
}
