"""The derivative of `hadamard_quantize` with values, an op of its own: the transform of a masked cotangent."""
