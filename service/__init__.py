"""HTTP image classification with exported Strip-MLP models. Never imports torch or model_export."""
