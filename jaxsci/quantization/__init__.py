"""Quantisation: formats and grids of few levels, and training with weights and activations on them.

Builds on: core, nn, linear. Start reading at `_spec.py` (what a format is).
"""

__all__ = []
