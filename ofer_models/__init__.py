"""OFER without ROS: several plausible 3D heads for every face in view (CVPR 2025), in real time."""

__all__ = ["Bundle", "Face", "FacePipeline", "HeadModel", "Intrinsics", "PipelineSettings"]

_HOMES = {
    "Bundle": "ofer_models.bundle.manifest",
    "Face": "ofer_models.tracking.face",
    "FacePipeline": "ofer_models.pipeline",
    "HeadModel": "ofer_models.head.model",
    "Intrinsics": "ofer_models.perception.intrinsics",
    "PipelineSettings": "ofer_models.pipeline_settings",
}


def __getattr__(name: str) -> object:
    """Import the public names when they are asked for: `ofer --help` and the head model do without MediaPipe."""
    if name == "__version__":
        from ofer_models.bundle.share import version

        return version()
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
