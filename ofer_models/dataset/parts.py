"""Parts: what one worker does in one go, and what is written to one file of the dataset."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ofer_models.dataset.sources import PICTURE, Source

PICTURES_A_PART = 64


@dataclass(frozen=True)
class Part:
    """One video or bag, or some pictures of one folder. key: the name of its folder in the dataset."""

    sources: tuple[Source, ...]

    @property
    def key(self) -> str:
        path = self.sources[0].address.rstrip("/")
        name = path if len(self.sources) == 1 else path.rpartition("/")[0]
        readable = re.sub(r"[^A-Za-z0-9._-]+", "_", name.rpartition("/")[2])[:40]
        joined = "\0".join(source.address for source in self.sources)
        return f"{readable}-{hashlib.sha256(joined.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}"

    @property
    def size(self) -> int:
        return sum(source.size for source in self.sources)

    def halves(self) -> tuple[Part, ...]:
        """The part in two, or itself where it is one source."""
        middle = len(self.sources) // 2
        return (Part(self.sources[:middle]), Part(self.sources[middle:])) if middle else (self,)


def into_parts(sources: Iterable[Source]) -> Iterator[Part]:
    """Each video or bag alone, the largest first, so that none is left for the end; then pictures, folder by folder."""
    pictures: dict[str, list[Source]] = {}
    streams: list[Source] = []
    for source in sources:
        if source.kind == PICTURE:
            pictures.setdefault(source.address.rpartition("/")[0], []).append(source)
        else:
            streams.append(source)
    for source in sorted(streams, key=lambda one: -one.size):
        yield Part((source,))
    for members in pictures.values():
        for start in range(0, len(members), PICTURES_A_PART):
            yield Part(tuple(members[start : start + PICTURES_A_PART]))
