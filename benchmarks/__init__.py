"""The service and other servers with the same ONNX file, measured in one run: `make bench`."""

import service  # noqa: F401 - it turns ONNX Runtime's telemetry off, before anything here imports that
