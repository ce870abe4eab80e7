"""What counts as one part of the suite, and that a part with too many programs is named."""

import types

import pytest

import budget


@pytest.mark.parametrize(
    "nodeid, name",
    [
        ("tests/gp/test_gp.py::test_fit[rbf]", "tests/gp/test_gp.py"),
        ("tests/test_contracts.py::test_vmap[jaxsci.gp.fit]", "tests/test_contracts.py jaxsci.gp"),
        ("tests/test_docs.py::test_doctests[jaxsci.smc.resamplers]", "tests/test_docs.py jaxsci.smc"),
        ("tests/test_docs.py::test_notebook_at_small_size[bandits]", "tests/test_docs.py bandits"),
        ("tests/test_docs.py::test_the_command_line", "tests/test_docs.py"),
    ],
)
def test_part(nodeid, name):
    assert budget.part(nodeid) == name


def test_parts_of_one_file_are_not_added_and_workers_neither():
    found = budget.Budget()
    for name, worker in (("a", "gw0"), ("b", "gw0"), ("c", "gw0"), ("c", "gw1")):
        report = types.SimpleNamespace(nodeid=f"test_docs.py::test_notebook[{name}]", spent=[1.0, 400, worker])
        found.pytest_runtest_logreport(report)
    assert found.dear() == []
    found.pytest_runtest_logreport(report)
    assert found.dear() == ["test_docs.py c asks for 800 programs"]
