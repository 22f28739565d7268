"""Models outside of PyTorch: ONNX graphs of the parts, and a predictor that runs them with NumPy alone."""
