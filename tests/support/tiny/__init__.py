"""Makers of tiny checkpoint folders, without torch, transformers or the network.

What a loader can see is real: config keys, tensor names, special-token ids, patch geometry,
preprocessor constants. What is small: widths, depths and the part of the vocabulary that has text.
"""
