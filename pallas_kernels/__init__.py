"""Hot loops of the toolkit, each one public function with a reference and TPU and GPU kernels behind it.

``op(*arrays, implementation=None | "reference" | "tpu" | "gpu" | "interpret" | "tpu_interpret")``

``None`` picks when the program is lowered: the kernel on TPU and CUDA, the reference (plain ``jax.numpy``, the
meaning of the op) everywhere else. A named implementation never falls back: it runs or raises ValueError.
"""

from pallas_kernels.extrema import extrema
from pallas_kernels.hadamard_quantize import HadamardQuantized, hadamard_quantize
from pallas_kernels.log_weight_stats import log_weight_stats
from pallas_kernels.permute import permute
from pallas_kernels.pfn_attention import pfn_attention
from pallas_kernels.resample import resample
from pallas_kernels.sor import SORResult, sor

__all__ = [
    "HadamardQuantized",
    "SORResult",
    "extrema",
    "hadamard_quantize",
    "log_weight_stats",
    "permute",
    "pfn_attention",
    "resample",
    "sor",
]
