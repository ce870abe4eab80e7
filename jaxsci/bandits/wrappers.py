"""Policies made out of other policies.

`binned` runs one copy of a policy for each bin of a scalar context, `encoded` puts a feature map before a policy,
`scaled` brings features to the size 1, `choose` is one of several policies by a traced index. `discounted` and
`windowed` forget old losses. `delayed` learns losses that arrive late; with `delayed_hold` and `delayed_settle` the
losses come from outside, whenever they are known.
"""

from jaxsci.bandits._binned import binned
from jaxsci.bandits._choose import choose
from jaxsci.bandits._delayed import DelayedState, delayed, delayed_hold, delayed_settle
from jaxsci.bandits._encoded import encoded
from jaxsci.bandits._forgetting import DiscountedState, WindowedState, discounted, windowed
from jaxsci.bandits._scaled import ScaledState, scaled
from jaxsci.core import entry

__all__ = [
    "DelayedState",
    "DiscountedState",
    "ScaledState",
    "WindowedState",
    "binned",
    "choose",
    "delayed",
    "delayed_hold",
    "delayed_settle",
    "discounted",
    "encoded",
    "scaled",
    "windowed",
]

entry.guard(globals())
