"""deconv_core: convolutions and their adjoints, the transposed convolutions, in NumPy and Numba.

Importing compiles nothing and touches no GPU.
"""

from __future__ import annotations

from deconv_core import data, device, functional, memory
from deconv_core.cpu import on_compile
from deconv_core.layers import AvgPool2d, Conv2d, ConvTranspose2d, Flatten, MaxPool2d, ReLU
from deconv_core.linear import Linear
from deconv_core.losses import CrossEntropyLoss
from deconv_core.models import DDNet
from deconv_core.optim import SGD, Adam
from deconv_core.parameters import Layer, Parameter
from deconv_core.sequential import Sequential
from deconv_core.training import Evaluation, evaluate, train_step

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AvgPool2d",
    "Conv2d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "DDNet",
    "Evaluation",
    "Flatten",
    "Layer",
    "Linear",
    "MaxPool2d",
    "Parameter",
    "ReLU",
    "Sequential",
    "data",
    "device",
    "evaluate",
    "functional",
    "memory",
    "on_compile",
    "train_step",
]
