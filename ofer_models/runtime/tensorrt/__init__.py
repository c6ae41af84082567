"""Stages on TensorRT: the API, the driver, and engines that `ofer build` made."""
