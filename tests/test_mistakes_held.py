"""The usual mistakes in calls of what families hold, such as a policy's update, as in `test_mistakes`.

A file of its own: each of the two lists asks for many programs.
"""

import warnings

import pytest

from test_mistakes import CALLED, ENTRIES, count_held, refused


@pytest.mark.slow
def test_all_that_families_hold_is_named(key):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        counts, texts = count_held({n: ENTRIES[n] for n in CALLED}, key)
    print(dict(counts))
    assert refused(counts) > 1000
    assert counts["bare"] <= 0.01 * refused(counts), "\n".join(texts)
    assert counts["blamed"] <= 0.005 * refused(counts), "\n".join(texts)
