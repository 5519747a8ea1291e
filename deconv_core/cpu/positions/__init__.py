"""Passes over phases and positions, the way that suits any convolution: plan, pack, run."""
