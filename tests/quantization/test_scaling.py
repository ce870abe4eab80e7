"""The law of losses against the published runs."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci.quantization import scaling

BITS = {f"W{bits}A{bits}": bits for bits in (1, 2, 3, 4, 8)}


def _miss(law, runs):
    return np.sqrt(np.mean((scaling.predicted(law, runs) - runs.losses) ** 2))


def test_the_published_law_fits_the_printed_runs_as_published():
    """Of all 104 runs the root mean square is published as 0.01272, the largest 0.0463; 82 are printed."""
    law, runs = scaling.published_law(), scaling.published_runs()
    assert len(runs.losses) == 82
    assert np.abs(scaling.predicted(law, runs) - runs.losses).max() == pytest.approx(0.0463, abs=5e-5)
    assert 82 * _miss(law, runs) ** 2 <= 104 * 0.01272**2, "no part has more squares than the whole"
    assert _miss(law, runs) <= 0.0135
    runs = runs._replace(**{f: v[:6] for f, v in zip(runs._fields, runs)})  # without quantisation
    assert _miss(law, runs) <= 0.007


def test_the_own_fit_is_not_worse_and_four_bits_are_worth_most():
    runs = scaling.published_runs()
    law = scaling.fit(runs)
    assert _miss(law, runs) <= _miss(scaling.published_law(), runs)
    assert law.alpha == pytest.approx(0.0627265, abs=2e-3) and law.beta == pytest.approx(0.241288, abs=1e-2)
    for known in (law, scaling.published_law()):
        worth = scaling.bits_worth(known, BITS)
        assert max(worth, key=worth.get) == "W4A4"
    worth = scaling.bits_worth(scaling.published_law(), BITS)
    np.testing.assert_allclose([worth[name] for name in BITS], [0.33, 1.21, 2.31, 2.77, 2.03], atol=6e-3)


def test_a_law_is_found_again_from_its_own_losses():
    law, runs = scaling.published_law()._replace(e=0.5), scaling.published_runs()
    found = scaling.fit(runs._replace(losses=scaling.predicted(law, runs)))
    np.testing.assert_allclose(found[:5], law[:5], rtol=1e-4)
    np.testing.assert_allclose(list(found.efficiency.values()), list(law.efficiency.values()), rtol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(losses=np.ones(3)), "arrays of one length"),
        (dict(num_params=np.zeros(82)), "positive and finite"),
        (dict(formats=("W4A4",) * 82), "no run of 'W16A16'"),
    ],
)
@pytest.mark.bad_input
def test_runs_that_cannot_be_fitted(change, message):
    with pytest.raises(ValueError, match=message):
        scaling.fit(scaling.published_runs()._replace(**change))


@pytest.mark.bad_input
def test_other_refusals():
    runs = scaling.published_runs()
    few = runs._replace(**{f: v[:5] for f, v in zip(runs._fields, runs)})
    with pytest.raises(ValueError, match="5 constants need as many runs|constants need as many"):
        scaling.fit(few._replace(**{f: v[:4] for f, v in zip(few._fields, few)}))
    with pytest.raises(ValueError, match="no efficiency of W5A5"):
        scaling.predicted(scaling.published_law(), few._replace(formats=("W5A5",) * 5))
    with pytest.raises(ValueError, match="positive bits, got 'W4A4': 0"):
        scaling.bits_worth(scaling.published_law(), {"W4A4": 0})
    assert scaling.loss(scaling.published_law(), jnp.float32(3e7), jnp.float32(3e9)).dtype == jnp.float32


@pytest.mark.bad_input
def test_a_fit_that_was_cut_off_is_refused(monkeypatch):
    monkeypatch.setattr(scaling, "_MAX_EVALUATIONS", 3)
    with pytest.raises(ValueError, match="no minimum within 3 evaluations"):
        scaling.fit(scaling.published_runs())
