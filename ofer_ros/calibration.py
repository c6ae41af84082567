"""The camera's intrinsics as the node knows them: the latest usable CameraInfo, else an assumed field of view."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo

from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.problems import ProblemLog

_SAME_SHAPE = 0.01  # relative difference of width / height up to which one size is the other, scaled


class Calibration:
    """Caches the latest CameraInfo. `intrinsics` is asked once a frame, with that frame's size."""

    def __init__(self, field_of_view: float, problems: ProblemLog) -> None:
        """field_of_view: along the longer side, degrees; assumed while no CameraInfo fits."""
        self._field_of_view = field_of_view
        self._problems = problems
        self._calibrated: Intrinsics | None = None

    def update(self, message: CameraInfo) -> None:
        """Keep a CameraInfo. One without a focal length (uncalibrated cameras send zeros) is reported and not used."""
        self._calibrated = Intrinsics.from_camera_info(
            message.k, message.width, message.height, message.d, message.distortion_model
        )
        if self._calibrated is None:
            self._problems.report(
                "camera_info is not used: it has no size or no focal length (all zeros: the camera is not calibrated); "
                f"assuming a field of view of {self._field_of_view:g} degrees, poses are not metric"
            )

    def intrinsics(self, width: int, height: int) -> Intrinsics:
        """Intrinsics for an image of this size, px; `metric` tells whether they were measured."""
        calibrated = self._calibrated
        if calibrated is not None:
            shape, expected = width / height, calibrated.width / calibrated.height
            if abs(shape / expected - 1) < _SAME_SHAPE:
                return calibrated.scaled_to(width, height)
            self._problems.report(
                f"camera_info is not used: it is for {calibrated.width} x {calibrated.height}, "
                f"the image is {width} x {height}; assuming a field of view of {self._field_of_view:g} degrees"
            )
        return Intrinsics.from_field_of_view(width, height, self._field_of_view)
