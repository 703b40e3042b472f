"""PyTorch to ONNX graphs to TensorRT engines."""
