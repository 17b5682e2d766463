"""Core ML: the graphs of `vlrt_export.graph` as ML programs.

One table, `vlrt_export.coreml.rules`, says for each operator of those graphs what it is in MIL,
Core ML's language; families know nothing of it. Needs coremltools, and neither macOS nor torch.
"""
