"""The Open Inference Protocol, version 2, as KServe and Triton speak it.

Sources: github.com/kserve/open-inference-protocol, inference_rest.md and inference_grpc.md; Triton's protocol
extensions for binary tensor data, classification and the model repository.
"""
