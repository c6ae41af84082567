"""The camera's intrinsics as the node knows them: the latest usable CameraInfo, else an assumed field of view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ofer_models.perception.intrinsics import Intrinsics, IntrinsicsError
from ofer_ros.base.problem_log import ProblemLog

if TYPE_CHECKING:  # bags are read without ROS
    from sensor_msgs.msg import CameraInfo

_SIZES_KEPT = 8
_SAME_SHAPE = 0.01  # relative difference of width / height up to which one size is the other, scaled


class Calibration:
    """Caches the latest CameraInfo of each image size. `intrinsics` is asked once a frame, with that frame's size.

    By size, because the two topics do not arrive in step: where a camera changes its resolution, or a slide show its
    picture, the latest CameraInfo may already belong to the next frame.
    """

    def __init__(self, field_of_view: float, problems: ProblemLog, rectified: bool = False) -> None:
        """field_of_view: along the longer side, degrees; assumed while no CameraInfo fits. rectified: images are."""
        self._field_of_view = field_of_view
        self._problems = problems
        self._rectified = rectified
        self._told = ""
        self._unmatched = (0, 0)  # size of the last image that no CameraInfo fitted
        # One a size, the newest last. Replaced as a whole: the worker reads it while a callback brings the next.
        self._calibrated: tuple[Intrinsics, ...] = ()

    def update(self, message: CameraInfo) -> None:
        """Keep a CameraInfo. One that cannot be used (uncalibrated cameras send zeros) is reported, and not used."""
        try:
            calibrated = camera_of(message, self._rectified)
        except IntrinsicsError as error:
            self._calibrated = ()
            self._tell(str(error))
            return
        if not self._calibrated:
            self._told = ""
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
        unmatched, self._unmatched = self._unmatched, (width, height)
        if known and unmatched == (width, height):  # the first image of a size may be ahead of its CameraInfo
            self._tell(f"it is for {known[-1].width} x {known[-1].height}, the image is {width} x {height}")
        return Intrinsics.from_field_of_view(width, height, self._field_of_view)

    def _tell(self, reason: str) -> None:
        """Log a reason once, and keep it before the diagnostics for as long as it holds."""
        text = (
            f"camera_info is not used: {reason}; assuming a field of view of {self._field_of_view:g} degrees, "
            "poses are not metric"
        )
        if text == self._told:
            self._problems.note(text)
        else:
            self._problems.report(text)
        self._told = text


def camera_of(message: CameraInfo, rectified: bool = False) -> Intrinsics:
    """Intrinsics of the image that comes with a CameraInfo: of its region of interest, binned; as P says where the
    image is rectified, else as K, D and R do. Raises IntrinsicsError.

    All of these are stated for the full sensor; roi (zeros: all of it) and binning (0 means 1) tell which part of it
    the image shows, and at which size.
    """
    camera = Intrinsics.from_camera_info(
        message.k, message.width, message.height, message.d, message.distortion_model, message.r, message.p, rectified
    )
    roi = message.roi
    if roi.width or roi.height:
        camera = camera.window(roi.x_offset, roi.y_offset, roi.width, roi.height)
    return camera.scaled_to(camera.width // max(message.binning_x, 1), camera.height // max(message.binning_y, 1))


def is_rectified(topic: str) -> bool:
    """Whether an image topic is one of rectified images by its last name, as image_proc gives them: image_rect, ..."""
    return not {"rect", "rectified"}.isdisjoint(topic.rpartition("/")[2].split("_"))
