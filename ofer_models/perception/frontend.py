"""From a frame to tracked faces with landmarks: landmark tracking, and a detector that finds, checks and corrects."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from ofer_models.perception.crops import box_of, misfit, overlap, quarter_of
from ofer_models.perception.detector import Detection, FaceDetector
from ofer_models.perception.face_search import PLAIN, PLAIN_ROLL, TURNED, FaceSearch
from ofer_models.perception.landmarks import FaceLandmarker, LandmarkResult, Roi, roi_from_keypoints, roi_from_points
from ofer_models.perception.mediapipe_graph import check_rgb
from ofer_models.perception.tracker import FaceTracker, Observation, Track

DETECT_EVERY = 5  # frames between runs of the detector; while a known face is missing it runs on every one
_AHEAD = 0.1  # s between frames, up to which it runs on the one before, between the two
_SAME_FACE = 0.6  # two boxes that share this part of the smaller one lie on one face
_NEAR = 0.3  # the same of two detections that see a face different ways round
# How a detection's region relates to that of a mesh that fits: 0.6 to 1.1 times its size, centres within 0.2 sizes.
_SIZE_RATIO, _OFFSET = (0.55, 1.4), 0.25
_UNCONFIRMED = 0.5  # s, from its first or last confirmed check, for which a mesh is believed without a detection
_SURE = 0.6  # score from which a further face is believed at once; a weaker one must be found twice
_SURELY_TURNED = 0.8  # score from which a detection is right about the way round, and the mesh wrong
# By which the score of an unexpected orientation has to be better; so much more against a mesh that is followed.
_UNEXPECTED, _FOLLOWED = 0.1, 0.2
_MISFIT_WEIGHT = 2.0  # what the meshes' misfits count against the scores
_OTHER_WAY = math.radians(60)  # between the rolls of a detection and of a mesh that see a face the other way round
# s between looks at the picture in all orientations: for faces that are not plainly upright, and to check known ones
_LOOK_FOR_NEW, _CHECK_KNOWN = 0.5, 2.0
_SLOW = 0.3  # s between frames, from which on place alone does not tell who is who
_THUMBNAIL = (32, 24)  # px, width and height at which frames are compared
# Correlation below which a frame shows another scene. Following frames of a camera in motion stay above 0.9 at 30 Hz
# and above 0.6 at 5 Hz; another photograph is below 0.4.
_CUT = 0.45


@dataclass
class _Ahead:
    """A frame (H, W, 3) at `stamp` with these faces, on which the detector runs for the next; what it found, if it has
    run."""

    rgb: np.ndarray
    stamp: float
    faces: list[LandmarkResult]
    found: list[Detection] | None = None


@dataclass(frozen=True)
class FaceNetworks:
    """MediaPipe's networks, which several frontends may share, each on its own thread."""

    detector: FaceDetector = field(default_factory=FaceDetector)
    landmarker: FaceLandmarker = field(default_factory=FaceLandmarker)


class FaceFrontend:
    """Finds and follows the faces of one camera, at most max_faces at a time; one instance per thread.

    The mesh network follows a face by itself, but when a face is half hidden the mesh may shrink onto the visible half
    or slide off, and report full presence.  Hence the regular detections: a mesh much smaller than the detection on it
    is placed anew, and one that no detection confirms is dropped. They take longer than all else, so where frames come
    quickly they are of the frame before, and `look_ahead` makes them when nothing waits for it.

    Faces may have any roll. The detector knows upright ones: it sees the picture as the camera is mounted, turned as
    the followed faces are, and every now and then, where it is not sure, in all orientations.
    """

    def __init__(
        self,
        max_faces: int = 4,
        camera_rotation: int = 0,
        small_faces: bool = False,
        ids: Iterator[str] | None = None,
        networks: FaceNetworks | None = None,
    ) -> None:
        """camera_rotation: degrees by which the picture has to be turned clockwise to be upright, 0, 90, 180 or 270.
        small_faces: look for them in parts of the picture as well, which takes time. ids: of new faces; by default f1,
        f2, ... networks: by default its own.
        """
        if max_faces < 1:
            raise ValueError(f"max_faces must be at least 1, got {max_faces}")
        if camera_rotation not in (0, 90, 180, 270):
            raise ValueError(f"camera_rotation must be 0, 90, 180 or 270 degrees, got {camera_rotation}")
        self.max_faces = max_faces
        self._upright = -camera_rotation // 90 % 4
        self._small_faces = small_faces
        networks = networks or FaceNetworks()
        self._detector, self._landmarker = networks.detector, networks.landmarker
        self._search = FaceSearch(self._detector)
        self._tracker = FaceTracker(ids)
        self._shape: tuple[int, ...] = ()
        self.reset()

    def reset(self) -> None:
        """Forget all faces, as for a new camera or a new video."""
        self._tracker.reset()
        self._tracks: list[Track] = []
        self._stamp = 0.0
        self._last_passed = math.inf  # between the last two frames, s
        self._since_detection = 0
        self._ahead: _Ahead | None = None
        self._looked_around = -math.inf  # stamp
        self._scene: np.ndarray | None = None
        self._doubtful: list[np.ndarray] = []  # boxes of weak detections in the detector's last run
        self._confirmed: dict[str, float] = {}  # track id -> stamp of the last detection that agreed with its mesh

    def __call__(self, rgb: np.ndarray, stamp: float) -> list[Track]:
        """Tracks after an RGB frame (H, W, 3) uint8 taken at `stamp` (seconds); `Track.visible` tells who is in it.

        A change of the frame's size starts anew, with new ids; so does a cut to another scene.
        Raises ValueError for another kind of array or a stamp that is not finite.
        """
        check_rgb(rgb)
        if not math.isfinite(stamp):
            raise ValueError(f"a frame needs a finite stamp in seconds, got {stamp}")
        passed = stamp - self._stamp
        scene = _scene(rgb)
        # Another picture, another resolution or a cut in a film: old places mean nothing, and a face at an old place is
        # somebody else's. A slow camera's frames all differ; one late frame among quick ones is no slow camera.
        quick = min(abs(passed), self._last_passed) <= _SLOW
        if rgb.shape != self._shape or (quick and _is_cut(self._scene, scene)):
            self.reset()
            self._shape = rgb.shape
        self._scene = self._scene if scene is None else scene
        self._last_passed = abs(passed)
        followed = self._follow(rgb, passed)
        new: list[LandmarkResult] = []
        self._since_detection += 1
        missing = len(followed) < max(1, len(self._tracks))
        if missing or self._since_detection >= DETECT_EVERY:
            if missing or passed > _AHEAD:
                self._ahead = None
            new = self._detect(rgb, stamp, followed)
            self._since_detection = 0
        self._ahead = None
        if self._since_detection == DETECT_EVERY - 1 and self._last_passed <= _AHEAD:
            self._ahead = _Ahead(rgb, stamp, list(followed.values()))
        seen = [Observation(face.points, face.presence) for face in (*followed.values(), *new)]
        self._tracks = self._tracker.update(seen, stamp)
        self._stamp = stamp
        return self._tracks

    def look_ahead(self) -> None:
        """Between two frames: run the detector for the next one, where that is due and it has not."""
        ahead = self._ahead
        if ahead is not None and ahead.found is None:
            ahead.found = self._look(ahead.rgb, ahead.stamp, ahead.faces)

    def _follow(self, rgb: np.ndarray, passed: float) -> dict[str, LandmarkResult]:
        """Track id -> landmarks, for the faces of the last frame, each looked for where its motion leads."""
        followed: dict[str, LandmarkResult] = {}
        for track in self._tracks:
            if track.visible:
                roi = roi_from_points(track.points)
                dx, dy = track.velocity * min(max(passed, 0.0), _SLOW)
                face = self._landmarker(rgb, replace(roi, x=roi.x + dx, y=roi.y + dy))
                if face is not None and _on_same_face(box_of(face.points), list(followed.values())) is None:
                    followed[track.id] = face
        return followed

    def _detect(self, rgb: np.ndarray, stamp: float, followed: dict[str, LandmarkResult]) -> list[LandmarkResult]:
        """By what the detector finds, correct or drop faces in `followed`, changed in place; returns further ones."""
        ids, faces = list(followed), list(followed.values())
        self.look_ahead()
        found = self._look(rgb, stamp, faces) if self._ahead is None else self._ahead.found
        confirmed: set[int] = set()
        doubtful: list[np.ndarray] = []
        for detection in found:
            roi = roi_from_keypoints(detection.box, detection.keypoints)
            partner = _on_same_face(detection.box, faces)
            if partner is not None:
                mesh_roi = roi_from_points(faces[partner].points)
                turned = _between(roi.angle, mesh_roi.angle) > _OTHER_WAY
                if _agree(roi, mesh_roi) and not (turned and detection.score >= _SURELY_TURNED):
                    confirmed.add(partner)
                    continue
                if roi.size < mesh_roi.size and not turned:  # the detector has found less of the face than the mesh
                    continue
                if turned and (detection.score < _SURELY_TURNED or partner >= len(ids)):
                    continue
            elif len(faces) >= self.max_faces:
                continue
            # A weak detection beside a face is often a pattern on its clothes. Alone, it is a hard photograph.
            if partner is None and faces and detection.score < _SURE:
                doubtful.append(detection.box)
                if not any(overlap(detection.box, box) >= _SAME_FACE for box in self._doubtful):
                    continue
            face = self._landmarker.locate(rgb, roi, detection.keypoints[:2])
            if face is None:
                continue
            if partner is not None:
                faces[partner] = face
                confirmed.add(partner)
            elif _on_same_face(box_of(face.points), faces) is None:
                faces.append(face)
        self._doubtful = doubtful
        self._confirmed = {id: stamp if i in confirmed else self._confirmed.get(id, stamp) for i, id in enumerate(ids)}
        followed.clear()
        for id, face in zip(ids, faces, strict=False):
            if stamp - self._confirmed[id] <= _UNCONFIRMED:
                followed[id] = face
        return faces[len(ids) :]

    def _look(self, rgb: np.ndarray, stamp: float, faces: Sequence[LandmarkResult]) -> list[Detection]:
        """Detections, best first, in the orientations that are expected, or if these are not enough in all."""
        expected = {self._upright, *(quarter_of(roi_from_points(face.points).angle) for face in faces)}
        found = self._search(rgb, sorted(expected))
        if stamp - self._looked_around > _patience(found, faces, expected):
            self._looked_around = stamp
            for other in self._search(rgb, [quarter for quarter in range(4) if quarter not in expected]):
                rivals = [one for one in found if overlap(one.box, other.box) >= _NEAR]
                prior = _UNEXPECTED if _on_same_face(other.box, list(faces)) is None else _FOLLOWED
                if other.score >= TURNED and all(self._is_rather(other, rival, prior, rgb) for rival in rivals):
                    found = [one for one in found if not any(one is rival for rival in rivals)] + [other]
        if self._small_faces:
            found = found + self._search.in_tiles(rgb, self._upright, found)
        return sorted(found, key=lambda one: -one.score)

    def _is_rather(self, turned: Detection, expected: Detection, prior: float, rgb: np.ndarray) -> bool:
        """Whether a face is as a detection in an unexpected orientation says, and not as the one in an expected, whose
        score counts `prior` more."""
        rois = [roi_from_keypoints(one.box, one.keypoints) for one in (turned, expected)]
        if turned.score < expected.score - _MISFIT_WEIGHT / 10:  # which no fit could make up for
            return False
        mine, its = (self._landmarker.locate(rgb, roi) for roi in rois)
        if mine is None or its is None:
            return mine is not None
        better_fit = misfit(its.points) - misfit(mine.points)
        return turned.score - expected.score - prior + _MISFIT_WEIGHT * better_fit > 0


def _scene(rgb: np.ndarray) -> np.ndarray | None:
    """A frame as a unit vector that a change of brightness or contrast leaves alone; None for a blank one."""
    small = cv2.resize(rgb, _THUMBNAIL, interpolation=cv2.INTER_AREA).mean(axis=-1).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > small.size**0.5 else None  # less than one grey level of deviation: blank


def _is_cut(before: np.ndarray | None, now: np.ndarray | None) -> bool:
    return before is not None and now is not None and float(before @ now) < _CUT


def _on_same_face(box: np.ndarray, faces: list[LandmarkResult]) -> int | None:
    """Index of the first mesh that shares most of its or the box's area with `box` (4,) xywh."""
    return next((i for i, face in enumerate(faces) if overlap(box, box_of(face.points)) >= _SAME_FACE), None)


def _agree(detected: Roi, mesh: Roi) -> bool:
    """Whether a detection's region and a mesh's region show the same face at the same size."""
    low, high = _SIZE_RATIO
    offset = math.hypot(detected.x - mesh.x, detected.y - mesh.y)
    return low <= detected.size / mesh.size <= high and offset < _OFFSET * max(mesh.size, detected.size)


def _patience(found: Sequence[Detection], faces: Sequence[LandmarkResult], expected: Collection[int]) -> float:
    """Seconds since the last look in all orientations after which another one is due; infinite where all is plain."""
    if not found and not faces:
        return _LOOK_FOR_NEW
    patience = math.inf
    for detection in found:
        roll = roi_from_keypoints(detection.box, detection.keypoints).angle
        off = min(_between(roll, quarter * math.pi / 2) for quarter in expected)
        if detection.score < PLAIN or off > PLAIN_ROLL:
            known = _on_same_face(detection.box, list(faces)) is not None
            patience = min(patience, _CHECK_KNOWN if known else _LOOK_FOR_NEW)
    return patience


def _between(a: float, b: float) -> float:
    """Angle 0..pi between two directions, radians."""
    return abs(math.remainder(a - b, 2 * math.pi))
