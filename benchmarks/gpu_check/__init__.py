"""Everything about a GPU that has to be measured on one: `make gpu-check`, or `python -m benchmarks.gpu_check`."""
