"""Entries of jaxsci.plot."""

import numpy as np

from contracts import Bad, Driver
from jaxsci import plot


def _draws(function, *args, **options):
    """The smallest figure is drawn, written and not empty."""

    def works(folder):
        from matplotlib import pyplot

        ax = np.ravel(function(*args, **options))[0]
        ax.figure.savefig(folder / "figure.png")
        pyplot.close(ax.figure)
        assert (folder / "figure.png").stat().st_size > 1000

    return works


_SQUARE = np.arange(1.0, 5.0).reshape(2, 2)

ENTRIES = {
    "jaxsci.plot.lines": Driver(
        bad=(Bad(lambda folder: plot.lines(_SQUARE), ValueError, "needs 2 names of axes"),),
        works=_draws(plot.lines, _SQUARE, by="method"),
    ),
    "jaxsci.plot.heatmap": Driver(
        bad=(Bad(lambda folder: plot.heatmap(_SQUARE, best="low"), ValueError, "best must be"),),
        works=_draws(plot.heatmap, _SQUARE),
    ),
    "jaxsci.plot.orders": Driver(
        bad=(Bad(lambda folder: plot.orders(_SQUARE), ValueError, "needs the sizes n"),),
        works=_draws(plot.orders, _SQUARE, [1, 2]),
    ),
    "jaxsci.plot.regret": Driver(
        bad=(Bad(lambda folder: plot.regret(_SQUARE, baseline=7), ValueError, "no policy 7"),),
        works=_draws(plot.regret, _SQUARE, baseline=0),
    ),
    "jaxsci.plot.images": Driver(
        bad=(Bad(lambda folder: plot.images([]), ValueError, "no picture"),),
        works=_draws(plot.images, [_SQUARE]),
    ),
}
