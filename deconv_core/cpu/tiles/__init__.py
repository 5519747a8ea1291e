"""The three register tiles that do all the multiply-adds, emitted as LLVM vector instructions.

`spread` computes lanes x positions, `dot` lanes x streams, `cross` positions x result channels.
They know nothing of padding, strides or edges, and always use whole vectors: the callers pack their
operands so that whole vectors are theirs to read and write. They call for what later steps
multiply: an address that is called for may lie anywhere. Each has a plain Python twin, which runs
when Numba's compiler is disabled.
"""
