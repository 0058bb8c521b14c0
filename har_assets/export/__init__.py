"""From checkpoint to ONNX and TensorRT, each conversion compared with its parent."""
