"""Entries of jaxsci.core.provenance and jaxsci.core.program."""

import jax

from contracts import Bad, Driver
from jaxsci.core import program, provenance


def _versions(folder):
    assert set(provenance.versions()) == {"python", "numpy", "jax", "jaxlib", "jaxsci"}


def _settings(folder):
    assert set(provenance.settings()) == {"x64", "prng", "matmul_precision"}


def _program(folder):
    x, closed = jax.ShapeDtypeStruct((), "float32"), jax.make_jaxpr(lambda y: y + 1)(1.0)
    assert program.fingerprint(lambda y: y + 1, x) == program.of_jaxpr(jax.make_jaxpr(lambda y: y + 1)(x))
    assert [e.primitive.name for e in program.equations(closed.jaxpr)] == ["add"]
    assert program.inner_jaxprs(closed.eqns[0]) == []
    assert program.platform_of(jax.devices()[0]) == jax.default_backend()


def _device(folder):
    assert provenance.device_description()["platform"] == jax.default_backend()


ENTRIES = {
    "jaxsci.core.provenance.versions": Driver(works=_versions),
    "jaxsci.core.provenance.device_description": Driver(works=_device),
    "jaxsci.core.provenance.settings": Driver(works=_settings),
    "jaxsci.core.program.fingerprint": Driver(
        bad=(Bad(lambda folder: program.fingerprint(lambda x: 1 / 0, 1.0), ZeroDivisionError, "division"),),
        works=_program,
    ),
    "jaxsci.core.program.of_jaxpr": Driver(works=_program),
    "jaxsci.core.program.equations": Driver(works=_program),
    "jaxsci.core.program.inner_jaxprs": Driver(works=_program),
    "jaxsci.core.program.platform_of": Driver(works=_program),
    "jaxsci.core.provenance.source_of": Driver(
        bad=(Bad(lambda folder: provenance.source_of(3), TypeError, "expected a callable"),)
    ),
    "jaxsci.core.provenance.fingerprint": Driver(
        bad=(Bad(lambda folder: jax.jit(provenance.fingerprint)(1.0), TypeError, "traced"),)
    ),
}
