"""Published runs of language models trained at few bits: validation losses on C4, about 100 tokens a parameter.

Of the 104 runs behind the published law these are the ones printed in its tables; the others (eight bits without the
transform, some sizes) are not in this file.

Reference: A. Panferov et al. 2025, arXiv:2502.05003; code and runs in its repository, IST-DASLab/QuEST.
"""

SIZES = ("30M", "50M", "100M", "200M", "430M", "800M")
SHAPES = {
    "30M": (6, 640),
    "50M": (7, 768),
    "100M": (8, 1024),
    "200M": (10, 1280),
    "430M": (13, 1664),
    "800M": (16, 2048),
}
"""Blocks and width."""
TOKENS = {"30M": 3e9, "50M": 5e9, "100M": 10e9, "200M": 20e9, "430M": 43e9, "800M": 80e9}

# Format -> losses by size, in the order of SIZES.
LOSSES = {
    "W16A16": (3.2071, 3.0678, 2.8860, 2.7288, 2.5708, 2.4610),
    "W8A8": (3.2089, 3.0685, 2.8880),
    "W4A4": (3.2721, 3.1351, 2.9477, 2.7818, 2.6138, 2.4950),
    "W4A4 no transform": (3.3036, 3.1661, 2.9781, 2.8093, 2.6376, 2.5171),
    "fp4": (3.2958, 3.1561, 2.9659, 2.7984),
    "2:4": (3.3791, 3.2370, 3.0520, 2.8907, 2.7126, 2.5894),
    "W3A3": (3.3719, 3.2263, 3.0368, 2.8613, 2.6784),
    "W3A3 no transform": (3.4260, 3.2825, 3.0896, 2.9069, 2.7193),
    "W2A2": (3.5740, 3.4410, 3.2355, 3.0457),
    "W2A2 no transform": (3.6772, 3.5585, 3.3408, 3.1407),
    "W1A1": (3.9449, 3.7907, 3.6014, 3.4229, 3.2241, 3.0793),
    "W1A1 no transform": (3.9875, 3.8271, 3.6513, 3.4948, 3.3118),
    "W4A16": (3.2472, 3.1049, 2.9155, 2.7557),
    "W3A16": (3.2956, 3.1491, 2.9558, 2.7920),
    "W2A16": (3.3730, 3.2285, 3.0359, 2.8659),
    "W1A16": (3.5727, 3.4168, 3.2309, 3.0647),
}

# Format -> losses of the smallest model at 25 and 50 tokens a parameter.
SHORT = {"W4A4": (3.4618, 3.3524), "W3A3": (3.5378, 3.4352), "W2A2": (3.7187, 3.6291)}

EFFICIENCY = {
    "W16A16": 1.0,
    "W8A8": 1.016193,
    "W4A4": 0.691832,
    "W4A4 no transform": 0.603271,
    "fp4": 0.629639,
    "2:4": 0.381222,
    "W3A3": 0.433126,
    "W3A3 no transform": 0.322108,
    "W2A2": 0.151871,
    "W2A2 no transform": 0.078412,
    "W1A1": 0.020505,
    "W1A1 no transform": 0.015577,
    "W4A16": 0.840434,
    "W3A16": 0.653059,
    "W2A16": 0.413717,
    "W1A16": 0.138420,
}
CONSTANTS = (8.13403, 0.0627265, 86.4119, 0.241288, 0.00142329)
"""A, alpha, B, beta and E."""
