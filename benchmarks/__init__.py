"""The service and other servers with the same ONNX file, measured in one run: `make bench`."""
