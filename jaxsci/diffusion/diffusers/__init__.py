"""Schedulers of the diffusers library, read from their configurations; `interop` offers all of it.

The classes are data (``schedulers.json``, explained in `_classes`), and one reader (`_reader`) knows none of them by
name. Noise levels and time steps are in `_levels`, rows of their steps in `_rows`. Nothing of the library is imported.
"""

from jaxsci.core import entry
from jaxsci.diffusion.diffusers._levels import Unsupported
from jaxsci.diffusion.diffusers._reader import Imported, denoiser, from_diffusers

__all__ = ["Imported", "Unsupported", "denoiser", "from_diffusers"]

entry.guard(globals())
