"""A head without MediaPipe's own embedding, as FLAME, is posed by its 68 landmarks about as well as with all 468."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from ofer_models.bundle.manifest import HEAD, MANIFEST
from ofer_models.files.hashing import sha256_of
from ofer_models.head.landmark_sets import LANDMARKS68
from ofer_models.pipeline import FacePipeline

ROOT = Path(__file__).resolve().parents[1]
OPEN, IMAGES = ROOT / "engines" / "open", ROOT.parent / "shared" / "images"


@pytest.fixture(scope="module")
def flame_like(tmp_path_factory) -> Path:
    """The open bundle with its head cut down to the landmarks that FLAME has."""
    folder = tmp_path_factory.mktemp("bundles") / "flame_like"
    shutil.copytree(OPEN, folder)
    with np.load(OPEN / HEAD) as head:
        arrays = {name: head[name] for name in head.files if not name.startswith("mediapipe")}
    np.savez(folder / HEAD, **arrays, landmarks68_points=np.array(LANDMARKS68))
    manifest = yaml.safe_load((folder / MANIFEST).read_text())
    manifest["files"][HEAD]["sha256"] = sha256_of(folder / HEAD)
    (folder / MANIFEST).write_text(yaml.safe_dump(manifest))
    return folder


def test_the_pose_is_nearly_that_of_all_points(flame_like):
    pictures = sorted(IMAGES.glob("*.jpg"))
    if not pictures:
        pytest.skip(f"no photographs in {IMAGES}")
    full, few = FacePipeline(OPEN), FacePipeline(flame_like)
    angles, distances = [], []
    for path in pictures:
        picture = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        for pipeline in (full, few):
            pipeline.reset()
        pairs = list(zip(full(picture, 0.0), few(picture, 0.0), strict=True))
        for a, b in pairs:
            turn = np.trace(a.rotation.T @ b.rotation)
            angles.append(np.degrees(np.arccos(np.clip((turn - 1) / 2, -1, 1))))
            distances.append(np.linalg.norm(a.translation - b.translation) / np.linalg.norm(a.translation))
    assert len(angles) >= 5
    assert np.median(angles) < 5 and np.median(distances) < 0.05, (angles, distances)
