"""Export a trained HyTRec to ONNX, verify it, and serve it on Triton Inference Server."""
