"""Export of trained networks to ONNX and torch.export files."""
