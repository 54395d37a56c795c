"""From a Strip-MLP training checkpoint to a proven, self-describing ONNX file."""

import service  # noqa: F401 - it turns ONNX Runtime's telemetry off, before anything here imports that
