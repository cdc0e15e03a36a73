"""ONNX Runtime without its telemetry: on import it would write an id of the device, and report its use."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

TELEMETRY = "ORT_DISABLE_TELEMETRY"


def open_session(model: bytes) -> "onnxruntime.InferenceSession":
    """A session that runs a serialized ONNX model."""
    os.environ.setdefault(TELEMETRY, "1")  # read on import
    import onnxruntime

    return onnxruntime.InferenceSession(model)
