"""onnxruntime imports this for a report on the machine, which names torch's version if it can."""

excludedimports = ["torch", "transformers"]
