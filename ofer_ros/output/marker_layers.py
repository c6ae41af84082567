"""The marker layers of a face: what each shows, as bulk markers and texts in a namespace of its own.

Every function takes a Face message, or the mesh made of it, and the number of its track, and gives the layer's markers:
one whose id is that number or, in the namespaces with several for each face, some with ids from `NUMBERS * number` on.
Points are in the camera optical frame: x right, y down, z forward.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from builtin_interfaces.msg import Time
from visualization_msgs.msg import Marker

from ofer_models.drawing.shading import SKIN, Shader, spread_colors
from ofer_models.head import HeadModel
from ofer_models.tracking.spread import spread_mm
from ofer_msgs.msg import Face
from ofer_ros.output.face_meshes import FaceLandmarks, MeshDecoder
from ofer_ros.output.marker_cdr import BulkMarker, Style, plain_marker

NUMBERS = 100  # ids that a track may use where a layer has several markers; at most 64 hypotheses
FULL_SPREAD = 8.0  # mm at which the uncertainty's colours end

MESH = Style("mesh")
HYPOTHESES = Style("hypotheses")
IDENTITY = Style("identity")
UNCERTAINTY = Style("uncertainty")
LANDMARKS = Style("landmarks", Marker.POINTS, 0.003)
TEXT = Style("text", Marker.TEXT_VIEW_FACING, 0.018)
LEGEND = Style(UNCERTAINTY.namespace, Marker.TEXT_VIEW_FACING, 0.012)
NAMESPACES = tuple(style.namespace for style in (MESH, HYPOTHESES, IDENTITY, UNCERTAINTY, LANDMARKS, TEXT))

_HYPOTHESIS_ALPHA, _IDENTITY_ALPHA = 0.15, 0.5
_IDENTITY_COLOR = np.array([0.55, 0.85, 0.6], np.float32)
_LANDMARK_COLOR = np.array([0.3, 0.9, 0.3, 1.0], np.float32)
_COLUMNS = 5  # of hypotheses side by side
_GAP = 0.02  # metres between neighbours
# Metres by which layers lie before the shown mesh, along the rays of sight: of two surfaces in one place each shows in
# patches, of a point on one the half.
_COLORS_BEFORE, _POINTS_BEFORE = 0.001, 0.002
_BAR_WIDTH, _BAR_HEIGHT, _BAR_STEPS = 0.012, 0.12, 16  # metres, and colours of the legend's bar
_CHARACTER = 0.55  # mean width of a character in RViz, which centres a text, as a share of the text's size


class FaceLayers:
    """Makes the layers from messages; what they share, one decoded region of a head, is kept here."""

    def __init__(self, head: HeadModel, region: str) -> None:
        """region: 'face' or 'head', see MeshDecoder."""
        self.decoder = MeshDecoder(head, region)
        self.shader = Shader(self.decoder.triangles, len(self.decoder.vertex_indices))
        self._corners = self.decoder.triangles.ravel()
        self._landmarks = FaceLandmarks(head)

    def forget(self) -> None:
        self.decoder.forget()
        self._landmarks.forget()

    def mesh(self, vertices: np.ndarray, number: int) -> list[BulkMarker]:
        """The selected hypothesis as it is shown: vertices (V', 3) as the decoder gives them."""
        return [self._surface(MESH, number, vertices, SKIN)]

    def hypotheses(self, face: Face, number: int, side_by_side: bool) -> list[BulkMarker]:
        """All hypotheses: transparent in one place, or opaque to the right of the face in rows of five."""
        meshes = self.decoder.hypotheses(face)
        if not side_by_side:
            shown = [(mesh, _HYPOTHESIS_ALPHA) for mesh in meshes]
        else:
            width, height, _ = np.ptp(meshes.reshape(-1, 3), axis=0) + _GAP
            rows = -(-len(meshes) // _COLUMNS)
            shown = []
            for row, mesh in enumerate(meshes):
                across, down = row % _COLUMNS + 1, row // _COLUMNS - (rows - 1) / 2
                shown.append((mesh + np.array([width * across, height * down, 0.0]), 1.0))
        return [
            self._surface(HYPOTHESES, number * NUMBERS + row, mesh, SKIN, alpha)
            for row, (mesh, alpha) in enumerate(shown)
        ]

    def identity(self, face: Face, number: int) -> list[BulkMarker]:
        """The head shape without expression."""
        vertices = self.decoder.neutral(face)
        return [self._surface(IDENTITY, number, vertices, _IDENTITY_COLOR, _IDENTITY_ALPHA)]

    def uncertainty(
        self, face: Face, vertices: np.ndarray, number: int, frame_id: str, stamp: Time
    ) -> list[BulkMarker | Marker]:
        """The shown mesh (V', 3) in the colours of how far the hypotheses lie apart, and a legend beside it."""
        colors = spread_colors(spread_mm(self.decoder.hypotheses(face), np.array(face.scores)), FULL_SPREAD)
        first = number * NUMBERS
        right, middle = vertices[:, 0].max() + _GAP, vertices.mean(axis=0)
        bar = self._legend_bar(first + 1, np.array([right, middle[1], middle[2]]))
        texts = []
        for row, spread in enumerate((0.0, FULL_SPREAD / 2, FULL_SPREAD)):
            text = plain_marker(LEGEND, frame_id, stamp, first + 2 + row)
            text.text = f"{spread:g} mm" + (" and more" if spread == FULL_SPREAD else "")
            text.pose.position.x = float(right + 2 * _BAR_WIDTH + _CHARACTER * LEGEND.size * len(text.text) / 2)
            text.pose.position.y = float(middle[1] + _BAR_HEIGHT * (0.5 - spread / FULL_SPREAD))
            text.pose.position.z = float(middle[2])
            texts.append(text)
        surface = self._surface(UNCERTAINTY, first, vertices, colors)
        return [replace(surface, points=_nearer(surface.points, _COLORS_BEFORE)), bar, *texts]

    def landmarks(self, face: Face, number: int) -> list[BulkMarker]:
        """The 68 landmarks, just before the shown mesh."""
        points = _nearer(self._landmarks(face), _POINTS_BEFORE)
        return [BulkMarker(LANDMARKS, number, points, np.tile(_LANDMARK_COLOR, (len(points), 1)))]

    def text(self, face: Face, vertices: np.ndarray, number: int, frame_id: str, stamp: Time) -> list[Marker]:
        """Who it is, what is hidden, where the identity stands and how sure the expression is, above the shown mesh."""
        marker = plain_marker(TEXT, frame_id, stamp, number)
        marker.pose.position.x, marker.pose.position.z = (float(vertices[:, axis].mean()) for axis in (0, 2))
        marker.pose.position.y = float(vertices[:, 1].min() - 2.5 * TEXT.size)
        mouth = f", mouth {1000 * face.spread_mouth:.1f} mm apart" if np.isfinite(face.spread_mouth) else ""
        marker.text = (
            f"{face.id}  {100 * face.occlusion:.0f} % hidden\n"
            f"identity {face.identity_revision} {face.identity_state}\n"
            f"{face.num_hypotheses} hypotheses{mouth}"
        )
        return [marker]

    def _surface(
        self, style: Style, number: int, vertices: np.ndarray, rgb: np.ndarray, alpha: float = 1.0
    ) -> BulkMarker:
        """A shaded mesh; rgb (3,) or one a vertex (V, 3)."""
        colors = np.full((len(vertices), 4), alpha, np.float32)
        colors[:, :3] = self.shader.brightness(vertices)[:, None] * rgb
        return BulkMarker(style, number, vertices[self._corners], colors[self._corners])

    @staticmethod
    def _legend_bar(number: int, centre: np.ndarray) -> BulkMarker:
        """A strip of colours, the least spread at its lower end; visible from both sides."""
        points, colors = [], []
        for step in range(_BAR_STEPS):
            left, right = centre[0], centre[0] + _BAR_WIDTH
            low, high = (centre[1] + _BAR_HEIGHT * (0.5 - end / _BAR_STEPS) for end in (step, step + 1))
            a, b, c, d = ((x, y, centre[2]) for x, y in ((left, low), (right, low), (right, high), (left, high)))
            points += [a, b, c, a, c, d, a, c, b, a, d, c]
            colors += [[*spread_colors(FULL_SPREAD * step / (_BAR_STEPS - 1), FULL_SPREAD), 1.0]] * 12
        return BulkMarker(UNCERTAINTY, number, np.array(points), np.array(colors, np.float32))


def _nearer(points: np.ndarray, distance: float) -> np.ndarray:
    """Points (N, 3) in the camera's frame, metres nearer to it: where they were in the image."""
    return points * (1 - distance / np.linalg.norm(points, axis=1, keepdims=True))
