"""Is CUDA usable here, and if not, why?"""

from __future__ import annotations

import importlib.util

import numba

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
INSTALL = "pip install 'deconv_core[cuda]'"


class CudaUnavailable(ImportError):
    """CUDA was asked for, but a package, the driver or a GPU is missing."""


if not SIMULATED and importlib.util.find_spec("numba_cuda") is None:
    raise CudaUnavailable(f"CUDA needs the package numba-cuda, which is not installed: {INSTALL}")

from numba import cuda as cuda  # noqa: E402  (never before it is known to be there)

# Small grids are meant: a bias gradient has a few channels, however large the GPU.
cuda.config.CUDA_LOW_OCCUPANCY_WARNINGS = 0

THREADS = 8 if SIMULATED else 256  # of a block, a power of two; a simulated thread is a real one
BLOCKS = 2 if SIMULATED else 1 << 14  # of a grid-stride loop, at most


def require() -> None:
    """Raise unless kernels can run here.

    Raises
    ------
    CudaUnavailable
        Saying what is missing, and how to install what can be installed.
    """
    if SIMULATED or cuda.is_available():
        return
    reason = cuda.cuda_error() or "the CUDA compiler's libraries (NVVM, NVRTC) were not found"
    raise CudaUnavailable(
        "CUDA needs an NVIDIA GPU with its driver, and the libraries that "
        f"{INSTALL} brings: {' '.join(str(reason).split())}"
    )
