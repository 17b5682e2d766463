"""Runs a package: numpy, onnxruntime, tokenizers, pillow and jinja2; no torch, no onnx."""
