"""Passes by matrix registers, where the processor has them."""
