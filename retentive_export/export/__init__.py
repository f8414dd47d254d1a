"""From a torch model to ONNX graphs: tracing, graph passes, weights on disk, and the golden run."""
