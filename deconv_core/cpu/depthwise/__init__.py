"""Passes of depthwise convolutions, where each channel has a kernel of its own."""
