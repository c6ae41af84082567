"""What this machine has: Python, ROS, GPU, runtimes, and versions known not to work together. Downloads nothing."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ofer_models.bundle.tensors import StageError
from ofer_models.runtime.tensorrt import api
from ofer_models.runtime.tensorrt.cuda_driver import NoGpu, current_gpu

State = Literal["ok", "note", "problem"]
SUPPORTED_PYTHON = ((3, 10), (3, 12))
# Distribution -> what imports by it and what the pipeline uses it for.
REQUIRED = {
    "numpy": ("numpy", "arithmetic"),
    "opencv-contrib-python": ("cv2", "pictures"),
    "mediapipe": ("mediapipe", "finding faces"),
    "onnxruntime": ("onnxruntime", "networks"),
    "PyYAML": ("yaml", "manifests"),
}
_INSTALL = "pip install -c requirements/constraints.txt -r requirements/run.txt"
_OPENCV = ("opencv-contrib-python", "opencv-python", "opencv-contrib-python-headless", "opencv-python-headless")
_ONNXRUNTIME = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class Finding:
    """One line of the report: ok, a note (something optional is not there) or a problem; remedy says what to do."""

    name: str
    state: State
    detail: str
    remedy: str = ""


def examine() -> list[Finding]:
    """Everything about the machine, in the order of the report."""
    versions = installed_versions()
    gpu = _gpu()
    return [
        _python(),
        _ros(),
        gpu,
        _tensorrt(gpu.state == "ok"),
        *_packages(versions),
        _providers(),
        *clashes(versions),
    ]


def installed_versions(version: Callable[[str], str] = metadata.version) -> dict[str, str]:
    """Distribution name -> version of all that matter here and are installed."""
    names = {*REQUIRED, *_OPENCV, *_ONNXRUNTIME, "protobuf", "cv_bridge", "cv-bridge"}
    found = {}
    for name in sorted(names):
        try:
            found[name] = version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def clashes(versions: Mapping[str, str], cv_bridge: bool | None = None) -> list[Finding]:
    """Combinations of installed versions that are known to fail (problems) or to be fragile (notes).

    versions: by distribution name; cv_bridge: whether ROS's cv_bridge can be imported (looked up by default).
    """
    if cv_bridge is None:
        cv_bridge = importlib.util.find_spec("cv_bridge") is not None
    found = []

    def clash(what: str, why: str, remedy: str) -> None:
        found.append(Finding(what, "problem", why, remedy))

    mediapipe = _release(versions.get("mediapipe", ""))
    if mediapipe >= (0, 10, 30):
        clash(f"mediapipe {versions['mediapipe']}", "ships no models any more", 'pip install "mediapipe==0.10.21"')
    if _release(versions.get("numpy", "")) >= (2,):
        if () < mediapipe < (0, 10, 30):
            clash(f"numpy {versions['numpy']}", f"mediapipe {versions['mediapipe']} needs numpy 1",
                  'pip install "numpy<2"')  # fmt: skip
        elif cv_bridge:
            clash(f"numpy {versions['numpy']}", "cv_bridge is compiled for numpy 1", 'pip install "numpy<2"')
    if _release(versions.get("protobuf", "")) >= (5,) and () < mediapipe < (0, 10, 30):
        clash(f"protobuf {versions['protobuf']}", f"mediapipe {versions['mediapipe']} needs protobuf 4",
              'pip install "protobuf<5"')  # fmt: skip
    for family, kept in ((_OPENCV, "opencv-contrib-python"), (_ONNXRUNTIME, None)):
        present = [name for name in family if name in versions]
        if len(present) > 1:
            kept = kept or present[-1]
            surplus = " ".join(name for name in present if name != kept)
            # A note, since it often works all the same: trying the bundle out decides. Uninstalling takes shared files.
            remedy = f"pip uninstall -y {surplus} && pip install --force-reinstall --no-deps {kept}=={versions[kept]}"
            found.append(Finding(" and ".join(present), "note", "overwrite each other's files", remedy))
    return found


def _release(version: str) -> tuple[int, ...]:
    """(0, 10, 21) of '0.10.21' or '0.10.21rc1'; () of ''."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def _python() -> Finding:
    low, high = SUPPORTED_PYTHON
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if low <= sys.version_info[:2] <= high:
        return Finding("Python", "ok", detail)
    return Finding("Python", "problem", detail, f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}")


def _ros() -> Finding:
    if importlib.util.find_spec("rclpy") is None:
        return Finding("ROS 2", "note", "not found: the pipeline works, the nodes do not",
                       "source /opt/ros/<distribution>/setup.bash, or `make demo`, which brings its own")  # fmt: skip
    distribution = os.environ.get("ROS_DISTRO")
    try:
        detail = f"wheels, rclpy {metadata.version('ros-rclpy')}"
    except metadata.PackageNotFoundError:
        detail = distribution or "found"
    if importlib.util.find_spec("ofer_msgs") is None:
        return Finding("ROS 2", "note", f"{detail}; ofer_msgs is not built: the nodes cannot start",
                       "`make demo`, or colcon build and source install/setup.bash")  # fmt: skip
    return Finding("ROS 2", "ok", f"{detail}, ofer_msgs built")


def _gpu() -> Finding:
    """NVIDIA GPU as its own tool or the driver library tells; no torch."""
    none = Finding("GPU", "note", "no NVIDIA GPU: everything runs on the CPU")
    tool = shutil.which("nvidia-smi")
    if tool:
        query = [tool, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        try:
            answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return Finding("GPU", "note", "nvidia-smi is there but fails: CPU only", "reinstall the NVIDIA driver")
        return Finding("GPU", "ok", "; ".join(answer.splitlines())) if answer else none
    try:
        jetson = ", Jetson" if Path("/etc/nv_tegra_release").exists() else ""
        return Finding("GPU", "ok", f"{current_gpu().name}{jetson}")
    except NoGpu:
        return none
    except StageError as error:
        return Finding("GPU", "note", f"there is one, but TensorRT cannot be used: {error}")


def _tensorrt(gpu: bool) -> Finding:
    found = [f"{name} {_version(name)}" for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
    if found:
        try:
            api.load()
        except StageError as error:
            return Finding("TensorRT", "note", str(error))
        return Finding("TensorRT", "ok", ", ".join(found))
    if not gpu:
        return Finding("TensorRT", "note", "not installed, and of no use without a GPU")
    return Finding("TensorRT", "note", "not installed: networks run on ONNX Runtime",
                   "pip install -r requirements/gpu.txt (PC), JetPack (Jetson): docs/gpu.md")  # fmt: skip


def _packages(versions: Mapping[str, str]) -> list[Finding]:
    found = []
    missing = []
    for name, (module, purpose) in REQUIRED.items():
        if importlib.util.find_spec(module) is None:
            missing.append(Finding(name, "problem", f"not installed ({purpose})", _INSTALL))
        else:
            found.append(f"{name} {versions.get(name, '')}".strip())
    return [*([Finding("packages", "ok", ", ".join(found))] if found else []), *missing]


def _providers() -> Finding:
    try:
        import onnxruntime

        names = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    except Exception as error:  # a broken installation can fail in any way
        return Finding("ONNX Runtime", "problem", f"cannot be imported ({error})", _INSTALL)
    return Finding("ONNX Runtime", "ok", f"{onnxruntime.__version__}, providers {', '.join(names)}")


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(version unknown)"
