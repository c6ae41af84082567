"""The released OFER checkpoints: read without running code from them, checked tensor by tensor, put into our
networks.

Build-time only: needs torch. What the files hold: `net` (U-Net or rank network), `arcface` and `farl` state dicts,
and training state that is of no use here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ofer_models.files.refusal import one_line
from ofer_models.workshop.networks import replay
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.denoiser import Denoiser
from ofer_models.workshop.networks.farl import Farl
from ofer_models.workshop.networks.official_weights import OfficialWeightsError
from ofer_models.workshop.networks.rank import RankNetwork
from ofer_models.workshop.official.pickle_machine import UnsafePickleError
from ofer_models.workshop.official.pickle_standins import StoredTensor
from ofer_models.workshop.official.torch_file import read_torch
from ofer_models.workshop.official.torch_tensors import tensor_of

Role = Literal["idgen", "idrank", "expgen"]
ENTRIES: dict[Role, tuple[str, ...]] = {
    "idgen": ("net", "arcface"),
    "idrank": ("net", "arcface", "farl"),
    "expgen": ("net", "arcface", "farl"),
}
_NAMES = {"idgen": "IdGen", "idrank": "IdRank", "expgen": "ExpGen"}
_LEFT_OVER, _LAST_MAP = (
    ".fn.fn.qkv.weight",
    ".fn.fn.to_qkv.15.weight",
)  # the release leaves the one as a copy of the other
_WRAPPED = "module."  # what torch's wrappers for several GPUs put before every name
_WEB_PAGE = (b"<!doctype", b"<html", b"<?xml")
_State = Mapping[str, Tensor]
_Network = TypeVar("_Network", bound=nn.Module)


class CheckpointError(ValueError):
    """A checkpoint is damaged, unsafe, of another kind than given, or its tensors do not fit; the message says
    which.
    """


@dataclass(frozen=True)
class NetworkSizes:
    """Arguments of the official networks' constructors (tests use smaller ones)."""

    idgen: tuple[int, tuple[int, ...], int] = replay.DENOISERS["idgen"]
    expgen: tuple[int, tuple[int, ...], int] = replay.DENOISERS["expgen"]
    rank: dict[str, Any] = field(default_factory=dict)
    arcface: dict[str, Any] = field(default_factory=dict)
    farl: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """The state dicts of one released file, by entry; remarks on what was read in another way than it is stored."""

    path: Path
    role: Role
    states: dict[str, _State]
    remarks: tuple[str, ...] = ()

    def check(self, sizes: NetworkSizes) -> None:
        """Compare every tensor's name and shape with the networks, without copying any. Raises CheckpointError."""
        with torch.device("meta"):
            if self.role == "idrank":
                nets: dict[str, nn.Module] = {"net": RankNetwork(**sizes.rank)}
            else:
                nets = {"net": Denoiser(*getattr(sizes, self.role))}
            nets["arcface"] = ArcFace(**sizes.arcface)
            if "farl" in self.states:
                nets["farl"] = Farl(**sizes.farl)
            for entry, net in nets.items():
                state = self.states[entry]
                if isinstance(net, Denoiser) and not any(".to_qkv." in name for name in state):
                    state = state | {name: torch.empty(shape) for name, shape in _map_shapes(net).items()}
                self._fit(net, entry, state)

    def denoiser(self, sizes: NetworkSizes, maps: _State) -> Denoiser:
        """IdGen or ExpGen with the query/key/value maps given (none where the file has its own)."""
        with torch.device("meta"):
            net = Denoiser(*getattr(sizes, self.role))
        return self._load(net, "net", self.states["net"] | maps)

    def rank(self, sizes: NetworkSizes) -> RankNetwork:
        """IdRank on meshes."""
        with torch.device("meta"):
            net = RankNetwork(**sizes.rank)
        return self._load(net, "net", self.states["net"])

    def arcface(self, sizes: NetworkSizes) -> ArcFace:
        """This file's own fine-tuned ArcFace."""
        with torch.device("meta"):
            net = ArcFace(**sizes.arcface)
        return self._load(net, "arcface", self.states["arcface"])

    def farl(self, sizes: NetworkSizes) -> Farl:
        """This file's own fine-tuned FaRL image tower."""
        with torch.device("meta"):
            net = Farl(**sizes.farl)
        return self._load(net, "farl", self.states["farl"])

    def _load(self, net: _Network, entry: str, state: _State) -> _Network:
        return load_network(net.to_empty(device="cpu"), state, f"{self.path.name}, entry '{entry}'")

    def _fit(self, net: nn.Module, entry: str, state: _State) -> None:
        _fit(net, state, f"{self.path.name}, entry '{entry}'")


@dataclass(frozen=True)
class Maps:
    """Query/key/value maps for a denoiser: where they come from (`file`, `training` or `demo`), why, and the maps."""

    source: str
    evidence: str
    tensors: dict[str, Tensor]


def read_checkpoint(path: str | Path, role: Role, sizes: NetworkSizes, strict: bool = False) -> Checkpoint:
    """Read the entries that a role needs, mapped from the file.

    strict: tensors that the denoisers do not know are left in, and refused when the networks are compared; otherwise
    they are skipped with a remark, as the release skips them.

    Raises CheckpointError with one line: no such file, a web page, cut short, a name that no checkpoint needs, an entry
    missing, or a checkpoint of another role.
    """
    path = Path(path)
    content = _content(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path.name} holds a {type(content).__name__}, not a checkpoint's dictionary")
    states: dict[str, _State] = {}
    remarks: list[str] = []
    for entry in ENTRIES[role]:
        stored = content.get(entry)
        if not isinstance(stored, dict) or not all(
            isinstance(name, str) and isinstance(tensor, StoredTensor) for name, tensor in stored.items()
        ):
            found = ", ".join(map(str, content)) or "nothing"
            raise CheckpointError(
                one_line(f"{path.name} has no state dict '{entry}', which {_NAMES[role]} needs (it has: {found})")
            )
        states[entry], said = _named(stored, path.name, entry)
        remarks += said
        if entry == "net":
            _check_role(path, role, states[entry], sizes)
            if role != "idrank" and not strict:
                states[entry], said = _known_only(states[entry], role, sizes, path.name)
                remarks += said
    return Checkpoint(path, role, states, tuple(remarks))


def read_state(path: str | Path, what: str, entry: str | None = None) -> _State:
    """The tensors of a file that holds one state dict and nothing else, mapped from it; what: for whom, in a refusal.
    entry: of a file that holds several, by name, the one.

    Raises CheckpointError as `read_checkpoint`.
    """
    path = Path(path)
    content = _content(path)
    if entry is not None:
        content = content.get(entry) if isinstance(content, dict) else None
    if not isinstance(content, dict) or not content or not all(
        isinstance(name, str) and isinstance(tensor, StoredTensor) for name, tensor in content.items()
    ):
        raise CheckpointError(f"{path.name} is no state dict of {what}")
    return _named(content, path.name, what)[0]


def load_network(net: _Network, state: _State, where: str) -> _Network:
    """Copy a state dict under its official names into a network, for inference; where: the file, for a refusal.

    Raises CheckpointError where tensors do not fit or are not finite numbers.
    """
    _fit(net, state, where)
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise CheckpointError(f"{where}: {bad[0]} holds numbers that are not finite")
    for name, buffer in net.named_buffers():
        if name.endswith("num_batches_tracked"):  # not in our table, and unused
            buffer.zero_()
    return net.eval()


def _fit(net: nn.Module, state: _State, where: str) -> None:
    unreal = next((name for name, tensor in state.items() if tensor.is_complex()), None)
    if unreal:  # torch would drop the imaginary part
        raise CheckpointError(f"{where}: {unreal} holds complex numbers")
    try:
        net.load_official(state)
    except OfficialWeightsError as error:
        raise CheckpointError(f"{where}: {error}") from None


def find_maps(checkpoint: Checkpoint, sizes: NetworkSizes, wanted: replay.Scenario | None) -> Maps:
    """The maps of IdGen or ExpGen that the file lacks, replayed in the scenario that its `qkv.weight` entries tell.

    wanted: use this scenario whatever they tell. Raises CheckpointError with the evidence when neither decides.
    """
    role, state = checkpoint.role, checkpoint.states["net"]
    if any(".to_qkv." in name for name in state):
        return Maps("file", "the file carries its own maps", {})
    with torch.device("meta"):
        expected = _map_shapes(Denoiser(*getattr(sizes, role)))
    for name, value in state.items():
        if name.endswith(_LEFT_OVER):
            shape = expected.get(name.replace(_LEFT_OVER, _LAST_MAP))
            if shape != tuple(value.shape):
                raise CheckpointError(
                    f"{checkpoint.path.name}, entry 'net': {name} is {tuple(value.shape)}, should be {shape}"
                )
    found, differences = replay.matching_scenario(role, state)
    evidence = "; ".join(
        f"{scenario}: {'no qkv.weight entries to compare' if math.isinf(value) else _difference(value)}"
        for scenario, value in differences.items()
    )
    scenario = wanted or found
    if scenario is None:
        raise CheckpointError(
            f"{checkpoint.path.name}: its query/key/value maps cannot be told ({evidence}); choose with "
            "--qkv training (what the weights were fitted to) or --qkv demo (what the released demo runs with)"
        )
    return Maps(scenario, evidence, replay.replay_maps(role, scenario))


def _map_shapes(net: Denoiser) -> dict[str, tuple[int, ...]]:
    """Official name -> shape of the query/key/value maps."""
    return {name: slot.shape for name, slot in net.official_slots().items() if ".to_qkv." in name}


def _difference(value: float) -> str:
    return "equal" if value == 0 else f"differs by up to {value:.3g}"


def _content(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist")
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith(_WEB_PAGE):
        raise CheckpointError(
            f"{path.name} is a web page, not a checkpoint: download it again from the OFER page's link"
        )
    try:
        return read_torch(path)
    except UnsafePickleError as error:
        raise CheckpointError(str(error)) from None


def _named(state: Mapping[str, Any], file: str, entry: str) -> tuple[_State, list[str]]:
    """A state dict's tensors by the names that the release gives them, and remarks on what had to be changed."""
    tensors = {name: tensor_of(stored) for name, stored in state.items()}
    if not tensors or not all(name.startswith(_WRAPPED) for name in tensors):
        return tensors, []
    remark = f"{file}, entry '{entry}': all names begin with '{_WRAPPED}' (saved from several GPUs); read without it"
    return {name.removeprefix(_WRAPPED): tensor for name, tensor in tensors.items()}, [remark]


def _known_only(state: _State, role: Role, sizes: NetworkSizes, file: str) -> tuple[_State, list[str]]:
    """A denoiser's state without tensors that it does not know: the release skips them too (`strict=False`)."""
    with torch.device("meta"):
        net = Denoiser(*getattr(sizes, role))
    known = net.official_slots().keys()
    extra = [
        name for name in state if name not in known and not any(re.fullmatch(p, name) for p in net.KNOWN_EXTRAS)
    ]
    names = one_line(", ".join(extra[:12]))
    remark = f"{file}, entry 'net': skipped as the release does, unknown to its network: {names}"
    return {name: tensor for name, tensor in state.items() if name not in extra}, [remark] * bool(extra)


def _check_role(path: Path, role: Role, net: _State, sizes: NetworkSizes) -> None:
    """Tell files given in each other's place apart before their tensors are compared."""
    first = net.get("init_conv.weight")
    if any(str(name).startswith("ranklayers.") for name in net):
        found: Role | None = "idrank"
    elif isinstance(first, Tensor) and first.ndim:
        found = {sizes.idgen[0]: "idgen", sizes.expgen[0]: "expgen"}.get(first.shape[0])
    else:
        found = None
    if found not in (None, role):
        raise CheckpointError(f"{path.name} is {_NAMES[found]}'s checkpoint, but was given as --{role}; swap the files")
