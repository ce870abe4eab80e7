"""Entries of jaxsci.core.provenance."""

import jax

from contracts import Bad, Driver
from jaxsci.core import provenance


def _versions(folder):
    assert set(provenance.versions()) == {"python", "numpy", "jax", "jaxlib", "jaxsci"}


def _device(folder):
    assert provenance.device_description()["platform"] == jax.default_backend()


ENTRIES = {
    "jaxsci.core.provenance.versions": Driver(works=_versions),
    "jaxsci.core.provenance.device_description": Driver(works=_device),
    "jaxsci.core.provenance.source_of": Driver(
        bad=(Bad(lambda folder: provenance.source_of(3), TypeError, "expected a callable"),)
    ),
    "jaxsci.core.provenance.fingerprint": Driver(
        bad=(Bad(lambda folder: jax.jit(provenance.fingerprint)(1.0), TypeError, "traced"),)
    ),
}
