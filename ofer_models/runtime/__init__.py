"""Stages of a bundle, ready to call, on whichever runtime is here: ONNX Runtime, TensorRT or torch."""
