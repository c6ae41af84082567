"""The camera's intrinsics as the node knows them: the latest usable CameraInfo, else an assumed field of view."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.problems import ProblemLog


class Calibration:
    """Caches the latest CameraInfo. `intrinsics` is asked once a frame, with that frame's size."""

    def __init__(self, field_of_view: float, problems: ProblemLog) -> None:
        """field_of_view: horizontal, degrees, assumed while no CameraInfo fits."""
        self._field_of_view = field_of_view
        self._problems = problems
        self._info: CameraInfo | None = None

    def update(self, message: CameraInfo) -> None:
        """Keep a CameraInfo. One without a focal length (an uncalibrated camera sends zeros) is reported and ignored."""
        if message.k[0] <= 0.0 or message.k[4] <= 0.0:
            self._info = None
            self._problems.report(
                "camera_info has no focal length (all zeros: the camera is not calibrated); "
                f"assuming a field of view of {self._field_of_view:g} degrees, poses are not metric"
            )
        else:
            self._info = message

    def intrinsics(self, width: int, height: int) -> Intrinsics:
        """Intrinsics for an image of this size, px; `metric` tells whether they were measured."""
        info = self._info
        if info is not None and (info.width, info.height) != (width, height):
            self._problems.report(
                f"camera_info is for {info.width} x {info.height}, the image is {width} x {height}; "
                f"assuming a field of view of {self._field_of_view:g} degrees"
            )
            info = None
        if info is None:
            return Intrinsics.from_field_of_view(width, height, self._field_of_view)
        return Intrinsics.from_camera_info(info.k, info.d, width, height)
