"""Passes that are products of matrices, fully connected layers, and the columns of im2col."""
