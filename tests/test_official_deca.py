"""DECA's coarse encoder: parity with the public code, the import into a bundle with FLAME, and what is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cfr_inputs import picture
from recipe import recipe_state, relative_error
from skimage.data import astronaut

from ofer_models import FacePipeline
from ofer_models.bundle.manifest import LANDMARKS, MANIFEST, REGRESSOR, STAGES, Bundle
from ofer_models.head.spherical_harmonics import irradiance
from ofer_models.runtime.onnxruntime_backend import OnnxStage
from ofer_models.workshop.networks.deca import GROUPS, DecaEncoder, WithOurLight, deca_harmonics
from ofer_models.workshop.networks.resnet import DEPTHS
from ofer_models.workshop.official.deca_importer import ENTRY, import_deca
from ofer_models.workshop.official.files import OfficialImportError

SHALLOW = (1, 1, 1, 1)
# Recorded from the public code (its ResNet-50 and layers) with the weights of `recipe` and `picture`: every 20th.
COEFFICIENTS = [
    [0.1738465, -0.1267559, -0.1239289, 0.3806297, 0.2204371, -0.2379052, -0.254886, 0.4123893, 0.05172981, 0.7107376,
     0.4470977, 0.1939722],
    [0.1726238, -0.1147834, -0.1263653, 0.3696956, 0.2117385, -0.2589044, -0.2434535, 0.4082575, 0.05539206, 0.7140956,
     0.4434364, 0.1834393],
]  # fmt: skip


def state(depths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return recipe_state(DecaEncoder(depths).official_slots(), 22)


def write_deca(path: Path, depths: tuple[int, ...] = SHALLOW, **changes: torch.Tensor) -> Path:
    """As the release has it: three networks, of which the encoder alone is of use here."""
    counted = {"encoder.bn1.num_batches_tracked": torch.tensor(7)}
    others = {"E_detail": {"layers.0.bias": torch.zeros(4)}, "D_detail": {"init_size": torch.zeros(1)}}
    torch.save({ENTRY: state(depths) | counted | changes, **others}, path)
    return path


@pytest.fixture
def flame(open_bundle, tmp_path) -> Path:
    """A bundle that says it has FLAME for its head (a head of as many coefficients)."""
    folder = Path(shutil.copytree(open_bundle.path, tmp_path / "official"))
    document = yaml.safe_load((folder / MANIFEST).read_text())
    document["inputs"] = {
        "flame": {"file": "generic_model.pkl", "sha256": "0" * 64, "licence": "FLAME's", "commercial_use": False}
    }
    (folder / MANIFEST).write_text(yaml.safe_dump(document))
    return folder


@torch.no_grad()
def test_the_encoder_gives_what_the_public_code_gives():
    network = DecaEncoder()
    network.load_official(state(DEPTHS))
    found = network.eval()(picture())
    assert found.shape == (2, 236) == (2, sum(GROUPS.values()))
    assert relative_error(found[:, ::20], COEFFICIENTS) < 1e-4


@torch.no_grad()
def test_the_light_is_the_same_in_our_harmonics():
    torch.manual_seed(0)
    told = torch.randn(2, 236)
    network = DecaEncoder(SHALLOW)
    network.forward = lambda crop: told
    ours = WithOurLight(network)(torch.zeros(1))
    assert torch.equal(ours[:, :209], told[:, :209])
    normals = np.random.default_rng(1).normal(size=(50, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    theirs = deca_harmonics(*normals.T) @ told[0, 209:].numpy().reshape(9, 3)
    assert relative_error(irradiance(normals, ours[0, 209:].numpy()), theirs) < 1e-5


def test_a_bundle_with_flame_gets_the_regressor_and_keeps_the_rest(flame, tmp_path):
    before = Bundle.load(flame)
    difference = import_deca(write_deca(tmp_path / "deca_model.tar"), flame, depths=SHALLOW)
    bundle = Bundle.load(flame)
    assert difference < 1e-4 and list(bundle.stages) == [*STAGES, LANDMARKS, REGRESSOR]
    assert {name: record.sha256 for name, record in before.files.items() if name != "regressor.onnx"}.items() <= {
        name: record.sha256 for name, record in bundle.files.items()
    }.items()
    spec = bundle.stages["regressor"].regression
    assert spec.groups == GROUPS and (spec.crop.size, spec.crop.align, spec.crop.scale) == (224, "box68", 1.375)
    assert not bundle.files["regressor.onnx"].commercial_use
    crops = picture().numpy()
    network = DecaEncoder(SHALLOW)
    network.load_official(state(SHALLOW))
    with torch.no_grad():
        expected = WithOurLight(network.eval())(picture()).numpy()
    found = OnnxStage(flame / "regressor.onnx")(crop=crops)["coefficients"]
    assert relative_error(found, expected) < 1e-4
    (face,) = FacePipeline(bundle, method="regressor")(np.ascontiguousarray(astronaut()[0:280, 90:370]), 0.0)
    assert face.expressions.shape == (1, 50) and face.regressed["albedo"].shape == (50,)
    assert not face.shape[100:].any()


@pytest.mark.long
def test_a_file_of_the_release_s_size_is_imported(flame, tmp_path):
    assert import_deca(write_deca(tmp_path / "deca_model.tar", DEPTHS), flame) < 1e-4
    assert Bundle.load(flame).stages["regressor"].regression.width == 236


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


def _hostile(path: Path) -> None:
    path.write_bytes(pickle.dumps({ENTRY: Hostile()}))


def _cut(path: Path) -> None:
    write_deca(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


REFUSED = {
    "hostile": (_hostile, "deca_model.tar"),
    "cut short": (_cut, "deca_model.tar"),
    "web page": (lambda path: path.write_text("<!doctype html><html>"), "web page"),
    "other content": (lambda path: torch.save({"net": {}}, path), "no state dict of DECA"),
    "a list": (lambda path: torch.save([1, 2], path), "no state dict of DECA"),
    "other sizes": (lambda path: write_deca(path, **{"layers.2.bias": torch.zeros(257)}), "layers.2.bias"),
    "not finite": (lambda path: write_deca(path, **{"layers.2.bias": torch.full((236,), torch.nan)}), "not finite"),
    "a tensor more": (lambda path: write_deca(path, **{"layers.4.bias": torch.zeros(3)}), "layers.4.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused_in_one_line_and_the_bundle_stays(flame, tmp_path, name, capsys):
    write, said = REFUSED[name]
    path = tmp_path / "deca_model.tar"
    write(path)
    before = {file.name: file.read_bytes() for file in flame.iterdir()}
    with pytest.raises(OfficialImportError, match=said) as refused:
        import_deca(path, flame, depths=SHALLOW)
    assert "\n" not in str(refused.value) and capsys.readouterr().out == ""
    assert {file.name: file.read_bytes() for file in flame.iterdir()} == before
    assert not [other for other in flame.parent.iterdir() if other.name.startswith(".official")]


def test_a_bundle_without_flame_is_refused(open_bundle, tmp_path):
    folder = shutil.copytree(open_bundle.path, tmp_path / "open")
    with pytest.raises(OfficialImportError, match="does not have FLAME"):
        import_deca(write_deca(tmp_path / "deca_model.tar"), Path(folder), depths=SHALLOW)
    with pytest.raises(OfficialImportError, match=r"is no bundle.*--idgen"):
        import_deca(tmp_path / "deca_model.tar", tmp_path / "nothing", depths=SHALLOW)
    with pytest.raises(OfficialImportError, match="is not there"):
        import_deca(tmp_path / "no.tar", Path(folder), depths=SHALLOW)


def test_a_smaller_head_is_refused(flame, tmp_path, monkeypatch):
    monkeypatch.setitem(GROUPS, "shape", 133)
    with pytest.raises(OfficialImportError, match="132 shape coefficients, DECA tells 133"):
        import_deca(write_deca(tmp_path / "deca_model.tar"), flame, depths=SHALLOW)
