"""Files as nobody means well with, of the folder `hostile`: each is tried on the loader that would get it.

    python tests/hostile_files.py GROUP FOLDER CANARY [FIRST]

tries the cases of a group from number FIRST on, under limits of memory and of processor time, and prints a line of JSON
for each. A payload that was run leaves the file CANARY.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from hostile import bundles, mat_files, parts, pickles, pictures, recordings, training_data
from hostile.parts import Case, Kind, Loader

ROOT = Path(__file__).resolve().parents[1]
MEMORY, SECONDS = 4 << 30, 20  # seconds of the processor: a machine that is busy with something else counts none


class OutOfTime(BaseException):
    """A loader took longer than it may."""


GROUPS: dict[str, dict[str, Kind]] = {
    "official": pickles.KINDS | training_data.KINDS | mat_files.KINDS,
    "bundle": bundles.KINDS | pictures.KINDS,
    "ros": recordings.KINDS,
}
# Damage that some readers may rightly overlook: bytes of a recording that are pixels.
MAY_BE_READ = {f"bag: changed bytes {n}" for n in range(8)}


def cases(group: str) -> list[tuple[str, Loader, Case]]:
    """Name, loader and file of every case."""
    return [(f"{kind}: {name}", loader, case) for kind, (loader, all_) in GROUPS[group].items()
            for name, case in all_.items()]  # fmt: skip


def _peak() -> int:
    """The largest resident size since `_forget_peak`, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def try_out(loader: Loader, path: Path) -> dict[str, Any]:
    """What a loader makes of a file: refused in one line, read, or something that must not be."""
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    _forget_peak()
    before = _peak()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        outcome: dict[str, Any] = {"read": type(loader(path)).__name__}
    except (ValueError, OSError) as error:
        outcome = {"refused": str(error), "type": type(error).__name__, "where": _raised_in(error)}
    except BaseException as error:
        outcome = {"broken": type(error).__name__, "traceback": traceback.format_exc()[-1500:]}
    signal.setitimer(signal.ITIMER_PROF, 0)
    return outcome | {"bytes": size, "grew": _peak() - before}


def _raised_in(error: BaseException) -> str:
    return traceback.extract_tb(error.__traceback__)[-1].filename


def main(group: str, folder: Path, first: int) -> None:
    def out_of_time(*_: Any) -> None:
        raise OutOfTime(f"more than {SECONDS} s")

    signal.signal(signal.SIGPROF, out_of_time)
    made = []
    for number, (name, loader, case) in enumerate(cases(group)):
        place = folder / f"{number:03d}"
        place.mkdir(exist_ok=True)
        if number >= first:
            made.append((name, loader, case(place), place))
    for module in ("torch", "onnxruntime", "cv2"):  # not part of what a file costs
        __import__(module)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for name, loader, path, place in made:
        there = sorted(place.rglob("*"))
        print(json.dumps({"case": name}), flush=True)
        outcome = try_out(loader, path)
        outcome["left"] = [str(p) for p in sorted(place.rglob("*")) if p not in there]
        print(json.dumps({"case": name, **outcome}), flush=True)


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    parts.CANARY = Path(sys.argv[3])
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
