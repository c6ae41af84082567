"""Bundles that cannot be used: each fault gives one line that says which file and what to do, before anything runs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ofer_models.bundle import Bundle, BundleError, default_bundle
from ofer_models.bundle.manifest import FORMAT, HEAD, MANIFEST, SAME_FACE, STAGES
from ofer_models.files.hashing import sha256_of
from ofer_models.runtime.stages import StageSet

N_SHAPE, N_EXPRESSION, CONTEXT = 3, 2, 4


def tiny_head(n_shape: int = N_SHAPE, n_expression: int = N_EXPRESSION) -> dict[str, np.ndarray]:
    return {
        "v_template": np.eye(4)[:, :3],
        "shapedirs": np.zeros((4, 3, n_shape + n_expression)),
        "posedirs": np.zeros((36, 12)),
        "J_regressor": np.full((5, 4), 0.25),
        "kintree_table": np.array([[-1, 0, 1, 1, 1], [0, 1, 2, 3, 4]]),
        "lbs_weights": np.full((4, 5), 0.2),
        "faces": np.array([[0, 1, 2], [0, 2, 3]]),
        "expression_names": np.array([f"unit{i}" for i in range(n_expression)]),
    }


def stage_entries() -> dict[str, Any]:
    def graph(name: str, inputs: dict, outputs: dict) -> dict[str, Any]:
        return {"kind": "graph", "files": {"graph": f"{name}.onnx"}, "inputs": inputs, "outputs": outputs}

    def sampler(name: str, size: int) -> dict[str, Any]:
        return {
            "kind": "sampler", "files": {"cond": f"{name}_cond.onnx", "step": f"{name}_step.onnx"},
            "solver": "ddim", "spacing": "log_snr", "steps": 10,
            "inputs": {"context": ["F", CONTEXT], "noise": ["F", "N", size]}, "outputs": {"samples": ["F", "N", size]},
            "coefficients": {"mean": [0.5] * size, "deviation": [2.0] * size},
        }  # fmt: skip

    return {
        "identity_context": graph("identity_context", {"landmarks": ["F", 478, 6]}, {"context": ["F", CONTEXT]}),
        "idgen": sampler("idgen", N_SHAPE),
        "idrank": graph("idrank", {"betas": ["F", "N", N_SHAPE], "context": ["F", CONTEXT]}, {"score": ["F", "N"]}),
        "expression_context": graph("expression_context", {"landmarks": ["F", 478, 6]}, {"context": ["F", CONTEXT]}),
        "expgen": sampler("expgen", N_EXPRESSION + 3),
    }


def write(folder: Path, document: Any) -> None:
    (folder / MANIFEST).write_text(document if isinstance(document, str) else yaml.safe_dump(document))


def read(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / MANIFEST).read_text())


@pytest.fixture
def folder(tmp_path) -> Path:
    """A complete bundle as far as the manifest knows; its graphs are not real ones."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    np.savez(folder / HEAD, **tiny_head())
    stages = stage_entries()
    for entry in stages.values():
        for file in entry["files"].values():
            (folder / file).write_bytes(f"stands in for {file}".encode())
    files = {
        path.name: {"sha256": sha256_of(path), "origin": "a test", "licence": "CC0-1.0", "commercial_use": True}
        for path in folder.iterdir()
    }
    write(
        folder,
        {
            "format": FORMAT, "name": "tiny", "version": "1", "n_shape": N_SHAPE, "n_expression": N_EXPRESSION,
            "candidates": 7, "hypotheses": 5, "expression_range": [0.0, 1.0], "stages": stages, "files": files,
        },
    )  # fmt: skip
    return folder


@pytest.fixture
def real(open_bundle, tmp_path) -> Path:
    """A copy of the shipped bundle, to be damaged."""
    return Path(shutil.copytree(open_bundle.path, tmp_path / "open"))


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BundleError) as excinfo:
        action()
    message = str(excinfo.value)
    assert message and "\n" not in message and len(message) < 500, message
    return message


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    document = read(folder)
    edit(document)
    write(folder, document)


def test_a_sound_bundle_is_read(folder):
    bundle = Bundle.load(str(folder))
    assert (bundle.name, bundle.n_shape, bundle.n_expression) == ("tiny", N_SHAPE, N_EXPRESSION)
    assert (bundle.candidates, bundle.hypotheses, bundle.expression_range, bundle.jaw_scale) == (7, 5, (0.0, 1.0), 1.0)
    assert list(bundle.stages) == list(STAGES) and bundle.head.n_vertices == 4
    expgen = bundle.stages["expgen"]
    assert (expgen.kind, expgen.solver, expgen.spacing, expgen.steps) == ("sampler", "ddim", "log_snr", 10)
    assert expgen.files["step"] == folder / "expgen_step.onnx" and expgen.inputs["noise"] == ("F", "N", 5)
    np.testing.assert_allclose(expgen.raw(np.ones((2, 5), np.float32)), 2.5)
    assert bundle.files["idrank.onnx"].licence == "CC0-1.0" and bundle.files["idrank.onnx"].commercial_use


def test_a_bundle_may_say_from_which_cosine_on_two_contexts_are_of_one_face(folder):
    assert Bundle.load(folder).same_face == SAME_FACE
    write(folder, read(folder) | {"same_face": [0.4, 0.2]})
    assert Bundle.load(folder).same_face == (0.4, 0.2)


def test_missing_folder_or_manifest(folder, tmp_path):
    nowhere = tmp_path / "nowhere"
    message = refusal(lambda: Bundle.load(nowhere))
    assert str(nowhere) in message and MANIFEST in message
    (folder / MANIFEST).unlink()
    assert str(folder) in refusal(lambda: Bundle.load(folder))
    assert "no bundle at" in refusal(lambda: Bundle.load(folder / HEAD))  # a file is no folder


@pytest.mark.parametrize("name", [HEAD, "idrank.onnx", "idgen_cond.onnx", "expgen_step.onnx"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    message = refusal(lambda: Bundle.load(folder))
    assert str(folder / name) in message and "missing" in message


@pytest.mark.parametrize("name", [HEAD, "idrank.onnx", "idgen_cond.onnx", "expgen_step.onnx"])
@pytest.mark.parametrize("place", [0, 0.5, -1])
def test_one_flipped_bit_is_noticed(folder, name, place):
    data = bytearray((folder / name).read_bytes())
    data[int(place * len(data)) if place > 0 else place] ^= 1
    (folder / name).write_bytes(data)
    message = refusal(lambda: Bundle.load(folder))
    assert str(folder / name) in message and "damaged" in message


def test_truncated_and_empty_files_are_noticed(folder):
    for keep in (10, 0):
        (folder / "idrank.onnx").write_bytes((folder / "idrank.onnx").read_bytes()[:keep])
        assert "idrank.onnx" in refusal(lambda: Bundle.load(folder))


@pytest.mark.parametrize("found", [FORMAT + 1, 0, "1.0", None, [1]])
def test_another_format_is_refused(folder, found):
    change(folder, lambda document: document.update(format=found))
    assert f"format {FORMAT}" in refusal(lambda: Bundle.load(folder))


@pytest.mark.parametrize(
    "text",
    ["", "just a sentence", "- a\n- list\n", "a: [1, 2\nb: }", "a:\n\t- tab", "!!python/object/apply:os.system [ls]"],
)
def test_yaml_garbage_is_refused(folder, text):
    write(folder, text)
    assert str(folder / MANIFEST) in refusal(lambda: Bundle.load(folder))


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / MANIFEST).write_bytes(b"\xff\xfe\x00\x80 format: 1")
    assert str(folder / MANIFEST) in refusal(lambda: Bundle.load(folder))


@pytest.mark.parametrize("key", ["name", "version", "n_shape", "n_expression", "candidates", "stages", "files"])
def test_a_missing_entry_is_named(folder, key):
    change(folder, lambda document: document.pop(key))
    message = refusal(lambda: Bundle.load(folder))
    assert str(folder / MANIFEST) in message and key in message


@pytest.mark.parametrize(
    "edit",
    [
        lambda d: d["stages"].pop("idrank"),
        lambda d: d["stages"].update(idgen=None),
        lambda d: d["stages"]["idgen"].update(kind="network"),
        lambda d: d["stages"]["idgen"].pop("coefficients"),
        lambda d: d["stages"]["idgen"]["coefficients"].update(mean="zero"),
        lambda d: d["stages"]["idgen"]["coefficients"]["deviation"].pop(),
        lambda d: d["stages"]["idgen"]["files"].pop("cond"),
        lambda d: d["stages"]["idgen"].update(steps="many"),
        lambda d: d["stages"]["idrank"].update(inputs=3),
        lambda d: d.update(n_shape="a few"),
        lambda d: d.update(expression_range=[0]),
        lambda d: d.update(same_face=[0.9]),
        lambda d: d.update(files=[HEAD]),
        lambda d: d["files"].update({HEAD: None}),
        lambda d: d["files"][HEAD].pop("licence"),
    ],
)
def test_malformed_entries_are_refused(folder, edit):
    change(folder, edit)
    assert str(folder / MANIFEST) in refusal(lambda: Bundle.load(folder))


@pytest.mark.parametrize("name", [HEAD, "idrank.onnx", "expgen_cond.onnx"])
def test_a_file_without_a_hash_is_refused(folder, name):
    change(folder, lambda document: document["files"].pop(name))
    message = refusal(lambda: Bundle.load(folder))
    assert "no hash" in message and name in message


def test_a_head_of_other_dimensions_is_refused(folder):
    change(folder, lambda document: document.update(n_shape=N_SHAPE + 1))
    message = refusal(lambda: Bundle.load(folder).head)
    assert "3 shape" in message and "4 and 2" in message


def test_a_head_that_is_no_head_is_refused(folder):
    (folder / HEAD).write_bytes(b"PK but not really")
    change(folder, lambda document: document["files"][HEAD].update(sha256=sha256_of(folder / HEAD)))
    assert str(folder / HEAD) in refusal(lambda: Bundle.load(folder).head)


def test_a_graph_that_is_no_graph_is_refused(folder):
    message = refusal(lambda: StageSet(Bundle.load(folder)))
    assert "bundle tiny" in message and ".onnx" in message


def test_the_default_bundle_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("OFER_BUNDLE", str(tmp_path))
    assert default_bundle() == tmp_path
    monkeypatch.delenv("OFER_BUNDLE")
    assert default_bundle().name == "open"


def test_the_shipped_bundle_is_whole_and_free(open_bundle):
    assert open_bundle.head.n_shape == open_bundle.n_shape and open_bundle.head.n_expression == 50
    assert open_bundle.stages["expgen"].mean.shape == (53,)
    assert open_bundle.stages["idgen"].mean.shape == (open_bundle.n_shape,)
    for name, record in open_bundle.files.items():
        assert record.licence and record.origin and record.commercial_use is True, name
    files = {path.name for path in open_bundle.path.iterdir() if ".engine" not in path.name} - {MANIFEST}
    assert files == set(open_bundle.files)
    assert sum((open_bundle.path / name).stat().st_size for name in files) <= 30e6
    StageSet(open_bundle)


def test_swapped_graphs_are_refused(real):
    """Right hashes, wrong places: the tensors tell."""

    def swap(document: dict[str, Any]) -> None:
        first, second = document["stages"]["idrank"], document["stages"]["identity_context"]
        first["files"], second["files"] = second["files"], first["files"]

    change(real, swap)
    message = refusal(lambda: StageSet(Bundle.load(real)))
    assert "do not match" in message


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda d: d["stages"]["idgen"].update(solver="euler"), "unknown solver 'euler'"),
        (lambda d: d["stages"]["expgen"].update(spacing="cosine"), "unknown step spacing 'cosine'"),
        (lambda d: d["stages"]["expgen"].update(steps=2), "3 to 1000 steps"),
        (
            lambda d: [d["stages"]["expgen"]["coefficients"][part].pop() for part in ("mean", "deviation")],
            "expgen_distilled_step.onnx draws 53 coefficients",
        ),
        (lambda d: d.update(n_shape=200), "idgen draws"),
        (lambda d: d["stages"]["identity_context"]["outputs"].update(context=["F", 8]), "identity_context.onnx"),
    ],
)
def test_stages_that_disagree_with_the_manifest_are_refused(real, edit, said):
    change(real, edit)
    assert said in refusal(lambda: StageSet(Bundle.load(real)))


def test_a_temperature_for_all_samples_or_from_the_first_to_the_last(folder):
    document = read(folder)
    document["stages"]["idgen"]["temperature"] = [0.0, 1.0]
    document["stages"]["expgen"]["temperature"] = 0.5
    write(folder, document)
    bundle = Bundle.load(folder)
    np.testing.assert_allclose(bundle.stages["idgen"].scales(5)[:, 0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(bundle.stages["expgen"].scales(3)[:, 0], 0.5)
    assert bundle.stages["idgen"].scales(1).shape == (1, 1)


def test_an_installed_bundle_of_links_is_read_and_one_link_elsewhere_is_not(folder, tmp_path):
    installed = tmp_path / "share"
    installed.mkdir()
    for path in folder.iterdir():
        (installed / path.name).symlink_to(path)
    assert Bundle.load(installed).name == "tiny"
    (tmp_path / "elsewhere.onnx").write_bytes((folder / "idrank.onnx").read_bytes())
    (installed / "idrank.onnx").unlink()
    (installed / "idrank.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    assert "idrank.onnx leads out of the bundle's folder" in refusal(lambda: Bundle.load(installed))


def external_graph(folder: Path) -> None:
    """Write weights.bin and a graph that takes its numbers from there."""
    onnx = pytest.importorskip("onnx")
    weights = onnx.TensorProto(name="w", data_type=1, dims=[2], data_location=onnx.TensorProto.EXTERNAL)
    weights.external_data.append(onnx.StringStringEntryProto(key="location", value="weights.bin"))
    (folder / "weights.bin").write_bytes(np.float32([3, 4]).tobytes())
    made = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [],
        [onnx.helper.make_tensor_value_info("y", 1, [2])], [weights],
    )  # fmt: skip
    model = onnx.helper.make_model(made, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    (folder / "idrank.onnx").write_bytes(model.SerializeToString())


def test_weights_beside_a_graph_must_be_listed_with_their_hash(folder):
    external_graph(folder)

    def record(document: dict[str, Any]) -> None:
        for name in ("idrank.onnx", "weights.bin"):
            document["files"][name] = document["files"]["idgen_cond.onnx"] | {"sha256": sha256_of(folder / name)}

    change(folder, lambda document: document["files"]["idrank.onnx"].update(sha256=sha256_of(folder / "idrank.onnx")))
    assert "lists no hash for weights.bin" in refusal(lambda: Bundle.load(folder))
    change(folder, record)
    bundle = Bundle.load(folder)
    from ofer_models.runtime.onnxruntime_backend import OnnxStage

    np.testing.assert_array_equal(OnnxStage(bundle.stages["idrank"].files["graph"])()["y"], [3, 4])
    (folder / "weights.bin").write_bytes(np.float32([3, 5]).tobytes())
    assert "weights.bin is damaged or changed" in refusal(lambda: Bundle.load(folder))


def test_files_that_change_while_a_bundle_is_loaded_are_seen(folder):
    bundle = Bundle.load(folder)
    bundle.check_unchanged()
    (folder / "idrank.onnx").write_bytes((folder / "idrank.onnx").read_bytes())
    assert "idrank.onnx changed while the bundle was being loaded" in refusal(bundle.check_unchanged)
    (folder / "idrank.onnx").unlink()
    assert "idrank.onnx changed while the bundle was being loaded" in refusal(bundle.check_unchanged)


def test_a_file_that_nothing_reads_is_named(folder, caplog):
    (folder / "notes.txt").write_text("mine")
    for suffix in ("", ".json", ".kernels"):
        (folder / f"idrank.0123456789ab.engine{suffix}").write_bytes(b"x")
    assert Bundle.load(folder).unlisted() == ["notes.txt"]
    assert "also holds notes.txt" in caplog.text


@pytest.mark.parametrize(("field", "value"), [
    ("candidates", -3), ("candidates", 10**9), ("hypotheses", float("inf")), ("n_shape", "3"), ("rank_alone", 1),
    ("expression_range", [0]), ("jaw_scale", float("nan")),
])  # fmt: skip
def test_a_field_that_says_what_it_cannot_is_named(folder, field, value):
    write(folder, read(folder) | {field: value})
    assert re.search(rf"says {field}\S*: .*, should be ", refusal(lambda: Bundle.load(folder)))
