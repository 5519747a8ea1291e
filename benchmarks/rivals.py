"""Who takes part, in which tunings: plain data, with no import of any of them.

A rival is measured as it is installed and at its best known tunings; the ratio that counts is the
one against the best. A rival whose package is not installed is skipped by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

ALLOCATOR = {  # glibc told to keep big blocks instead of mapping fresh pages for each
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "1073741824",
}


@dataclass(frozen=True)
class Side:
    """One that takes part.

    Attributes
    ----------
    name : as printed; the part before the colon is the family
    packages : what must be importable
    module : the module here that builds its calls, in its own process
    options : keyword arguments for those
    environment : variables that must be set before its process starts
    half : whether it computes in bfloat16, so that its results are only roughly the same
    """

    name: str
    packages: tuple[str, ...]
    module: str
    options: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    half: bool = False

    @property
    def family(self) -> str:
        """The rival that this is a tuning of."""
        return self.name.partition(":")[0]

    @property
    def tuning(self) -> str:
        """The tuning alone."""
        return self.name.partition(":")[2].strip()


OURS = Side("deconv_core", ("deconv_core",), "ours")
OURS_BY_LAYER = Side("deconv_core, layer by layer", ("deconv_core",), "ours", {"collapse": False})


def _torch(tuning: str) -> Side:
    """Return PyTorch at a tuning, which its name spells out."""
    options = {
        "channels_last": "channels_last" in tuning,
        "compiled": "compile" in tuning,
        "bfloat16": "bf16" in tuning,
    }
    environment = ALLOCATOR if "allocator" in tuning else {}
    return Side(
        f"PyTorch: {tuning}", ("torch",), "ddnet_torch", options, environment, options["bfloat16"]
    )


STEP = tuple(
    _torch(tuning)
    for tuning in (
        "as installed",
        "channels_last",
        "compile",
        "bf16 autocast",
        "allocator",
        "allocator, channels_last",
        "allocator, compile",
        "allocator, bf16 autocast",
        "allocator, compile, channels_last",
    )
)

MEMORY = tuple(side for side in STEP if not (side.half or side.options["compiled"]))


def _openvino(tuning: str, **options: Any) -> Side:
    """Return OpenVINO at a tuning, always in float32."""
    return Side(f"OpenVINO: {tuning}", ("openvino", "onnx"), "ddnet_openvino", options)


def _onnxruntime(tuning: str, **options: Any) -> Side:
    """Return ONNX Runtime at a tuning."""
    return Side(f"ONNX Runtime: {tuning}", ("onnxruntime", "onnx"), "ddnet_onnxruntime", options)


INFERENCE = (
    _openvino("as installed"),
    _openvino("latency hint", hint="LATENCY"),
    _openvino("throughput hint", hint="THROUGHPUT"),
    _openvino("throughput hint, requests of 4 images", hint="THROUGHPUT", images=4),
    _onnxruntime("as installed"),
    _onnxruntime("all optimisations", optimise=True),
    *(
        _torch(tuning)
        for tuning in (
            "as installed",
            "channels_last",
            "allocator",
            "allocator, channels_last",
            "allocator, compile, channels_last",
        )
    ),
)


def _torch_kernels(tuning: str, convert: bool = False) -> Side:
    """Return PyTorch's single passes at a tuning; `convert` if it must take and give NCHW."""
    side = _torch(tuning)
    options = {"channels_last": side.options["channels_last"], "convert": convert}
    return Side(side.name, ("torch",), "kernels_torch", options, side.environment)


_KERNEL_TUNINGS = ("as installed", "channels_last", "allocator", "allocator, channels_last")
KERNELS = tuple(_torch_kernels(tuning) for tuning in _KERNEL_TUNINGS)
KERNELS_NCHW = tuple(_torch_kernels(tuning, convert=True) for tuning in _KERNEL_TUNINGS)


def installed(sides: Iterable[Side]) -> list[Side]:
    """Return the sides whose packages are there; name the others."""
    there = []
    skipped: dict[str, str] = {}
    for side in sides:
        missing = [name for name in side.packages if find_spec(name) is None]
        if missing:
            skipped[side.family] = ", ".join(missing)
        else:
            there.append(side)
    for family, names in skipped.items():
        print(f"skipped: {family} (not installed: {names})")
    return there
