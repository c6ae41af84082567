"""The camera's intrinsics as the node knows them: the latest usable CameraInfo, else an assumed field of view."""

from __future__ import annotations

from dataclasses import replace

from sensor_msgs.msg import CameraInfo

from ofer_models.perception.intrinsics import Intrinsics
from ofer_ros.base.problem_log import ProblemLog

_SIZES_KEPT = 8
_SAME_SHAPE = 0.01  # relative difference of width / height up to which one size is the other, scaled


class Calibration:
    """Caches the latest CameraInfo of each image size. `intrinsics` is asked once a frame, with that frame's size.

    By size, because the two topics do not arrive in step: where a camera changes its resolution, or a slide show its
    picture, the latest CameraInfo may already belong to the next frame.
    """

    def __init__(self, field_of_view: float, problems: ProblemLog) -> None:
        """field_of_view: along the longer side, degrees; assumed while no CameraInfo fits."""
        self._field_of_view = field_of_view
        self._problems = problems
        # One a size, the newest last. Replaced as a whole: the worker reads it while a callback brings the next.
        self._calibrated: tuple[Intrinsics, ...] = ()

    def update(self, message: CameraInfo) -> None:
        """Keep a CameraInfo. One without a focal length (uncalibrated cameras send zeros) is reported and not used."""
        calibrated = _of_the_image(message)
        if calibrated is None:
            self._calibrated = ()
            self._problems.report(
                "camera_info is not used: it has no size or no focal length (all zeros: the camera is not calibrated); "
                f"assuming a field of view of {self._field_of_view:g} degrees, poses are not metric"
            )
            return
        size = (calibrated.width, calibrated.height)
        others = [known for known in self._calibrated if (known.width, known.height) != size]
        self._calibrated = (*others, calibrated)[-_SIZES_KEPT:]

    def intrinsics(self, width: int, height: int) -> Intrinsics:
        """Intrinsics for an image of this size, px; `metric` tells whether they were measured."""
        known = self._calibrated
        same_shape = [one for one in known if abs(width / height * one.height / one.width - 1) < _SAME_SHAPE]
        for calibrated in reversed(same_shape):
            if (calibrated.width, calibrated.height) == (width, height):
                return calibrated
        if same_shape:
            return same_shape[-1].scaled_to(width, height)
        if known:
            self._problems.report(
                f"camera_info is not used: it is for {known[-1].width} x {known[-1].height}, "
                f"the image is {width} x {height}; assuming a field of view of {self._field_of_view:g} degrees"
            )
        return Intrinsics.from_field_of_view(width, height, self._field_of_view)


def _of_the_image(message: CameraInfo) -> Intrinsics | None:
    """Intrinsics of the image that comes with a CameraInfo: of its region of interest, binned. None: not calibrated.

    K is stated for the full sensor; roi and binning (0 means 1) tell which part of it the image shows.
    """
    full = Intrinsics.from_camera_info(message.k, message.width, message.height, message.d, message.distortion_model)
    if full is None:
        return None
    roi = message.roi
    if roi.width and roi.height and (roi.width, roi.height) != (message.width, message.height):
        shifted = full.K - [[0, 0, roi.x_offset], [0, 0, roi.y_offset], [0, 0, 0]]
        full = replace(full, K=shifted, width=roi.width, height=roi.height)
    return full.scaled_to(full.width // max(message.binning_x, 1), full.height // max(message.binning_y, 1))
