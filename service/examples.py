"""Requests and what the bundled model really answers, for the OpenAPI document."""

from typing import Any

PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAgMAAABinRfyAAAACVBMVEValtw8eDK+Hh7gJXs7AAAAH0lEQVR42mNgwA9WrWJgYmBggBDModoMDIyh"
    "MC42AgBbowI8QAZqWQAAAABJRU5ErkJggg=="
)
"""A PNG of 16 by 16 pixels in base64: a red box under a blue sky."""

CLASSIFY_JSON: dict[str, Any] = {"images": [PICTURE], "top_k": 2}

FILENAME = "box.png"

CLASSIFY_ANSWER: dict[str, Any] = {
    "model": {"name": "strip_mlp_nano_cifar10", "version": 1},
    "results": [
        {
            "index": 0,
            "filename": FILENAME,
            "predictions": [
                {"label": "airplane", "class_id": 0, "probability": 0.585464596748352},
                {"label": "automobile", "class_id": 1, "probability": 0.1661289781332016},
            ],
        }
    ],
}

INFER_JSON: dict[str, Any] = {
    "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [PICTURE]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}],
}

INFER_ANSWER: dict[str, Any] = {
    "model_name": "strip_mlp_nano_cifar10",
    "model_version": "1",
    "outputs": [
        {
            "name": "probabilities",
            "datatype": "BYTES",
            "shape": [1, 2],
            "data": ["0.585465:0:airplane", "0.166129:1:automobile"],
        }
    ],
}


def answered(example: dict[str, Any], **others: Any) -> dict[int | str, dict[str, Any]]:
    """The description of a good answer, with an example of it, and of others by content type."""
    return {200: {"content": {"application/json": {"example": example}, **others}}}
