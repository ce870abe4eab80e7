"""Entries of jaxsci.core.entry; its words are tested in tests/core/test_entry.py."""

from contracts import Driver
from jaxsci.core import entry


def _works(folder):
    def named(size: int):
        return range(size)

    namespace = {"__name__": "jaxsci.made", "__all__": ["named"], "named": named}
    assert entry.is_plain_callable(named) and not entry.is_plain_callable(Driver) and not entry.is_guarded(named)
    entry.guard(namespace)
    guarded = namespace["named"]
    assert entry.is_guarded(guarded) and entry.guarded(named, "jaxsci.other", "other") is guarded
    assert list(guarded(2)) == [0, 1]


ENTRIES = {
    f"jaxsci.core.entry.{name}": Driver(works=_works)
    for name in ("guard", "guarded", "hold", "is_guarded", "is_plain_callable")
}
