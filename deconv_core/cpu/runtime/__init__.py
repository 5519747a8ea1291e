"""Compiling kernels, linking them, running them on all threads, and sharing tasks out."""
