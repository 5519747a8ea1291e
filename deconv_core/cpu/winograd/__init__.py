"""Passes by Winograd's tiles, with fewer multiply-adds."""
