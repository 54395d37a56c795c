"""HTTP image classification with exported Strip-MLP models. Never imports torch or model_export."""

import os

# Since 1.29 the packages of ONNX Runtime tell Microsoft which models run where, unless this stands in the environment
# before they are imported; `disable_telemetry_events` comes too late for the first events.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
