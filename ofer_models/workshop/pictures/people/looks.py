"""What a random person looks like: skin, tone, make-up, eyes, hair, beard, glasses, hat. Numbers only, no drawing."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ofer_models.workshop.pictures.people.assets import Library

# Albedo of hair in linear light: black, dark brown, brown, light brown, red, blond, grey, white, dyed.
_HAIR = np.array(
    [
        [0.02, 0.018, 0.016], [0.06, 0.04, 0.028], [0.12, 0.075, 0.045], [0.22, 0.14, 0.08], [0.25, 0.08, 0.03],
        [0.5, 0.36, 0.18], [0.35, 0.34, 0.33], [0.7, 0.68, 0.64], [0.3, 0.1, 0.3],
    ]
)  # fmt: skip
_HAIR_ODDS = (0.25, 0.22, 0.17, 0.1, 0.05, 0.09, 0.06, 0.03, 0.03)
_SKIN_ATTRIBUTES = ("young", "middleage", "old"), ("african", "asian", "caucasian"), ("female", "male")
# Hair that lies well on other heads than MakeHuman's; the rest is left out.
LONG = (
    "bob02", "bob02", "long01", "long2_alpha7", "long_alpha7", "southernbelleringlets", "curly2", "Braid01", "bob01",
)  # fmt: skip
SHORT = ("short01", "short02", "short03", "short04", "ponytail01", "afro01", "curly", "junglebookhair", "minoan")
BEARDS = ("Full_beard", "Moustache")


@dataclass(frozen=True)
class Worn:
    """A mesh of the library with its texture's number, and its look: colour (3,), a factor on the texture's own or, by
    the share recolour, what replaces it; cutoff of alpha (-1: opaque), gloss and its exponent, wrap of the light, and
    height, a factor on that of teeth.
    """

    mesh: str
    texture: int
    colour: np.ndarray
    recolour: float = 0.0
    cutoff: float = 0.5
    gloss: float = 0.0
    exponent: float = 20.0
    wrap: float = 0.3
    height: float = 1.0


@dataclass(frozen=True)
class Look:
    """skins: two texture numbers and the share of the second; skin (3,) factor on them, its gloss, exponent and grain;
    eye: the number of a texture of eyes, with a factor (3,); worn meshes; and strengths 0..1 of lipstick (colour (3,)),
    eye shadow (colour (3,)), blush, stubble and shaved scalp (both of the hair's colour (3,)).
    """

    skins: tuple[int, int, float]
    skin: np.ndarray
    gloss: float
    exponent: float
    grain: float
    eye: int
    eye_colour: np.ndarray
    hair_colour: np.ndarray
    lipstick: tuple[float, np.ndarray]
    eye_shadow: tuple[float, np.ndarray]
    blush: float
    stubble: float
    scalp: float
    worn: list[Worn] = field(default_factory=list)


def random_look(library: Library, rng: np.random.Generator) -> Look:
    """Someone."""
    female = rng.uniform() < 0.5
    age, ancestry, sex = (
        rng.choice(values) for values in (*_SKIN_ATTRIBUTES[:2], ("female",) if female else ("male",))
    )
    first = _skin(library, (age, ancestry, sex), rng)
    # Often someone between two skins: another age or ancestry, and at times the other sex.
    other = tuple(rng.choice(values) if rng.uniform() < 0.6 else own for values, own in
                  zip(_SKIN_ATTRIBUTES, (age, ancestry, sex), strict=True))  # fmt: skip
    share = float(rng.beta(1.0, 1.5)) if rng.uniform() < 0.7 else 0.0
    tone = np.exp(rng.normal(0, 0.22)) * np.exp(rng.normal(0, 0.05, 3))
    if rng.uniform() < 0.12:  # sunburnt, flushed or pale
        tone = tone * np.array([1.12, 0.85, 0.82]) ** rng.uniform(-0.8, 1.2)
    hair = np.clip(_HAIR[rng.choice(len(_HAIR), p=_HAIR_ODDS)] * np.exp(rng.normal(0, 0.25)), 0.01, 0.9)
    if age == "old" and rng.uniform() < 0.45:
        hair = np.array([0.45, 0.44, 0.42]) * rng.uniform(0.5, 1.6)
    made_up = female and rng.uniform() < 0.5
    look = Look(
        skins=(first, _skin(library, other, rng), share), skin=np.clip(tone, 0.25, 1.6),
        gloss=float(rng.uniform(0.0, 0.14)), exponent=float(np.exp(rng.uniform(np.log(6), np.log(50)))),
        grain=float(rng.uniform(0.0, 0.22)), eye=_eye(library, rng),
        eye_colour=np.exp(rng.normal(0, 0.08, 3)) * rng.uniform(0.35, 0.8), hair_colour=hair,
        lipstick=(float(rng.uniform(0.2, 1.0)) if made_up else float(rng.uniform(0, 0.25)),
                  np.array([rng.uniform(0.3, 1.1), rng.uniform(0.04, 0.5), rng.uniform(0.06, 0.5)])),
        eye_shadow=(float(rng.uniform(0.1, 0.7)) if made_up else 0.0, rng.uniform(0.05, 0.6, 3)),
        blush=float(rng.uniform(0, 0.5)) * (rng.uniform() < 0.5),
        stubble=0.0 if female else float(rng.beta(0.7, 1.6)),
        scalp=float(rng.uniform(0, 1)),
    )  # fmt: skip
    _dress(look, library, female, rng)
    return look


def _dress(look: Look, library: Library, female: bool, rng: np.random.Generator) -> None:
    def wear(mesh: str, colour: np.ndarray, **how: float) -> None:
        textures = library.meshes[mesh].textures
        look.worn.append(Worn(mesh, int(rng.choice(textures)), np.asarray(colour, np.float32), **how))

    hair = look.hair_colour
    brow = np.clip(hair * rng.uniform(0.35, 1.0), 0.008, 0.16)
    if rng.uniform() < 0.96:
        # A brow's sheet is thin lines: a low cut-off makes it bushy.
        wear(f"eyebrows/eyebrow{rng.integers(1, 13):03d}", brow, recolour=0.9, cutoff=float(rng.uniform(0.08, 0.5)))
    if rng.uniform() < 0.85:
        cutoff = float(rng.uniform(0.05, 0.3) if female else rng.uniform(0.25, 0.8))
        name = rng.choice(["Eyelashes01", "eyelashes02", "eyelashes03", "eyelashes04"])
        wear(f"eyelashes/{name}", np.full(3, 0.3), recolour=0.5, cutoff=cutoff)
    hat = rng.uniform() < 0.07
    if not hat and rng.uniform() < (0.97 if female else 0.82):
        names = (LONG if rng.uniform() < 0.7 else SHORT) if female else (SHORT if rng.uniform() < 0.9 else LONG)
        wear(f"hair/{rng.choice(names)}", hair, recolour=1.0, gloss=float(rng.uniform(0, 0.12)),
             cutoff=float(rng.uniform(0.25, 0.6)), exponent=float(rng.uniform(8, 30)))  # fmt: skip
    if not female and rng.uniform() < 0.34:
        beard = np.clip(hair * rng.uniform(0.6, 1.2), 0.01, 0.8)
        for name in BEARDS if rng.uniform() < 0.5 else (rng.choice(BEARDS),):
            wear(f"hair/{name}", beard, recolour=1.0, cutoff=float(rng.uniform(0.2, 0.7)))
    wear(f"teeth/{rng.choice(['Teeth_Base', *(f'Teeth_Shape{n:02d}' for n in range(1, 6))])}",
         rng.uniform(0.75, 1.35) * np.array([1.0, rng.uniform(0.9, 1.0), rng.uniform(0.75, 1.0)]), gloss=0.25,
         cutoff=-1.0, height=float(rng.uniform(1.0, 1.6)))  # fmt: skip
    wear("tongue/tongue01", rng.uniform(0.5, 0.9, 3), gloss=0.12, cutoff=-1.0)
    if rng.uniform() < 0.2:
        dark = rng.uniform() < 0.25
        wear("clothes/glasses", rng.uniform(0.1, 2.0, 3) if rng.uniform() < 0.5 else np.full(3, 0.4), gloss=0.3,
             cutoff=float(rng.uniform(0.2, 0.35) if dark else 0.8), exponent=40.0)  # fmt: skip
    if hat:
        wear(rng.choice(["clothes/fedora", "clothes/Fishing_Hat_01", "clothes/pith_helmet"]), rng.uniform(0.4, 1.6, 3),
             cutoff=0.3)  # fmt: skip


def _eye(library: Library, rng: np.random.Generator) -> int:
    """Brown eyes in two of three people."""
    eyes = library.textures_of("eyes")
    brown = [number for number in eyes if "brown" in library.names[number]]
    return int(rng.choice(brown if rng.uniform() < 0.6 else eyes))


def _skin(library: Library, attributes: tuple[str, ...], rng: np.random.Generator) -> int:
    fitting = [n for n in library.textures_of("skins") if library.names[n].startswith("skins/" + "_".join(attributes))]
    return int(rng.choice(fitting or library.textures_of("skins")))
