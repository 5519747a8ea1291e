"""Passes over many small pictures, images innermost."""
