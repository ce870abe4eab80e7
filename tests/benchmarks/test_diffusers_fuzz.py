"""Faults of the diffusers library are proved on a case's own numbers: its final state follows from ours and the fault.

The states are those of diffusers 0.42.1, in single precision.
"""

import numpy as np

from benchmarks import diffusers_fuzz as fuzz
from benchmarks._shipped import SHIPPED
from jaxsci.diffusion import interop

FROM_A_CHAIN = {
    "config": {
        "_class_name": "HeunDiscreteScheduler", "beta_start": 0.0001, "prediction_type": "sample",
        "use_beta_sigmas": True,
    },
    "num": 6, "begin": 0, "arguments": {}, "seed": 169045963,
}  # fmt: skip
CHAIN = np.array([
    [7.610775, 7.8128433, 9.240141, 9.291849, 8.706285, 7.7897396, 7.6314583, 7.783987],
    [9.054979, 7.600073, 7.829052, 8.861534, 8.096134, 9.192228, 8.062996, 7.769596],
])  # fmt: skip

FROM_THE_MIDDLE = {
    "config": {"_class_name": "LMSDiscreteScheduler"}, "num": 6, "begin": 2, "arguments": {}, "seed": 5,
}  # fmt: skip
MIDDLE = np.array([
    [-0.22268717, -8.087847, -5.97158, 3.3916495, -2.0478978, -0.10295457, -11.401181, 1.6354598],
    [-10.230989, -13.079925, -0.52772266, -7.138774, -6.985715, -1.4960628, -0.2856853, 10.231113],
])  # fmt: skip

FROM_THE_LAST_LEVEL = {
    "config": {
        "_class_name": "DPMSolverMultistepScheduler", "beta_start": 0.00085, "rescale_betas_zero_snr": True,
        "use_lu_lambdas": True,
    },
    "num": 13, "begin": 0, "arguments": {}, "seed": 55540134,
}  # fmt: skip
LAST = np.array([
    [-0.62272274, 638.20166, -1778.7538, 2602.7415, 2648.4756, -0.63214266, -25.59437, -752.1335],
    [-2707.9238, 1300.6195, -688.43347, 961.1224, -0.28412861, -25.021286, 655.65265, 1300.4404],
])  # fmt: skip

NOWHERE = np.full_like(CHAIN, np.nan)  # where the library ends in double precision, when nobody looked

PROOFS = [
    (FROM_A_CHAIN, CHAIN, "the trained chain in single"), (FROM_THE_MIDDLE, MIDDLE, "LMS begun in the middle"),
    (FROM_THE_LAST_LEVEL, LAST, "a rescaled chain has its last level twice"),
]  # fmt: skip


def test_a_named_fault_explains_the_state_of_the_library_and_no_other():
    for case, theirs, name in PROOFS:
        assert fuzz.difference(case, theirs) > fuzz.TOLERANCE
        kind, why = fuzz.sort(case, theirs, "", NOWHERE)
        assert kind == "explained" and why.startswith(name)
        assert fuzz.sort(case, theirs * 1.001, "", NOWHERE)[0] == "unexplained"


def test_our_own_state_is_equal_and_a_state_that_is_not_finite_is_the_librarys():
    for case, theirs, _ in PROOFS:
        assert fuzz.sort(case, fuzz.ours(case), "", NOWHERE) == ("equal", "")
        assert fuzz.sort(case, np.nan * theirs, "", NOWHERE)[0] == "the library gives NaN"
        assert fuzz.sort(case, theirs, "IndexError: no", NOWHERE)[0] == "the library fails"


def test_what_double_precision_cures_is_the_librarys_single_precision():
    case, theirs, _ = PROOFS[1]
    mine = fuzz.ours(case)
    assert fuzz.sort(case, 1.001 * theirs, "", mine * (1 + 1e-6)) == ("explained", fuzz.SINGLE)
    assert fuzz.sort(case, 1.001 * theirs, "", mine * (1 + 1e-3))[0] == "unexplained"
    assert fuzz.sort(case, mine * (1 + 3e-4), "", mine * (1 + 1e-4))[0] == "unexplained"  # no closer than a third


def test_shipped_files_are_read_with_every_key():
    for name, options, num, arguments, source in SHIPPED.values():
        it = interop.from_diffusers({"_class_name": name} | options, num, **arguments)
        assert it.table.num_rows >= num and np.isfinite(it.timesteps).all()
        assert source.startswith(("scripts/", "loaders/")) or ":" in source
