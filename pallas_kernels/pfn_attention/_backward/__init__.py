"""The derivative of `pfn_attention`, an op of its own: weights are computed anew from the logs of their sums."""
