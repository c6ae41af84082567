"""What every runtime is to those who use it."""

from __future__ import annotations

from abc import ABC, abstractmethod

from ofer_models.bundle.tensors import GraphSpec
from ofer_models.runtime.sampler import Sampler, Stage


class Backend(ABC):
    """A runtime: loads graphs as callables on named float32 arrays; StageError for what differs from the spec.

    urgent: what a frame waits for; the rest (identities) may run beside it and must not hold it up.
    """

    name: str
    captures = False  # whether the first call at a size takes long: compiling, capturing, choosing kernels

    @abstractmethod
    def load(self, graph: GraphSpec, urgent: bool = True) -> Stage: ...

    @abstractmethod
    def sampler(self, cond: GraphSpec, step: GraphSpec, urgent: bool = True) -> Sampler: ...

    @property
    def memory(self) -> int:
        """Bytes held on a GPU; 0 without one."""
        return 0

    def settle(self) -> None:  # noqa: B027
        """All sizes that will occur have: keep for the next start what took long."""

    def close(self) -> None:  # noqa: B027
        """Give everything on a GPU back. No stage of it may be called any more."""
