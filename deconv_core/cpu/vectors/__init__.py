"""What kernels are written in: vector instructions, moves of rows, and transposes."""
