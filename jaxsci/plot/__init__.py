"""One-call figures: each takes arrays or labelled arrays, draws on `ax` or on a new figure, and returns the Axes.

Builds on: core (and matplotlib, extra "plot", imported when a figure is drawn). Start reading at `_style.py`.
Labelled arrays are `xarray.DataArray`s, recognised by their ``dims`` and ``coords``: names, coordinates and the
attributes ``long_name`` and ``units`` become the labels. Anything that `numpy.asarray` takes is drawn too.
"""

from jaxsci.core import entry
from jaxsci.plot._heatmap import heatmap
from jaxsci.plot._images import images
from jaxsci.plot._lines import lines
from jaxsci.plot._orders import orders
from jaxsci.plot._regret import regret

__all__ = ["heatmap", "images", "lines", "orders", "regret"]

entry.guard(globals())
