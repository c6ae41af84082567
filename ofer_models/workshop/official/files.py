"""The files that `ofer import` works on: which they are, where they may lie, their licences and FLAME version."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path

from ofer_models.bundle.manifest import BundleError

_RESEARCH = "non-commercial research only"
LICENCES = {
    "checkpoint": f"OFER's licence, and those of FLAME and insightface's ArcFace ({_RESEARCH}) and FaRL (MIT)",
    "flame": f"FLAME model licence ({_RESEARCH}, unless you hold another licence from the Max Planck Society)",
    "release": f"OFER's licence ({_RESEARCH})",
}
_FOUND_BESIDE = {
    "front_indices": "frontindices.npy",
    "landmarks": "landmark_embedding.npy",
    "mediapipe": "mediapipe_landmark_embedding.npz",
    "masks": "FLAME_masks.pkl",
}
LICENCE_OF = dict.fromkeys(("idgen", "idrank", "expgen"), LICENCES["checkpoint"]) | {
    "flame": LICENCES["flame"], "front_indices": LICENCES["release"], "landmarks": LICENCES["flame"],
    "mediapipe": LICENCES["flame"], "masks": LICENCES["flame"],
}  # fmt: skip
_FLAME_VERSION = re.compile(r"flame[ _-]?(?:20)?(17|19|20|23)(?!\d)", re.IGNORECASE)


class OfficialImportError(BundleError):
    """The official files cannot become a bundle; one line says which file, why, and what to do."""


@dataclass(frozen=True)
class OfficialFiles:
    """What the user has. The last four are looked for beside the first four when they are not given."""

    idgen: Path
    idrank: Path
    expgen: Path
    flame: Path
    front_indices: Path | None = None
    landmarks: Path | None = None
    mediapipe: Path | None = None
    masks: Path | None = None

    def present(self) -> dict[str, Path]:
        """The files by role, those found beside the others included. Raises OfficialImportError when one is missing."""
        given = {item.name: Path(path) for item in fields(self) if (path := getattr(self, item.name))}
        for role, path in given.items():
            if not path.is_file():
                raise OfficialImportError(f"--{role.replace('_', '-')}: {path} is not there, or no file")
        folders = dict.fromkeys(path.parent for path in given.values())
        for role, name in _FOUND_BESIDE.items():
            beside = next((folder / name for folder in folders if (folder / name).is_file()), None)
            if role not in given and beside:
                given[role] = beside
        if "front_indices" not in given:
            raise OfficialImportError(
                "IdRank scores the vertices listed in the OFER release's frontindices.npy, and cannot be used without: "
                "give --front-indices (the file lies in the release's folder pretrained/)"
            )
        return given


def flame_version(files: dict[str, Path]) -> str | None:
    """`flame2020` or `flame2023` as the files' names tell it, None if none does.

    A checkpoint's or pickle's content does not: all versions have the same shapes. Raises OfficialImportError when two
    names disagree.
    """
    told = {role: version for role in ("idgen", "idrank", "expgen", "flame") if (version := named_version(files, role))}
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{files[role].name} is {version}" for role, version in told.items())
        raise OfficialImportError(
            f"mixed FLAME versions ({listed}): coefficients of one mean nothing to the other; "
            "take the checkpoints and the head model of one version"
        )
    return next(iter(told.values()), None)


def named_version(files: dict[str, Path], role: str) -> str | None:
    """The FLAME version that one file's name tells, or for FLAME itself its folder's (all are `generic_model.pkl`)."""
    path = files[role].resolve()
    names = (path.name, path.parent.name) if role == "flame" else (path.name,)
    found = next(filter(None, map(_FLAME_VERSION.search, names)), None)
    return f"flame20{found.group(1)}" if found else None
