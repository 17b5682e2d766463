"""Core ML packages run in numpy: what a saved `.mlpackage` computes, on any machine.

Reads the files by itself, knows nothing of coremltools, and does the operations as Apple's MIL
specification describes them. Slow and exact: a reference to verify against, not a way to be fast.
"""
