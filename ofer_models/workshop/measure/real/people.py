"""Whether two pictures of one person get nearer heads than pictures of different people."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import Bundle
from ofer_models.perception.pictures import read_picture
from ofer_models.reconstruction.pictures import find_pictures
from ofer_models.workshop.head.frontal import frontal_basis
from ofer_models.workshop.measure.real.readings import Reader

FOLDER = "people"  # in a folder of photographs: a sub-folder for each person


def people_in(folders: list[Path]) -> dict[str, list[Path]]:
    """Person -> pictures, of those with two or more."""
    people: dict[str, list[Path]] = {}
    for folder in folders:
        for person in sorted((folder / FOLDER).glob("*/")):
            pictures = find_pictures([str(person)])[0]
            if len(pictures) > 1:
                people[str(person)] = pictures
    return people


def people_figures(bundle: Bundle, reader: Reader, people: dict[str, list[Path]]) -> dict[str, float]:
    """same_nearest: share of pictures whose nearest head is one of the same person; same_mm and other_mm: root mean
    square distance of heads of one and of different people, frontal vertices, mean-aligned."""
    betas, names = [], []
    for person, pictures in people.items():
        for picture in pictures:
            faces, _ = reader.faces(read_picture(picture))
            if faces:
                betas.append(faces[0].shape)
                names.append(person)
    if len(set(names)) < 2:
        return {}
    shapes = np.stack(betas) @ frontal_basis(bundle.head)
    apart = np.sqrt(((shapes[:, None] - shapes) ** 2).sum(-1) / (shapes.shape[1] / 3))
    same = np.array(names)[:, None] == np.array(names)
    alone = np.eye(len(names), dtype=bool)
    twice = (same & ~alone).any(1)
    nearest = np.where(alone, np.inf, apart).argmin(1)
    return {
        "same_nearest": float(same[np.arange(len(names)), nearest][twice].mean()) if twice.any() else float("nan"),
        "same_mm": float(apart[same & ~alone].mean()) if twice.any() else float("nan"),
        "other_mm": float(apart[~same].mean()), "people": float(len(set(names))),
    }  # fmt: skip
