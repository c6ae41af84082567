"""`ofer import` on small official files: equal graphs, equal bytes, and refusals that leave nothing behind."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from official_inputs import (
    SMALL,
    as_released,
    denoiser_state,
    dump_python2,
    encoder_states,
    flame_arrays,
    write_flame,
    write_small,
)
from recipe import relative_error

from ofer_models.bundle.manifest import Bundle
from ofer_models.head.landmark_sets import tracked_landmarks
from ofer_models.runtime.solvers import solver_table
from ofer_models.runtime.stages import StageSet
from ofer_models.workshop.networks import replay
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.official import imported_bundle
from ofer_models.workshop.official.checkpoint import CheckpointError, NetworkSizes, find_maps, read_checkpoint
from ofer_models.workshop.official.files import OfficialFiles, OfficialImportError, flame_version
from ofer_models.workshop.official.importer import STEPS, import_official

torch.set_num_threads(1)
F, N = 2, 5


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> OfficialFiles:
    return write_small(tmp_path_factory.mktemp("official") / "files")


@pytest.fixture(scope="module")
def imported(files, tmp_path_factory):
    steps = []
    report = import_official(files, tmp_path_factory.mktemp("bundle") / "official", sizes=SMALL, step=steps.append)
    assert len(steps) == STEPS
    return report


@pytest.fixture(scope="module")
def quirky(files, tmp_path_factory):
    return import_official(files, tmp_path_factory.mktemp("quirks") / "official", sizes=SMALL, released_quirks=True)


@pytest.fixture(scope="module")
def crops() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {"crop112_bgr": rng.normal(size=(F, 3, 32, 32)).astype(np.float32),
            "crop224": rng.normal(size=(F, 3, 24, 24)).astype(np.float32)}  # fmt: skip


def load(path: Path, entry: str, network: torch.nn.Module) -> torch.nn.Module:
    network.load_official(torch.load(path, weights_only=False)[entry])
    return network.eval()


@torch.no_grad()
def contexts(path: Path, crops: dict[str, np.ndarray], skip_norm: bool = False) -> torch.Tensor:
    """FaRL | ArcFace of a checkpoint, from the torch modules."""
    arcface = load(path, "arcface", ArcFace(**SMALL.networks.arcface))
    farl = load(path, "farl", Farl(**SMALL.networks.farl))
    if skip_norm:
        single = replace_quirk(arcface)
        features = torch.cat([single(torch.from_numpy(crops["crop112_bgr"][i : i + 1])) for i in range(F)])
    else:
        features = arcface(torch.from_numpy(crops["crop112_bgr"]))
    return torch.cat([farl(torch.from_numpy(crops["crop224"])), features], 1)


def replace_quirk(arcface: ArcFace) -> ArcFace:
    """The release's own rule: no last normalisation for a batch of one image."""
    arcface.single_row_quirk = True
    return arcface


@torch.no_grad()
def ranked(files: OfficialFiles, report, crops, betas: np.ndarray, skip_norm: bool) -> torch.Tensor:
    """IdRank's scores from meshes in millimetres, as the release computes them."""
    head = Bundle.load(report.path).head
    rank = load(files.idrank, "net", RankNetwork(**SMALL.networks.rank))
    vertices = 1000 * torch.from_numpy(head.shaped(betas)[..., head.masks["frontal"], :])
    return rank(vertices, contexts(files.idrank, crops, skip_norm))


@torch.no_grad()
def denoised(path: Path, size, context: np.ndarray, noise: np.ndarray, table) -> np.ndarray:
    """A deterministic sampler run step by step on the torch network, in float64 outside of it."""
    net = load(path, "net", Denoiser(*size))
    x, before = noise.astype(np.float64), np.zeros(noise.shape)
    for t, c in zip(table.timesteps, table.coefficients, strict=True):
        modulation = net.modulation(torch.from_numpy(context), torch.tensor([int(t)]))[:, 0]
        eps = net.denoise(torch.from_numpy(x.astype(np.float32)), modulation).numpy()
        x0 = c[0] * x - c[1] * eps
        x, before = c[2] * x + c[3] * x0 + c[4] * before, x0
    return x


def test_every_stage_equals_the_torch_networks(files, imported, crops):
    stages = StageSet(Bundle.load(imported.path))
    rng = np.random.default_rng(0)
    arcface = load(files.idgen, "arcface", ArcFace(**SMALL.networks.arcface))
    with torch.no_grad():
        identity = arcface(torch.from_numpy(crops["crop112_bgr"])).numpy()
    found = stages.identity_context(crop112_bgr=crops["crop112_bgr"])["context"]
    assert relative_error(found, identity) <= 1e-4
    expression = contexts(files.expgen, crops).numpy()
    found = stages.expression_context(**crops)["context"]
    assert relative_error(found, expression) <= 1e-4
    betas = rng.normal(size=(F, N, 6)).astype(np.float32)
    found = stages.idrank(betas=betas, **crops)["score"]
    assert relative_error(found, ranked(files, imported, crops, betas, skip_norm=False)) <= 1e-4
    table = solver_table("ddim", 20, "log_snr")
    for name, context, size in (
        ("idgen", identity, SMALL.networks.idgen),
        ("expgen", expression, SMALL.networks.expgen),
    ):
        noise = rng.normal(size=(F, N, size[0])).astype(np.float32)
        expected = denoised(getattr(files, name), size, context, noise, table)
        assert relative_error(getattr(stages, name)(context, noise), expected) <= 1e-3, name
    assert max(imported.differences.values()) <= 1e-4 and len(imported.differences) == 5


def test_the_manifest_tells_origin_and_licence_of_every_input(files, imported):
    manifest = yaml.safe_load((imported.path / "manifest.yaml").read_text())
    assert manifest["jaw_scale"] == 0.5 and (manifest["candidates"], manifest["hypotheses"]) == (100, 15)
    assert set(manifest["inputs"]) == {"idgen", "idrank", "expgen", "flame", "front_indices", "landmarks"}
    for role, entry in manifest["inputs"].items():
        path = getattr(files, role) or files.idgen.parent / entry["file"]
        assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert entry["commercial_use"] is False and "non-commercial" in entry["licence"]
    bundle = Bundle.load(imported.path)
    assert not any(record.commercial_use for record in bundle.files.values())
    assert bundle.version.startswith("flame2020-") and bundle.rank_alone  # IdRank decides, as in the release
    assert set(bundle.files) == {path.name for path in imported.path.iterdir()} - {"manifest.yaml"}
    assert manifest["query_key_value_maps"] == {"idgen": "file", "expgen": "file"}


def test_the_pipeline_compares_68_landmarks_with_mediapipes(imported):
    head = Bundle.load(imported.path).head
    embedding, points = tracked_landmarks(head)
    assert embedding.triangle.shape == (68,) and points.shape == (68,) and points[30] == 4  # the nose tip


def test_equal_files_give_equal_bytes_and_replace_an_older_bundle(files, imported, tmp_path):
    out = tmp_path / "official"
    shutil.copytree(imported.path, out)
    (out / "old.onnx").write_text("from before")
    import_official(files, out, sizes=SMALL)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in imported.path.iterdir()
    }
    assert os.listdir(tmp_path) == ["official"]


def test_a_folder_that_is_no_bundle_is_not_replaced(files, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(OfficialImportError, match="mine exists and is no bundle"):
        import_official(files, tmp_path / "mine", sizes=SMALL)
    assert os.listdir(tmp_path / "mine") == ["thesis.txt"]


def test_released_quirks_repeat_the_release(files, quirky, crops):
    bundle = Bundle.load(quirky.path)
    assert (bundle.stages["idgen"].solver, bundle.stages["idgen"].steps) == ("released_ddim", 251)
    assert (bundle.stages["expgen"].solver, bundle.stages["expgen"].steps) == ("ddpm", 1000)
    stages = StageSet(bundle)
    betas = np.random.default_rng(1).normal(size=(F, N, 6)).astype(np.float32)
    found = stages.idrank(betas=betas, **crops)["score"]
    assert relative_error(found, ranked(files, quirky, crops, betas, skip_norm=True)) <= 1e-4
    assert relative_error(found, ranked(files, quirky, crops, betas, skip_norm=False)) > 1e-2
    table = solver_table("released_ddim", 251)
    context = np.random.default_rng(2).normal(size=(F, 12)).astype(np.float32)
    torch.manual_seed(37)
    noise = np.repeat(torch.randn(100, 6).numpy()[None, :N], F, axis=0)
    ignored = np.zeros((F, N, 6), np.float32)
    expected = denoised(files.idgen, SMALL.networks.idgen, context, noise, table)
    assert relative_error(stages.idgen(context, ignored), expected) <= 1e-3
    with pytest.raises(ValueError, match="noise for 100 samples of 6 coefficients, asked for 101"):
        stages.idgen(context, np.zeros((F, 101, 6), np.float32))


def test_released_noise_is_the_demos(quirky):
    torch.manual_seed(363)
    start, first, *rest = [torch.randn(100, 7).numpy() for _ in range(1000)]
    with np.load(quirky.path / "expgen_noise.npz") as stored:
        np.testing.assert_array_equal(stored["start"], start)
        np.testing.assert_array_equal(stored["added"][0], first)
        np.testing.assert_array_equal(stored["added"][998], rest[-1])
        assert len(stored["added"]) == 999


def test_the_seeds_draw_the_noise_that_the_release_recorded(tmp_path):
    from ofer_models.workshop.official.graphs import write_released_noise
    from ofer_models.workshop.official.importer import RELEASED, RELEASED_SEEDS

    recorded = {"idgen": (300, [-0.09384752, -0.49599066, 0.9621382, 0.3939917]),
                "expgen": (53, [1.5375674, -0.19583625, 0.87236315, -1.3077265])}  # fmt: skip
    for name, (size, first) in recorded.items():
        write_released_noise(tmp_path / "n.npz", RELEASED_SEEDS[name], size, RELEASED[name])
        with np.load(tmp_path / "n.npz") as stored:
            np.testing.assert_allclose(stored["start"][0, :4], first, rtol=1e-6)


def swap(files: OfficialFiles, folder: Path) -> OfficialFiles:
    return replace(files, idgen=files.idrank, idrank=files.idgen)


def truncate(files: OfficialFiles, folder: Path) -> OfficialFiles:
    (folder / "model_idgen.tar").write_bytes(files.idgen.read_bytes()[: files.idgen.stat().st_size // 2])
    return replace(files, idgen=folder / "model_idgen.tar")


def web_page(files: OfficialFiles, folder: Path) -> OfficialFiles:
    (folder / "model_expgen.tar").write_text("<html><title>Quota exceeded</title></html>")
    return replace(files, expgen=folder / "model_expgen.tar")


def changed(role: str, change):
    def make(files: OfficialFiles, folder: Path) -> OfficialFiles:
        content = torch.load(getattr(files, role), weights_only=False)
        change(content)
        torch.save(content, folder / f"model_{role}.tar")
        return replace(files, **{role: folder / f"model_{role}.tar"})

    return make


class TouchOnLoad:
    def __reduce__(self):
        return os.system, ("touch was_run",)


def hostile_flame(files: OfficialFiles, folder: Path) -> OfficialFiles:
    return replace(files, flame=dump_python2({"f": TouchOnLoad()}, folder / "generic_model.pkl"))


def objects_in_flame(files: OfficialFiles, folder: Path) -> OfficialFiles:
    path = dump_python2({"f": np.array([1, None], dtype=object)}, folder / "generic_model.pkl")
    return replace(files, flame=path)


def mixed_versions(files: OfficialFiles, folder: Path) -> OfficialFiles:
    shutil.copy(files.flame, folder / "flame2023.pkl")
    return replace(files, flame=folder / "flame2023.pkl")


def without_indices(files: OfficialFiles, folder: Path) -> OfficialFiles:
    moved = {role: Path(shutil.copy(getattr(files, role), folder)) for role in ("idgen", "idrank", "expgen", "flame")}
    return OfficialFiles(**moved)


def written(files: OfficialFiles, role: str, folder: Path, content: bytes) -> OfficialFiles:
    (folder / f"model_{role}.tar").write_bytes(content)
    return replace(files, **{role: folder / f"model_{role}.tar"})


def saved_the_old_way(files: OfficialFiles, folder: Path) -> OfficialFiles:
    torch.save({"net": TouchOnLoad()}, folder / "old.tar", _use_new_zipfile_serialization=False)
    return replace(files, expgen=folder / "old.tar")


def archive(files: OfficialFiles, folder: Path) -> OfficialFiles:
    with tarfile.open(folder / "model_idgen.tar", "w") as tar:
        tar.add(files.idgen, "model_idgen.tar")
    return replace(files, idgen=folder / "model_idgen.tar")


def hostile_landmarks(files: OfficialFiles, folder: Path) -> OfficialFiles:
    np.save(folder / "landmarks.npy", np.array({"a": TouchOnLoad()}, dtype=object), allow_pickle=True)
    return replace(files, landmarks=folder / "landmarks.npy")


def hostile_masks(files: OfficialFiles, folder: Path) -> OfficialFiles:
    (folder / "masks.pkl").write_bytes(pickle.dumps({"face": TouchOnLoad()}))
    return replace(files, masks=folder / "masks.pkl")


def hostile_mediapipe(files: OfficialFiles, folder: Path) -> OfficialFiles:
    np.savez(folder / "mp.npz", lmk_face_idx=np.array([TouchOnLoad()], dtype=object))
    return replace(files, mediapipe=folder / "mp.npz")


def joints_in_a_circle(files: OfficialFiles, folder: Path) -> OfficialFiles:
    arrays = flame_arrays(SMALL.head.n_directions)
    arrays["kintree_table"][0, 1:3] = 2, 1
    return replace(files, flame=write_flame(folder / "joints.pkl", arrays))


DAMAGED = {
    "swapped files": (swap, r"is IdRank's checkpoint, but was given as --idgen; swap the files"),
    "a truncated tar": (truncate, r"model_idgen\.tar is damaged or cut short"),
    "a web page": (web_page, r"model_expgen\.tar is a web page, not a checkpoint"),
    "a hostile tar": (changed("idrank", lambda c: c.update(extra=TouchOnLoad())), r"refused: it asks for \w+\.system"),
    "a hostile FLAME": (hostile_flame, r"generic_model\.pkl refused: it asks for \w+\.system"),
    "objects in FLAME": (objects_in_flame, "it stores a numpy array of Python objects"),
    "a missing tensor": (
        changed("idgen", lambda c: c["net"].pop("time_mlp.1.bias")), r"'net'.*1 missing: time_mlp\.1\.bias"),
    "an unknown tensor": (
        changed("expgen", lambda c: c["arcface"].update(surprise=torch.zeros(1))), "'arcface'.*1 unknown: surprise"),
    "a mis-shaped tensor": (
        changed("idrank", lambda c: c["farl"].update({"visual.proj": torch.zeros(3, 4)})),
        r"'farl'.*1 mis-shaped: visual\.proj is 3x4, should be 24x10"),
    "a name that speaks to the terminal": (
        changed("idgen", lambda c: c["arcface"].update({"sur\n\x1b[2Jprise": torch.zeros(1)})),
        r"unknown: sur\?\?\[2Jprise"),
    "a sparse tensor": (
        changed("idgen", lambda c: c["net"].update({"time_mlp.1.weight": torch.eye(512).to_sparse()})),
        r"refused: it asks for torch\._utils\._rebuild_sparse_tensor"),
    "names that are numbers": (
        changed("expgen", lambda c: c["farl"].update({3: torch.zeros(1)})), "no state dict 'farl'"),
    "a missing entry": (
        changed("expgen", lambda c: c.pop("farl")), "no state dict 'farl', which ExpGen needs"),
    "numbers that are not finite": (
        changed("idgen", lambda c: c["net"]["init_conv.bias"].fill_(float("nan"))), "not finite"),
    "mixed versions": (mixed_versions, r"mixed FLAME versions .*flame2020.*flame2023\.pkl is flame2023"),
    "no frontal indices": (without_indices, "give --front-indices"),
    "no such file": (lambda files, folder: replace(files, expgen=folder / "x.tar"), "--expgen: .* is not there"),
    "a folder": (lambda files, folder: replace(files, flame=folder), "--flame: .* is not there, or no file"),
    "an empty file": (lambda files, folder: written(files, "idrank", folder, b""), r"model_idrank\.tar is damaged"),
    "a hostile plain pickle": (
        lambda files, folder: written(files, "idgen", folder, pickle.dumps({"net": TouchOnLoad()})),
        r"refused: it asks for \w+\.system"),
    "a hostile old-style checkpoint": (
        lambda files, folder: saved_the_old_way(files, folder), r"refused: it asks for \w+\.system"),
    "an archive": (archive, "an archive, not torch's format"),
    "complex numbers": (
        changed("expgen", lambda c: c["net"].update({"init_conv.bias": torch.zeros(7, dtype=torch.complex64)})),
        "'net': init_conv.bias holds complex numbers"),
    "hostile landmarks": (hostile_landmarks, r"landmarks\.npy refused: it asks for \w+\.system"),
    "hostile masks": (hostile_masks, r"masks\.pkl refused: it asks for \w+\.system"),
    "hostile MediaPipe landmarks": (hostile_mediapipe, r"mp\.npz refused: 'lmk_face_idx' holds Python objects"),
    "joints in a circle": (joints_in_a_circle, r"joints\.pkl and the files for it make no head: .*kintree_table"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_and_hostile_files_are_refused_and_leave_nothing_behind(files, tmp_path, monkeypatch, name):
    damage, message = DAMAGED[name]
    (tmp_path / "given").mkdir()
    monkeypatch.chdir(tmp_path)
    given = damage(files, tmp_path / "given")
    if given.front_indices is None and name != "no frontal indices":
        given = replace(given, front_indices=files.idgen.parent / "frontindices.npy")
    with pytest.raises(OfficialImportError, match=message) as caught:
        import_official(given, tmp_path / "bundles" / "official", sizes=SMALL)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["given"]  # neither a bundle nor a folder for it


def test_a_failed_import_leaves_the_old_bundle_as_it_was(files, imported, tmp_path):
    shutil.copytree(imported.path, tmp_path / "official")
    before = {path.name: path.read_bytes() for path in (tmp_path / "official").iterdir()}
    (tmp_path / "given").mkdir()
    broken = truncate(files, tmp_path / "given")
    broken = replace(broken, front_indices=files.idgen.parent / "frontindices.npy")
    with pytest.raises(OfficialImportError, match="cut short"):
        import_official(broken, tmp_path / "official", sizes=SMALL)
    assert {path.name: path.read_bytes() for path in (tmp_path / "official").iterdir()} == before
    assert sorted(os.listdir(tmp_path)) == ["given", "official"]


def test_without_landmarks_the_pipeline_says_what_is_missing(files, tmp_path):
    for path in (files.idgen, files.idrank, files.expgen, files.flame, files.idgen.parent / "frontindices.npy"):
        shutil.copy(path, tmp_path)
    moved = {role: tmp_path / getattr(files, role).name for role in ("idgen", "idrank", "expgen", "flame")}
    report = import_official(OfficialFiles(**moved), tmp_path / "official", sizes=SMALL)
    assert any("--landmarks" in remark for remark in report.remarks)
    assert Bundle.load(report.path).version.startswith("flame2020")  # the checkpoints' names tell
    with pytest.raises(ValueError, match=r"ofer import.* again with --landmarks"):
        tracked_landmarks(Bundle.load(report.path).head)


@pytest.mark.parametrize("names, expected", [
    (("model_idgen_flame20.tar", "FLAME2020/generic_model.pkl"), "flame2020"),
    (("idgen.tar", "FLAME2023/flame2023_no_jaw.pkl"), "flame2023"),
    (("idgen_flame23.tar", "generic_model.pkl"), "flame2023"),
    (("idgen.tar", "generic_model.pkl"), None),
])  # fmt: skip
def test_versions_are_told_from_names(tmp_path, names, expected):
    paths = {"idgen": tmp_path / names[0], "idrank": tmp_path / "r.tar", "expgen": tmp_path / "e.tar"}
    assert flame_version(paths | {"flame": tmp_path / "x" / names[1]}) == expected


@pytest.fixture(scope="module")
def released_idgen(tmp_path_factory) -> Path:
    """IdGen in full size, as the release has it: no maps, six copies of the last one (its ArcFace is a small one)."""
    path = tmp_path_factory.mktemp("idgen") / "model_idgen_flame20.tar"
    state = as_released("idgen", denoiser_state(NetworkSizes().idgen, 1))
    torch.save({"net": state, "arcface": encoder_states(SMALL.networks, 2)["arcface"]}, path)
    return path


def test_the_scenario_is_told_from_the_file_and_the_maps_are_the_released_ones(released_idgen):
    from recipe import golden

    sizes = NetworkSizes()
    checkpoint = read_checkpoint(released_idgen, "idgen", sizes)
    maps = find_maps(checkpoint, sizes, None)
    assert maps.source == "training" and "training: equal" in maps.evidence and "demo: differs by" in maps.evidence
    recorded = golden("shared_qkv_replay_fingerprints")
    for i in range(16):
        found = maps.tensors[f"mid_attn.fn.fn.to_qkv.{i}.weight"].numpy().ravel()[:8]
        np.testing.assert_array_equal(found, recorded["train_seed0/idgen/mid_attn.fn.fn/first8"][i])
    network = checkpoint.denoiser(sizes, maps.tensors)
    state = network.official_state_dict()
    assert torch.equal(state["mid_attn.fn.fn.to_qkv.15.weight"], checkpoint.states["net"]["mid_attn.fn.fn.qkv.weight"])
    assert find_maps(checkpoint, sizes, "demo").source == "demo"


def test_without_a_matching_scenario_the_evidence_and_the_override_are_named(released_idgen, monkeypatch):
    sizes = NetworkSizes()
    checkpoint = read_checkpoint(released_idgen, "idgen", sizes)
    net = checkpoint.states["net"]
    left_over = [name for name in net if name.endswith(".qkv.weight")]
    other = {name: net[name] + 0.01 for name in left_over}
    checkpoint.states["net"] = net | other
    with pytest.raises(CheckpointError, match=r"training: differs by up to 0\.01; demo: differs .*--qkv training"):
        find_maps(checkpoint, sizes, None)
    checkpoint.states["net"] = {name: value for name, value in net.items() if name not in left_over}
    with pytest.raises(CheckpointError, match=r"no qkv\.weight entries to compare.*--qkv training"):
        find_maps(checkpoint, sizes, None)
    monkeypatch.setattr(replay, "replay_maps", lambda network, scenario: {"drawn": (network, scenario)})
    assert find_maps(checkpoint, sizes, "training").tensors == {"drawn": ("idgen", "training")}
    checkpoint.states["net"] = net | {left_over[0]: torch.zeros(3, 3)}
    with pytest.raises(CheckpointError, match=r"qkv\.weight is \(3, 3\), should be \(384, "):
        find_maps(checkpoint, sizes, None)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_is_read_as_torch_reads_it(tmp_path, zipped):
    """Both of torch's formats, every type, views of one storage, strides and empty tensors."""
    base = torch.arange(24.0)
    state = {
        "view": base[4:12].reshape(2, 4), "turned": base.reshape(4, 6).t(), "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3), "half": torch.ones(3).half(), "short": torch.ones(3).bfloat16(),
        "flags": torch.tensor([True, False]), "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save({"net": state, "loss": np.float64(0.5)}, tmp_path / "a.tar", _use_new_zipfile_serialization=zipped)
    from ofer_models.workshop.official.torch_tensors import load_torch

    read = load_torch(tmp_path / "a.tar")
    assert read["loss"] == 0.5 and read["net"].keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read["net"][name], tensor) and read["net"][name].dtype == tensor.dtype, name


def test_an_unknown_tensor_of_a_denoiser_is_skipped_with_a_remark_unless_strict(files, tmp_path):
    given = changed("idgen", lambda c: c["net"].update(surprise=torch.zeros(1)))(files, tmp_path)
    checkpoint = read_checkpoint(given.idgen, "idgen", SMALL.networks)
    checkpoint.check(SMALL.networks)
    assert "skipped as the release does, unknown to its network: surprise" in checkpoint.remarks[0]
    with pytest.raises(CheckpointError, match="1 unknown: surprise"):
        read_checkpoint(given.idgen, "idgen", SMALL.networks, strict=True).check(SMALL.networks)


def test_names_of_several_gpus_are_read_without_their_prefix(files, tmp_path):
    def wrap(content: dict) -> None:
        content["net"] = {f"module.{name}": tensor for name, tensor in content["net"].items()}

    given = changed("expgen", wrap)(files, tmp_path)
    checkpoint = read_checkpoint(given.expgen, "expgen", SMALL.networks)
    checkpoint.check(SMALL.networks)
    assert "all names begin with 'module.'" in checkpoint.remarks[0]


def test_another_flame_is_told_by_its_folder(files, tmp_path):
    (tmp_path / "FLAME2019").mkdir()
    older = Path(shutil.copy(files.flame, tmp_path / "FLAME2019"))
    paths = {"idgen": files.idgen, "idrank": files.idrank, "expgen": files.expgen, "flame": older}
    with pytest.raises(OfficialImportError, match=r"generic_model\.pkl is flame2019"):
        flame_version(paths)


def test_what_a_killed_import_left_is_swept_and_what_it_moved_aside_comes_back(tmp_path):
    out = tmp_path / "official"
    for name in (".official-import-abc", ".official-import-abc-old", ".other-import-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with imported_bundle.work_folder(out) as work:
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".other-import-x", "official", work.name])
        with imported_bundle.work_folder(out):  # a second import leaves the first's folder alone
            assert work.is_dir()
    assert (out / "file").read_text() == ".official-import-abc-old"
