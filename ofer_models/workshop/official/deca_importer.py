"""`ofer import --deca`: DECA's coarse encoder becomes the regressor of a bundle that has FLAME for its head.

Everything is read without running code from the file, checked, exported and compared, as in `importer`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ofer_models.bundle.manifest import MANIFEST, REGRESSOR, Bundle, read_manifest
from ofer_models.bundle.regression import COEFFICIENTS, CROP, CropSpec, RegressorSpec
from ofer_models.workshop.bundle_writer import Provenance, regressor_entry, set_stage
from ofer_models.workshop.networks.deca import GROUPS, SIZE, DecaEncoder, WithOurLight
from ofer_models.workshop.networks.resnet import DEPTHS
from ofer_models.workshop.official.checkpoint import CheckpointError, load_network, read_state
from ofer_models.workshop.official.files import OfficialImportError
from ofer_models.workshop.official.graphs import GraphError, write_encoder
from ofer_models.workshop.official.imported_bundle import imported_bundle

ENTRY = "E_flame"  # of the file; its others are of the details
SCALE = 1.1 * 1.25  # of the mean side of the 68 landmarks' box: the margins that DECA's own crops have
LICENCE = "DECA's licence (non-commercial research only)"
GRAPH = "regressor.onnx"
STEPS = 3


def import_deca(
    checkpoint: Path, out: Path, *, step: Callable[[str], None] = lambda text: None, depths: tuple[int, ...] = DEPTHS
) -> float:
    """Give the bundle `out`, whose head is FLAME, the regressor of a DECA checkpoint.

    step: called with a line at the start of each of the STEPS steps; depths: the ResNet's (tests use fewer). Returns
    the graph's largest difference from the network, of the largest value. Raises OfficialImportError with one line
    (BundleError where `out` is damaged); `out` is then as it was before.
    """
    if not checkpoint.is_file():
        raise OfficialImportError(f"--deca: {checkpoint} is not there, or no file")
    step("bundle")
    if not (out / MANIFEST).is_file():
        raise OfficialImportError(
            f"{out} is no bundle: DECA's regressor goes into one that has FLAME, which `ofer import` with --idgen, "
            "--idrank, --expgen and --flame makes"
        )
    bundle, made_of = Bundle.load(out), read_manifest(out).get("inputs", {})
    if "flame" not in made_of:
        raise OfficialImportError(f"{out} does not have FLAME for its head; DECA's coefficients mean nothing to it")
    for group in ("shape", "expression"):
        if getattr(bundle, f"n_{group}") < GROUPS[group]:
            raise OfficialImportError(
                f"{out}: its head has {getattr(bundle, f'n_{group}')} {group} coefficients, DECA tells {GROUPS[group]}"
            )
    with imported_bundle(out, CheckpointError, GraphError) as folder:
        step("regressor")
        network = load_network(DecaEncoder(depths), read_state(checkpoint, "DECA", ENTRY), checkpoint.name)
        for name in (*bundle.files, MANIFEST):  # links: nothing writes to a bundle's files
            _link(out / name, folder / name)
        (folder / GRAPH).unlink(missing_ok=True)
        module = WithOurLight(network).eval()
        _, difference = write_encoder(module, folder / GRAPH, {CROP: ("F", 3, SIZE, SIZE)}, COEFFICIENTS)
        step("manifest")
        crop = CropSpec(SIZE, "box68", np.zeros(3), np.ones(3), scale=SCALE)
        entry = regressor_entry(folder / GRAPH, RegressorSpec(dict(GROUPS), crop))
        set_stage(folder, REGRESSOR, entry, Provenance(f"ofer import from {checkpoint.name}", LICENCE, False))
    return difference


def _link(source: Path, target: Path) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)
