"""Figures are closed after each test: matplotlib warns about many open ones, and warnings are errors."""

import pytest


@pytest.fixture(autouse=True)
def close_figures():
    yield
    from matplotlib import pyplot

    pyplot.close("all")
