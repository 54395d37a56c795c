"""From a Strip-MLP training checkpoint to a proven, self-describing ONNX file."""
