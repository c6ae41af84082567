"""ROS4HRI (REP-155): the topics below /humans/faces, where hri_msgs is installed and the parameter `ros4hri` asks."""

from __future__ import annotations

import threading

import cv2
import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from ofer_models.perception.intrinsics import Intrinsics
from ofer_msgs.msg import Face
from ofer_ros.output.action_units import action_units
from ofer_ros.output.blendshapes import BlendshapeMaker
from ofer_ros.output.face_meshes import FaceLandmarks
from ofer_ros.output.large_arrays import image_bytes

try:
    from hri_msgs.msg import (
        FacialActionUnits,
        FacialLandmarks,
        IdsList,
        NormalizedPointOfInterest2D,
        NormalizedRegionOfInterest2D,
    )
except ImportError:  # not among the wheels; ros-<distribution>-hri-msgs has it
    IdsList = None

_ROOT = "/humans/faces"
_QOS = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
CROP = 128  # px, side of `cropped`: REP-155's default
_OUTER_EYES = (33, 263)  # corners: the right eye's, the left eye's
_AIR = 1.2  # of the landmarks' box that an aligned face shows
LAST_WORD = Duration(seconds=0.5)  # that a reader has to take a last message before its topic goes
_PUPILS = (468, 473)  # of MediaPipe's points: the right eye's, the left eye's


class HriFaces:
    """The list of tracked faces and, for each, roi, cropped, aligned, landmarks and facs.

    Does nothing where hri_msgs is missing; facs need blendshapes.
    """

    available = IdsList is not None

    def __init__(self, node: Node, landmarks: FaceLandmarks, blendshapes: BlendshapeMaker | None) -> None:
        self._node = node
        self._blendshapes = blendshapes
        self._landmarks = landmarks
        self._of_face: dict[str, dict[str, Publisher]] = {}
        self._wanted: tuple[str, ...] = ()
        self._lock = threading.Lock()  # held while publishers are used, and while they are made or destroyed
        self._tracked = node.create_publisher(IdsList, f"{_ROOT}/tracked", _QOS) if self.available else None
        if self._tracked is None:
            return
        try:
            self._change = node.create_guard_condition(self._update)
        except Exception:
            node.destroy_publisher(self._tracked)
            raise

    def publish(self, header: Header, rgb: np.ndarray, intrinsics: Intrinsics, faces: list, sent: list[Face]) -> None:
        """faces: the pipeline's; sent: their messages. Topics of faces that are gone are taken away.

        For the worker's thread. The executor makes the topics of a new face, right after its first frame.
        """
        if self._tracked is None:
            return
        self._tracked.publish(IdsList(header=header, ids=[face.id for face in sent]))
        self._want(tuple(face.id for face in sent))
        with self._lock:
            for face, message in zip(faces, sent, strict=True):
                publishers = self._of_face.get(face.id)
                if publishers is None:
                    continue
                publishers["roi"].publish(region(header, message, rgb.shape))
                if publishers["cropped"].get_subscription_count():
                    publishers["cropped"].publish(image_bytes(crop(rgb, message), "rgb8", header))
                if publishers["aligned"].get_subscription_count():
                    publishers["aligned"].publish(image_bytes(aligned(rgb, face.landmarks), "rgb8", header))
                if self._blendshapes is not None and publishers["facs"].get_subscription_count():
                    weights, _ = self._blendshapes.weights(message)
                    intensity, confidence = action_units(weights, message.confidence)
                    publishers["facs"].publish(
                        FacialActionUnits(header=header, intensity=intensity, confidence=confidence)
                    )
                if publishers["landmarks"].get_subscription_count():
                    projected = intrinsics.project(self._landmarks(message))
                    points = np.concatenate([projected, face.landmarks[list(_PUPILS), :2]])
                    publishers["landmarks"].publish(facial_landmarks(header, points, message, rgb.shape))

    def clear(self) -> None:
        """Say that nobody is seen any more, and take the faces' topics away."""
        if self._tracked is not None:
            self._tracked.publish(IdsList(header=Header(stamp=self._node.get_clock().now().to_msg())))
            self._want(())

    def destroy(self) -> None:
        if self._tracked is None:
            return
        self._node.destroy_guard_condition(self._change)
        self._wanted = ()
        self._update()
        self._tracked.wait_for_all_acked(LAST_WORD)
        self._node.destroy_publisher(self._tracked)

    def _want(self, tracks: tuple[str, ...]) -> None:
        if tracks != self._wanted:
            self._wanted = tracks
            self._change.trigger()

    def _update(self) -> None:
        """Make and destroy topics until those of the wanted faces are there. In the thread of the executor."""
        with self._lock:
            wanted = self._wanted
            for track in set(self._of_face) - set(wanted):
                self._remove(track)
            for track in wanted:
                if track not in self._of_face:
                    self._add(track)

    def _add(self, track: str) -> None:
        kinds = {
            "roi": NormalizedRegionOfInterest2D, "cropped": Image, "aligned": Image, "landmarks": FacialLandmarks,
            "facs": FacialActionUnits,
        }  # fmt: skip
        self._of_face[track] = {
            name: self._node.create_publisher(kind, f"{_ROOT}/{track}/{name}", _QOS) for name, kind in kinds.items()
        }

    def _remove(self, track: str) -> None:
        for publisher in self._of_face.pop(track).values():
            self._node.destroy_publisher(publisher)


def region(header: Header, face: Face, shape: tuple[int, ...]) -> NormalizedRegionOfInterest2D:
    """The face's box as parts of the image's width and height (shape (H, W, ...)), within 0..1."""
    height, width = shape[:2]
    roi = face.roi
    return NormalizedRegionOfInterest2D(
        header=header,
        xmin=min(roi.x_offset / width, 1.0),
        ymin=min(roi.y_offset / height, 1.0),
        xmax=min((roi.x_offset + roi.width) / width, 1.0),
        ymax=min((roi.y_offset + roi.height) / height, 1.0),
        c=face.confidence,
    )


def crop(rgb: np.ndarray, face: Face) -> np.ndarray:
    """The face's box, scaled to fit CROP x CROP px, centred, with black around it."""
    roi = face.roi
    part = rgb[roi.y_offset : roi.y_offset + roi.height, roi.x_offset : roi.x_offset + roi.width]
    picture = np.zeros((CROP, CROP, 3), np.uint8)
    if part.size:
        scale = CROP / max(part.shape[:2])
        height, width = (max(1, round(scale * side)) for side in part.shape[:2])
        top, left = (CROP - height) // 2, (CROP - width) // 2
        scaled = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        picture[top : top + height, left : left + width] = scaled
    return picture


def aligned(rgb: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The face turned upright, CROP x CROP px: its eyes level, its box of landmarks (N, 2 or more) px in the middle."""
    points = landmarks[:, :2].astype(np.float64)
    right, left = points[list(_OUTER_EYES)]
    roll = np.arctan2(*(left - right)[::-1])
    cosine, sine = np.cos(roll), np.sin(roll)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    upright = points @ turn.T
    low, high = upright.min(axis=0), upright.max(axis=0)
    scale = CROP / (_AIR * max(float((high - low).max()), 1.0))
    shift = CROP / 2 - scale * (low + high) / 2
    return cv2.warpAffine(rgb, np.column_stack([scale * turn, shift]), (CROP, CROP), flags=cv2.INTER_AREA)


def facial_landmarks(header: Header, points: np.ndarray, face: Face, shape: tuple[int, ...]) -> FacialLandmarks:
    """points (70, 2) px: the 68 landmarks of the shown mesh and both pupils; outside the image they are cut to it."""
    height, width = shape[:2]
    normalized = np.clip(points / [width, height], 0, 1)
    return FacialLandmarks(
        header=header,
        height=height,
        width=width,
        landmarks=[NormalizedPointOfInterest2D(x=float(x), y=float(y), c=face.confidence) for x, y in normalized],
    )
