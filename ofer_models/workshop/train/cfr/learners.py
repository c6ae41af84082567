"""What CFR's stages train: its own regressor of the Basel Face Model, or the small one of the open head."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from ofer_models.head.albedo import Albedo
from ofer_models.head.model import HeadModel
from ofer_models.workshop.errors import DataError
from ofer_models.workshop.networks.arcface import ArcFace
from ofer_models.workshop.networks.cfr import CfrRegressor
from ofer_models.workshop.networks.landmarks import LandmarkNetwork
from ofer_models.workshop.networks.regressor import RegressorHead, RegressorNetwork
from ofer_models.workshop.networks.resnet import DEPTHS
from ofer_models.workshop.official.basel import METRES, BaselError, read_basel
from ofer_models.workshop.official.cfr_importer import cfr_regressor
from ofer_models.workshop.official.checkpoint import CheckpointError, load_network, read_state
from ofer_models.workshop.train.cfr.face import TorchFace
from ofer_models.workshop.train.cfr.training import Learner
from ofer_models.workshop.train.eyes.training import load_network as load_landmarks
from ofer_models.workshop.train.loop import save_whole
from ofer_models.workshop.train.regressor.people import PeopleHeads, statistics
from ofer_models.workshop.train.regressor.targets import open_regressor
from ofer_models.workshop.train.regressor.training import load_regressor

_ALBEDO_MOVES, _LIGHT_MOVES = 1.0, 0.2  # how far coefficients move that begin at nothing: mean skin, evenly lit


class Mapped(nn.Module):
    """A network with `maps` as a training calls it: crops to coefficients and feature maps, one after the other."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, crop: Tensor) -> tuple[Tensor, ...]:
        maps, coefficients = self.network.maps(crop)
        return coefficients, *maps


def basel_learner(basel: Path, start: Path, depths: tuple[int, ...] = DEPTHS) -> Learner:
    """CFR's or Deep3D's regressor with the weights of a file; raises DataError where one of the two is no such file."""
    try:
        arrays, colours = read_basel(basel)
        state = read_state(start, "CFR's regressor")
        network = load_network(CfrRegressor(depths), state, start.name)
    except (BaselError, CheckpointError) as error:
        raise DataError(str(error)) from None
    head = HeadModel(arrays)
    spec = cfr_regressor(arrays)
    # The network tells decimetres.
    face = TorchFace(head, replace(spec, distance=spec.distance / METRES), Albedo(colours, head), METRES)
    return Learner(Mapped(network), face)


def open_learner(
    head: HeadModel, albedo: Albedo | None, learned: PeopleHeads, start: Path | None, landmarks: Path
) -> Learner:
    """The open head's regressor, with albedo and light where the head has an albedo: from a file of its weights, or
    from the convolutions of a landmark network. Weights of a regressor without albedo and light will do."""
    albedo = albedo and albedo.on_vertices(head)
    spec = open_regressor(head, albedo)
    eyes = LandmarkNetwork()
    if start is None and landmarks.is_file():
        load_landmarks(eyes, landmarks)
    mean, deviation = statistics(learned)
    known, count = len(mean), spec.groups.get("albedo", 0)
    more = np.repeat([_ALBEDO_MOVES, _LIGHT_MOVES], [count, spec.width - known - count])
    network = RegressorNetwork(
        eyes, RegressorHead(np.pad(mean, (0, len(more))), np.concatenate([deviation, more]).astype(np.float32))
    )
    if start is not None:
        _load(network, start, known)
    return Learner(Mapped(network), TorchFace(head, spec, albedo))


def _load(network: RegressorNetwork, path: Path, known: int) -> None:
    """Weights of a regressor of all coefficients, or of the `known` first ones."""
    try:
        load_regressor(network, path)
    except DataError:
        mean, deviation = (values[:known].numpy() for values in (network.head.mean, network.head.deviation))
        fewer = RegressorNetwork(LandmarkNetwork(), RegressorHead(mean, deviation))
        load_regressor(fewer, path)
        state = network.state_dict()
        for name, values in fewer.state_dict().items():
            state[name][tuple(map(slice, values.shape))] = values
        network.load_state_dict(state)


def save(network: nn.Module, path: Path, **about: int) -> None:
    """Write a trained `Mapped` network: CFR's as its release has it, for `ofer import --cfr`; the small one by its
    weights, for --start."""
    own = network.network
    if isinstance(own, CfrRegressor):
        save_whole(own.official_state_dict(), path)
    else:
        save_whole({"network": own.state_dict(), **about}, path)


def recognition_network(path: Path) -> nn.Module:
    """ArcFace with the weights of an insightface `backbone.pth` (iresnet of any depth). Raises DataError."""
    try:
        state = read_state(path, "a face recognition network")
        found = [re.match(r"layer(\d)\.(\d+)\.", name) for name in state]
        blocks = [(int(match[1]), int(match[2])) for match in found if match]
        depths = [1 + max((block for layer, block in blocks if layer == number), default=0) for number in range(1, 5)]
        if max(depths) > 200:
            raise CheckpointError(f"{path.name} is no iresnet")
        return load_network(ArcFace(depths), state, path.name).requires_grad_(False)
    except CheckpointError as error:
        raise DataError(str(error)) from None
