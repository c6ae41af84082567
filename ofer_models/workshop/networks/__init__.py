"""Every network of OFER as a torch module, and its export to ONNX."""
