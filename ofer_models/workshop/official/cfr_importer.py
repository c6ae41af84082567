"""`ofer import --cfr`: the occlusion-robust regressor of CFR-GAN and its face model become a bundle.

The bundle holds a head without joints, its albedo and a regressor, and none of OFER's stages. Everything is read
without running code from the files, checked, exported and compared, as in `importer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import ALBEDO, HEAD
from ofer_models.bundle.regression import COEFFICIENTS, CROP, CropSpec, RegressorSpec
from ofer_models.files.hashing import sha256_of
from ofer_models.workshop.bundle_writer import Provenance, regressor_entry, write_manifest
from ofer_models.workshop.networks.cfr import GROUPS, SIZE, CfrRegressor, InMetres
from ofer_models.workshop.networks.resnet import DEPTHS
from ofer_models.workshop.official.basel import METRES, BaselError, five_points, read_basel
from ofer_models.workshop.official.checkpoint import CheckpointError, load_network, read_state
from ofer_models.workshop.official.files import OfficialImportError
from ofer_models.workshop.official.graphs import GraphError, write_encoder
from ofer_models.workshop.official.imported_bundle import imported_bundle

FOCAL, DISTANCE = 1015.0, 10.0  # px in the crop, and decimetres: the camera that the regressor was trained with
_RESEARCH = "non-commercial research only"
LICENCES = {
    "regressor": f"CFR-GAN's weights, after Deep3D and VGGFace2 ({_RESEARCH})",
    "basel": f"Basel Face Model 2009 licence, expressions of Guo et al. ({_RESEARCH})",
}
STEPS = 3


def import_cfr(
    regressor: Path, basel: Path, out: Path, *, step: Callable[[str], None] = lambda text: None,
    depths: tuple[int, ...] = DEPTHS,
) -> float:  # fmt: skip
    """Make the bundle `out` of a checkpoint of CFR-GAN's regressor and `BFM_model_80.mat` or `BFM_model_front.mat`.

    step: called with a line at the start of each of the STEPS steps; depths: the ResNet's (tests use fewer). Returns
    the graph's largest difference from the network, of the largest value. Raises OfficialImportError with one line;
    `out` is then as it was before.
    """
    for option, path in (("--cfr", regressor), ("--bfm", basel)):
        if not path.is_file():
            raise OfficialImportError(f"{option}: {path} is not there, or no file")
    with imported_bundle(out, CheckpointError, BaselError, GraphError) as folder:
        step("face model")
        head, albedo = read_basel(basel)
        _check_sizes(basel, head, albedo)
        np.savez(folder / HEAD, **head)
        np.savez(folder / ALBEDO, **albedo)
        step("regressor")
        network = load_network(CfrRegressor(depths), read_state(regressor, "CFR's regressor"), regressor.name)
        path = folder / "regressor.onnx"
        module = InMetres(network, METRES).eval()
        _, difference = write_encoder(module, path, {CROP: ("F", 3, SIZE, SIZE)}, COEFFICIENTS)
        step("manifest")
        hashes = {"cfr": sha256_of(regressor), "bfm": sha256_of(basel)}
        digest = hashlib.sha256("".join(hashes.values()).encode()).hexdigest()[:8]
        header = {
            "name": "cfr", "version": f"bfm2009-{digest}", "n_shape": GROUPS["shape"],
            "n_expression": GROUPS["expression"], "candidates": 1, "hypotheses": 1,
            "inputs": {
                role: {"file": file.name, "sha256": hashes[role], "licence": LICENCES[of], "commercial_use": False}
                for role, file, of in (("cfr", regressor, "regressor"), ("bfm", basel, "basel"))
            },
        }  # fmt: skip
        stages = {"regressor": regressor_entry(path, cfr_regressor(head))}
        write_manifest(folder, header, stages, {
            "*": Provenance(f"ofer import from {basel.name}", LICENCES["basel"], False),
            path.name: Provenance(f"ofer import from {regressor.name}", LICENCES["regressor"], False),
        })  # fmt: skip
    return difference


def _check_sizes(basel: Path, head: dict[str, np.ndarray], albedo: dict[str, np.ndarray]) -> None:
    directions = head["shapedirs"].shape[2]
    found = {"shape": directions - len(head["expression_names"]), "expression": len(head["expression_names"]),
             "albedo": albedo["tex_dir"].shape[2]}  # fmt: skip
    for group, size in found.items():
        if size != GROUPS[group]:
            raise BaselError(f"{basel.name} has {size} directions of {group}, CFR's regressor tells {GROUPS[group]}")


def cfr_regressor(head: dict[str, np.ndarray]) -> RegressorSpec:
    """What CFR's regressor tells, by the arrays of its head; crops as CFR aligns them: the mean face's five points as
    its camera sees them.
    """
    focal = FOCAL / (DISTANCE * METRES)
    template = five_points(head) * [focal, -focal] + SIZE / 2
    crop = CropSpec(SIZE, "five_points", np.zeros(3), np.ones(3), template, channels="bgr")
    return RegressorSpec(dict(GROUPS), crop, rotation="euler", focal=FOCAL, distance=DISTANCE * METRES)
