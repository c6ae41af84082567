"""Files changed at random, on the loaders that get them: every one must be read or refused in one line.

    python tests/fuzz.py [TARGET ...] [--inputs 1000] [--seed 1] [--first 0] [--seconds 600]

Input n of a seed is always the same, so a failure is repeated by `--first n --inputs 1`. Ends with code 1 at a failure.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
MEMORY, SECONDS = 4 << 30, 10  # seconds of the processor
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
Target = tuple[Callable[[Path], list[Path]], Callable[[Path], Any], str]


class OutOfTime(BaseException):
    """A loader took longer than it may."""


def changed(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bytes, numbers of several sizes, pieces taken out, doubled, moved, or of another file."""
    made = bytearray(content)
    for _ in range(int(rng.integers(1, 9))):
        at, size = int(rng.integers(0, len(made) + 1)), int(2 ** rng.uniform(0, 8))
        kind = int(rng.integers(0, 8))
        if kind == 0:
            made[at : at + 1] = rng.bytes(1)
        elif kind == 1:
            width = int(rng.choice([1, 2, 4, 8]))
            value = _NUMBERS[rng.integers(len(_NUMBERS))] & ((1 << 8 * width) - 1)
            made[at : at + width] = value.to_bytes(width, "little" if rng.random() < 0.7 else "big")
        elif kind == 2:
            del made[at : at + size]
        elif kind == 3:
            made[at:at] = made[at : at + size] * int(rng.integers(1, 20))
        elif kind == 4:
            start = int(rng.integers(0, len(other) + 1))
            made[at : at + size] = other[start : start + size]
        elif kind == 5:
            made[at:at] = rng.bytes(size)
        elif kind == 6:
            del made[at:]
        else:
            made[at : at + 1] = bytes([made[at] ^ 1 << int(rng.integers(8))]) if at < len(made) else b""
        if not made:
            break
    return bytes(made)


def _written(folder: Path, **contents: bytes) -> list[Path]:
    paths = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    return paths


def _pickles(folder: Path) -> list[Path]:
    from official_inputs import chumpy, dump_python2, sparse

    array = np.arange(12.0).reshape(3, 4)
    content = {"f": array, "s": {1, 2}, "n": np.float32(2)}
    paths = _written(folder, **{f"p{protocol}": pickle.dumps(content, protocol) for protocol in range(5)})
    return [*paths, dump_python2({"f": chumpy(array)}, folder / "q"), dump_python2({"f": sparse(array)}, folder / "r")]


def _torches(folder: Path) -> list[Path]:
    import torch

    content = {"net": {"w": torch.ones(3, 2), "b": torch.arange(3)}, "step": 3, "loss": np.float64(0.5)}
    for name, zipped in (("t", True), ("u", False)):
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    return [folder / "t", folder / "u"]


def _mats(folder: Path) -> list[Path]:
    from hostile.mat_files import mat, matrix, packed

    variables = matrix(), matrix(b"text", (1, 6), 4, bytes(12), 4), matrix(b"idBase", (12, 1), content=bytes(96))
    plain = mat(*variables)(folder).rename(folder / "a.mat")
    return [plain, mat(*map(packed, variables))(folder).rename(folder / "b.mat")]


def _manifests(folder: Path) -> list[Path]:
    from hostile.bundles import setting

    made = setting()(folder)
    return [made / "manifest.yaml"]


def _heads(folder: Path) -> list[Path]:
    from test_bundle import tiny_head

    np.savez(folder / "a.npz", **tiny_head())
    np.savez_compressed(folder / "b.npz", **tiny_head())
    return [folder / "a.npz", folder / "b.npz"]


def _graphs(folder: Path) -> list[Path]:
    from hostile.bundles import graph

    return _written(folder, a=graph(), b=graph("weights.bin"))


def _records(folder: Path) -> list[Path]:
    from hostile.bundles import engine

    made = engine(lambda record: None)(folder)
    return list(made.glob("*.engine.json"))


def _bags(folder: Path) -> list[Path]:
    from hostile.recordings import bag

    return [next(bag(lambda path: None)(folder).glob("*.mcap"))]


def _pictures(folder: Path) -> list[Path]:
    import cv2

    picture = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    endings = ("jpg", "png", "bmp", "webp", "tiff", "ppm")
    return _written(folder, **{f"a.{ending}": cv2.imencode(f".{ending}", picture)[1].tobytes() for ending in endings})


def _messages(folder: Path) -> list[Path]:
    from bag_support import START, TYPES, compressed, image

    pixels = np.zeros((8, 8, 3), np.uint8)
    messages = {"a": image(START, pixels), "b": compressed(START, pixels)}
    return _written(folder, **{name: bytes(TYPES.serialize_cdr(m, m.__msgtype__)) for name, m in messages.items()})


def _read_pickle(path: Path) -> Any:
    from ofer_models.workshop.official.pickle_numbers import numbers
    from ofer_models.workshop.official.safe_pickle import read_pickle

    content = read_pickle(path)
    return numbers(content["f"], "f") if isinstance(content, dict) and "f" in content else None


def _read_torch(path: Path) -> Any:
    from ofer_models.workshop.official.torch_tensors import load_torch

    return load_torch(path)


def _read_mat(path: Path) -> Any:
    from ofer_models.workshop.official.mat_file import read_mat

    return read_mat(path, ("tri", "idBase"))


def _read_manifest(path: Path) -> Any:
    from ofer_models.bundle.manifest import read_manifest

    return read_manifest(path.parent)


def _read_head(path: Path) -> Any:
    from ofer_models.head.model import HeadModel

    return HeadModel.load(path)


def _read_graph(path: Path) -> Any:
    from ofer_models.bundle.onnx_header import external_files

    return external_files(path)


def _read_record(path: Path) -> Any:
    from ofer_models.bundle.tensors import StageError
    from ofer_models.runtime import engine_cache

    if problem := engine_cache.entries(path.parent)[0].refuse(path.parent / "g.onnx"):
        raise StageError(problem)


def _read_bag(path: Path) -> Any:
    from ofer_ros.camera.sources import open_source

    return list(open_source(str(path), 30.0, 1.0, 1280))


def _read_picture(path: Path) -> Any:
    from ofer_models.perception.pictures import read_picture

    return read_picture(path)


def _read_message(path: Path) -> Any:
    from bag_support import TYPES

    from ofer_ros.camera.bag_reader import in_one_line
    from ofer_ros.input.images import to_rgb

    kind = "Image" if path.name.endswith("a") else "CompressedImage"
    with in_one_line(path):
        return to_rgb(TYPES.deserialize_cdr(path.read_bytes(), f"sensor_msgs/msg/{kind}"))


# What makes the files to change, the loader, and the name under which a changed file lies ('' for its own).
TARGETS: dict[str, Target] = {
    "pickle": (_pickles, _read_pickle, ""), "torch": (_torches, _read_torch, ""),
    "manifest": (_manifests, _read_manifest, "manifest.yaml"), "head": (_heads, _read_head, ""),
    "onnx": (_graphs, _read_graph, ""), "engine": (_records, _read_record, "*"), "bag": (_bags, _read_bag, "bag.mcap"),
    "picture": (_pictures, _read_picture, ""), "cdr": (_messages, _read_message, ""), "mat": (_mats, _read_mat, ""),
}  # fmt: skip


def run(name: str, inputs: int, seed: int, first: int = 0, seconds: float = float("inf")) -> Counter[str]:
    """How many inputs were `read` and `refused`; raises AssertionError at the first that was neither."""
    make, load, called = TARGETS[name]
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        folder = Path(place)
        (folder / "whole").mkdir()
        whole = make(folder / "whole")
        contents = [path.read_bytes() for path in whole]
        begun = time.monotonic()
        for number in range(first, first + inputs):
            if time.monotonic() - begun > seconds:
                break
            rng = np.random.default_rng([seed, number])
            which, other = rng.integers(len(whole), size=2)
            path = whole[which] if called == "*" else folder / (called or whole[which].name)
            path.write_bytes(changed(contents[which], contents[other], rng))
            counts[_tried(load, path, f"{name}, seed {seed}, input {number}")] += 1
    return counts


def _tried(load: Callable[[Path], Any], path: Path, what: str) -> str:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        load(path)
    except (ValueError, FileNotFoundError) as error:
        own = type(error).__module__.startswith(("ofer_models", "ofer_ros")) or isinstance(error, FileNotFoundError)
        assert own and str(error).isprintable(), f"{what}: {traceback.format_exc()}"
        return "refused"
    except BaseException as error:
        raise AssertionError(f"{what}: {traceback.format_exc()}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "read"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of each target at most")
    given = parser.parse_args()

    def out_of_time(*_: Any) -> None:
        raise OutOfTime(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for name in given.targets:
        counts = run(name, given.inputs, given.seed, given.first, given.seconds)
        print(json.dumps({"target": name, "seed": given.seed, "first": given.first, **counts}), flush=True)


if __name__ == "__main__":
    main()
