"""Bundles and what is in them: head, graphs, engines, manifest; and recorded noise."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hostile import parts
from hostile.parts import LAUGHS, Case, Kind, npy, parameters, payload, raw, zipped


def npz(changes: Callable[[dict[str, np.ndarray]], Any], method: int = zipfile.ZIP_STORED) -> Case:
    """A small head model, changed."""

    def make(folder: Path) -> Path:
        from test_bundle import tiny_head

        arrays = tiny_head()
        changes(arrays)
        (np.savez if method == zipfile.ZIP_STORED else np.savez_compressed)(folder / "head.npz", **arrays)
        return folder / "head.npz"

    return make


def npz_of(method: int = zipfile.ZIP_DEFLATED, **entries: bytes) -> Case:
    def make(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "head.npz", "w", method) as archive:
            for name, content in entries.items():
                archive.writestr(f"{name}.npy", content)
        return folder / "head.npz"

    return make


_NINE_GB = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1200000000,), }", bytes(1 << 20))
HEADS: dict[str, Case] = {
    "an extra array": npz(lambda a: a.update(surprise=np.zeros(3))),
    "an extra array of 9 GB": npz_of(mask_face=_NINE_GB), "an unknown array of 9 GB": npz_of(surprise=_NINE_GB),
    "zeros that unpack to 400 MB": npz(lambda a: a.update(mask_x=np.zeros(50_000_000, np.int64)), zipfile.ZIP_DEFLATED),
    "objects": npz(lambda a: a.update(faces=np.array([payload()], object))),
    "a missing array": npz(lambda a: a.pop("faces")), "text for numbers": npz(lambda a: a.update(
        v_template=np.full((4, 3), "x"))),
    "not finite": npz(lambda a: a.update(shapedirs=np.full((4, 3, 5), np.inf))),
    "triangles outside": npz(lambda a: a.update(faces=np.array([[0, 1, 9]]))),
    "joints in a circle": npz(lambda a: a.update(kintree_table=np.array([[-1, 2, 1, 1, 1], range(5)]))),
    "another shape": npz(lambda a: a.update(posedirs=np.zeros((3, 12)))),
    "no dimensions": npz(lambda a: a.update(v_template=np.float64(1))),
    "a mask outside": npz(lambda a: a.update(mask_face=np.array([400]))),
    "a mask of floats": npz(lambda a: a.update(mask_face=np.array([0.5]))),
    "a pitch that is a list": npz(lambda a: a.update(jaw_open_angle=np.zeros(3))),
    "landmarks without weights": npz(lambda a: a.update(now7_triangle=np.zeros(7, int))),
    "no array in it": lambda folder: _renamed(zipped(b"x")(folder), "head.npz"),
    "two entries of one name": lambda folder: _twice(folder), "nothing": raw("head.npz", b""),
    "random": raw("head.npz", np.random.default_rng(2).bytes(3000)), "no file": lambda folder: folder / "head.npz",
    "a folder": lambda folder: folder, "a header of its own": npz_of(faces=npy("{'descr': 'O'}")),
}  # fmt: skip


def _renamed(path: Path, name: str) -> Path:
    return path.rename(path.with_name(name))


def _twice(folder: Path) -> Path:
    import warnings

    with zipfile.ZipFile(folder / "head.npz", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(2):
            archive.writestr("faces.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0,), }"))
    return folder / "head.npz"


def bundle(change: Callable[[Path, dict[str, Any]], Any]) -> Case:
    """A bundle that is whole as far as its manifest tells, changed; text that is returned becomes the manifest."""

    def make(folder: Path) -> Path:
        import test_bundle

        from ofer_models.files.hashing import sha256_of

        inside = folder / "bundle"
        inside.mkdir()
        np.savez(inside / "head.npz", **test_bundle.tiny_head())
        stages = test_bundle.stage_entries()
        for entry in stages.values():
            for file in entry["files"].values():
                (inside / file).write_bytes(b"a graph")
        files = {path.name: {"sha256": sha256_of(path), "origin": "a test", "licence": "CC0-1.0",
                             "commercial_use": True} for path in inside.iterdir()}  # fmt: skip
        document = {"format": 1, "name": "tiny", "version": "1", "n_shape": 3, "n_expression": 2, "candidates": 7,
                    "hypotheses": 5, "expression_range": [0.0, 1.0], "stages": stages, "files": files}  # fmt: skip
        text = change(inside, document)
        (inside / "manifest.yaml").write_text(text if isinstance(text, str) else yaml.safe_dump(document))
        return inside

    return make


def setting(**values: Any) -> Case:
    return bundle(lambda folder, document: document.update(values) and None)


def _outside(folder: Path, document: dict[str, Any], name: str) -> None:
    """IdRank's graph elsewhere, with a hash that is right."""
    from ofer_models.files.hashing import sha256_of

    target = Path(name.format(folder.parent)) if "{" in name else folder / name
    target.parent.mkdir(exist_ok=True)
    (folder / "idrank.onnx").rename(target)
    document["stages"]["idrank"]["files"]["graph"] = name.format(folder.parent)
    document["files"][name.format(folder.parent)] = document["files"].pop("idrank.onnx")
    assert sha256_of(target) == document["files"][name.format(folder.parent)]["sha256"]


def _linked(folder: Path, document: dict[str, Any]) -> None:
    (folder / "idrank.onnx").rename(folder.parent / "elsewhere.onnx")
    (folder / "idrank.onnx").symlink_to(folder.parent / "elsewhere.onnx")


BUNDLES: dict[str, Case] = {
    "billion laughs": bundle(lambda *_: f"format: 1\n{LAUGHS}"), "20,000 brackets": bundle(lambda *_: 20_000 * "["),
    "20,000 braces": bundle(lambda *_: 20_000 * "{a: "), "20,000 dashes": bundle(lambda *_: 20_000 * "- "),
    "2 MB of spaces": bundle(lambda *_: (2 << 20) * " "), "no YAML": bundle(lambda *_: "{]"),
    "a tag that calls": bundle(lambda *_: f"!!python/object/apply:os.system ['touch {parts.CANARY}']"),
    "a number of 10,000 digits": bundle(lambda *_: f"format: {10_000 * '9'}"), "a list": bundle(lambda *_: "[1]"),
    "hypotheses: .inf": setting(hypotheses=float("inf")), "candidates: -3": setting(candidates=-3),
    "candidates: 1e9": setting(candidates=10**9), "candidates: yes": setting(candidates=True),
    "integer keys": setting(**{"stages": {1: 2}}), "n_shape of text": setting(n_shape="many"),
    "a name of lines": setting(name="a\nb\x1b[2J"), "jaw_scale: .nan": setting(jaw_scale=float("nan")),
    "a range of one": setting(expression_range=[1.0]), "same_face of three": setting(same_face=[1, 0.5, 0]),
    "an unknown field": setting(candidate=3), "another format": setting(format=9), "no files": setting(files={}),
    "files of text": setting(files="x"), "stages of null": setting(stages=None),
    "a hash of another length": bundle(lambda f, d: d["files"]["idrank.onnx"].update(sha256="00")),
    "steps: 1e12": bundle(lambda f, d: d["stages"]["idgen"].update(steps=10**12)),
    "temperature: -1": bundle(lambda f, d: d["stages"]["idgen"].update(temperature=-1)),
    "a mean of text": bundle(lambda f, d: d["stages"]["idgen"]["coefficients"].update(mean=["x"])),
    "unequal coefficients": bundle(lambda f, d: d["stages"]["idgen"]["coefficients"].update(mean=[0.0])),
    "a shape of -1": bundle(lambda f, d: d["stages"]["idgen"]["inputs"].update(noise=["F", -1])),
    "a graph outside": bundle(lambda f, d: _outside(f, d, "../outside/idrank.onnx")),
    "a graph anywhere": bundle(lambda f, d: _outside(f, d, "{}/idrank.onnx")), "a link outside": bundle(_linked),
    "a changed graph": bundle(lambda f, d: (f / "idrank.onnx").write_text("other") and None),
    "a graph that is a folder": bundle(
        lambda f, d: [(f / "idrank.onnx").unlink(), (f / "idrank.onnx").mkdir()] and None),
    "no such folder": lambda folder: folder / "bundle",
}  # fmt: skip


def graph(external: str = "", dims: int = 3) -> bytes:
    """One initializer in a graph, outside of the file if a name is given."""
    onnx = __import__("onnx")
    tensor = onnx.TensorProto(name="w", data_type=1, dims=[dims])
    if external:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=external))
    else:
        tensor.raw_data = bytes(4 * min(dims, 3))
    value = onnx.helper.make_tensor_value_info("y", 1, [dims])
    made = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["w"], ["y"])], "g", [], [value], [tensor])
    model = onnx.helper.make_model(made, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 17)])
    return model.SerializeToString()


GRAPHS: dict[str, Case] = {
    "nothing": raw("g.onnx", b""), "random": raw("g.onnx", np.random.default_rng(3).bytes(5000)),
    "text": raw("g.onnx", b"a graph"), "weights elsewhere": raw("g.onnx", lambda: graph("../x.bin")),
    "weights anywhere": raw("g.onnx", lambda: graph("/etc/passwd")),
    "weights missing": raw("g.onnx", lambda: graph("x")),
    "weights of 4 GB": raw("g.onnx", lambda: graph(dims=1 << 30)), "cut short": raw("g.onnx", lambda: graph()[:-9]),
    "a length of 2^60": raw("g.onnx", b"\x3a" + 8 * b"\xff" + b"\x0f"), "a graph in itself": raw(
        "g.onnx", 3000 * b"\x3a\x7f" + bytes(400)), "an endless number": raw("g.onnx", 1000 * b"\xff"),
}  # fmt: skip


def engine(record: Callable[[dict[str, Any]], Any], plan: bytes = b"plan", name: str = "") -> Case:
    """An engine beside a graph, with its record changed; text that is returned becomes the record."""

    def make(folder: Path) -> Path:
        from ofer_models.files.hashing import sha256_of
        from ofer_models.runtime import engine_cache

        (folder / "g.onnx").write_bytes(b"a graph")
        key = engine_cache.EngineKey("g.onnx", sha256_of(folder / "g.onnx"), "tensorrt_rtx", "1.2", ("sm86",), "fp16",
                                     {"F": (1, 1, 4)})  # fmt: skip
        path = engine_cache.write(folder, key, b"plan", {"inputs": {}, "outputs": {}}, 1.0)
        beside = path.with_name(f"{path.name}.json")
        content = json.loads(beside.read_text())
        text = record(content)
        beside.write_text(text if isinstance(text, str) else json.dumps(content))
        path.write_bytes(plan)
        return folder

    return make


ENGINES: dict[str, Case] = {
    "100,000 brackets": engine(lambda _: 100_000 * "["), "100,000 objects": engine(lambda _: 100_000 * '{"a":'),
    "no JSON": engine(lambda _: "{]"), "a list": engine(lambda _: "[]"), "empty": engine(lambda _: " "),
    "2 MB": engine(lambda _: (2 << 20) * " "), "no key": engine(lambda r: r.pop("key") and None),
    "a key of numbers": engine(lambda r: r.update(key=3)), "a size of text": engine(lambda r: r.update(size="x")),
    "a graph elsewhere": engine(lambda r: r["key"].update(graph="../../g.onnx")),
    "a profile of text": engine(lambda r: r["key"].update(profile={"F": "abc"})),
    "another format": engine(lambda r: r.update(format=7)), "binary": engine(lambda _: "\x00\x01"),
    "a number without end": engine(lambda _: '{"format": ' + 10_000 * "9" + "}"),
    "garbage of the right size": engine(lambda _: None, b"nalp"), "garbage": engine(lambda _: None, bytes(1000)),
}  # fmt: skip
NOISES: dict[str, Case] = {
    "another array": lambda f: parameters(start=np.zeros((2, 3)), added=np.zeros((1, 2, 3)), more=np.zeros(1))(f),
    "one alone": lambda f: parameters(start=np.zeros((2, 3)))(f), "whole numbers": lambda f: parameters(
        start=np.zeros((2, 3), int), added=np.zeros((1, 2, 3), int))(f),
    "shapes that differ": lambda f: parameters(start=np.zeros((2, 3)), added=np.zeros((1, 3, 3)))(f),
    "scalars": lambda f: parameters(start=np.float64(1), added=np.float64(1))(f), "nothing": raw("n.npz", b""),
}  # fmt: skip


def _bundle(path: Path) -> Any:
    from ofer_models.bundle import Bundle
    from ofer_models.runtime.stages import StageSet

    loaded = Bundle.load(path)
    assert loaded.head
    return StageSet(loaded)


def _head(path: Path) -> Any:
    from ofer_models.head.model import HeadModel

    return HeadModel.load(path)


def _graph(path: Path) -> Any:
    from ofer_models.runtime.onnxruntime_backend import OnnxStage

    return OnnxStage(path)


def _engine(path: Path) -> Any:
    from ofer_models.bundle.tensors import StageError
    from ofer_models.runtime import engine_cache

    (entry,) = engine_cache.entries(path)
    if problem := entry.refuse(path / "g.onnx"):
        raise StageError(f"{entry.path.name} {problem}")


def _noise(path: Path) -> Any:
    from ofer_models.runtime.recorded_noise import RecordedNoise

    return RecordedNoise(path)


KINDS: dict[str, Kind] = {
    "head": (_head, HEADS), "bundle": (_bundle, BUNDLES), "graph": (_graph, GRAPHS), "engine": (_engine, ENGINES),
    "noise": (_noise, NOISES),
}  # fmt: skip
