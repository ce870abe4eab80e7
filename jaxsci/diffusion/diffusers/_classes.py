r"""The scheduler classes of the diffusers library: ``schedulers.json`` holds all that is particular to one of them.

The reader (`_reader`), the levels (`_levels`) and the rows (`_rows`) know settings, never the name of a class. The
sections of the file are groups of options with the library's defaults, groups of names that options may have,
refusals, and the classes, which are made of those groups. A setting that a class neither has as an option nor fixes
has the value of the section "neutral". Settings that are no options of the library are

====================  ==================================================================================================
``law``, ``kind``     "vp", "ve" or "flow"; the prediction kind where ``prediction_type`` does not say it
``takes_eta``         whether steps take the argument eta
``even_strides``      every step goes to t - T/N, which must be the next time step
``keeps_noise``       the network's eps stays when D is clipped
``karras_in_range``   whether sigma_min and sigma_max, which curves of any class look for, hold for Karras' too
``karras_in_flow``    Karras' curve may stand for the levels rho of a flow, which are s = rho/(1 + rho), unshifted
``mu_is_inert``       without dynamic shifting the argument mu has no effect, and pipelines pass it all the same
``ends_still``        levels of a curve end by repeating the last one, unless they end at 0
``flow_from_one``     levels of flows start just below 1, and not one step of the chain below
``rounded_curves``    curves whose time steps are rounded to integers, but not under the ``unrounded_betas``
====================  ==================================================================================================

References: the documentation of diffusers 0.42 (behaviour, checked against trajectories of its schedulers).
"""

import functools
import json
import pathlib
from typing import NamedTuple


class Scheduler(NamedTuple):
    """One class of the library.

    Attributes:
        levels: how its noise levels are spaced, a key of `_levels.SPACINGS`.
        solver: what a step is, a key of `_rows.SOLVERS`.
        options: options that its configuration may hold, with the library's defaults.
        names: values allowed for options that are names; checked whether or not this call uses them.
        fixed: settings of the class that no configuration changes.
        translated: values of options that are names of other classes, which the library replaces by its own.
        refused: settings without exact counterpart: ``option`` is refused, because of ``why``, if every setting named
            in ``when`` has one of the values there; "given" is any but None.
        inert: options that change nothing in the class, with the reason.
    """

    levels: str
    solver: str
    options: dict
    names: dict
    fixed: dict
    translated: dict
    refused: list
    inert: dict


def _merged(parts, groups) -> dict:
    """Groups by name and entries of their own, the later over the earlier."""
    return functools.reduce(lambda a, b: a | (groups[b] if isinstance(b, str) else b), parts, {})


_FILE = json.loads(pathlib.Path(__file__).with_name("schedulers.json").read_text())

NEUTRAL = _FILE["neutral"]

SCHEDULERS = {
    name: Scheduler(
        row["levels"],
        row["solver"],
        _merged(row["options"], _FILE["options"]),
        _merged(["everywhere", *row["names"]], _FILE["names"]),
        row.get("fixed", {}),
        row.get("translated", {}),
        [refusal for group in row.get("refused", ()) for refusal in _FILE["refusals"][group]],
        row.get("inert", {}),
    )
    for name, row in _FILE["classes"].items()
}
"""Every class that `interop.from_diffusers` knows."""

FOREIGN = frozenset(_FILE["foreign"]).union(*(scheduler.options for scheduler in SCHEDULERS.values()))
"""Options of any class of the library: files carry them over from the class that they were written for."""

MISSING = _FILE["missing"]
"""Classes that are asked for and not read, with what has no counterpart here."""
