"""Textured triangles with holes to pixels: a z-buffer that tests alpha, a shadow map, and shading. Compiled by numba.

Screen convention as in `workshop.pictures.raster`: x right, y down, the first pixel's centre at (0, 0), depth grows
away from the camera.
"""

from __future__ import annotations

import numba
import numpy as np

_GAMMA = 2.2
_FLOOR = 0.02  # added to the brightness of what is given another colour: black hair has strands too
LINEAR = ((np.arange(256) / 255) ** _GAMMA).astype(np.float32)  # a texture's byte to light


def brightness(texture: np.ndarray) -> float:
    """Mean of what `shade` multiplies a replacing colour by, over the opaque part of a texture (P, P, 4) uint8."""
    opaque = texture[texture[..., 3] > 128]
    mean = (LINEAR[opaque[:, :3]] @ np.array([0.3, 0.55, 0.15])).mean() if len(opaque) else 0.0
    return float(mean + _FLOOR)


@numba.njit(cache=True, fastmath=True)
def draw(
    points: np.ndarray, faces: np.ndarray, uv: np.ndarray, texture: np.ndarray, cutoff: np.ndarray,
    textures: np.ndarray, height: int, width: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """The nearest triangle that is not transparent at each pixel.

    points (V, 3: x px, y px, depth), faces (F, 3), uv (F, 3, 2) in 0..1, texture (F,) into textures (T, P, P, 4) uint8.
    cutoff (F,): what alpha must exceed, 0..1; -1 for an opaque face seen from the front only. Alpha is compared with
    cutoff plus an ordered pattern, so that half transparent hair becomes half its pixels.

    Returns triangle (height, width) int32, -1 for none, bary (height, width, 3) float32 and depth (height, width).
    """
    size = textures.shape[1]
    triangle = np.full((height, width), -1, np.int32)
    depth = np.full((height, width), np.inf, np.float32)
    bary = np.zeros((height, width, 3), np.float32)
    for f in range(len(faces)):
        ax, ay, az = points[faces[f, 0], 0], points[faces[f, 0], 1], points[faces[f, 0], 2]
        bx, by, bz = points[faces[f, 1], 0], points[faces[f, 1], 1], points[faces[f, 1], 2]
        cx, cy, cz = points[faces[f, 2], 0], points[faces[f, 2], 1], points[faces[f, 2], 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or (area > 0 and cutoff[f] < 0):
            continue
        left, right = max(0, int(np.ceil(min(ax, bx, cx)))), min(width - 1, int(np.floor(max(ax, bx, cx))))
        top, bottom = max(0, int(np.ceil(min(ay, by, cy)))), min(height - 1, int(np.floor(max(ay, by, cy))))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1.0 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                z = u * az + v * bz + w * cz
                if z >= depth[y, x]:
                    continue
                if cutoff[f] >= 0:
                    s = u * uv[f, 0, 0] + v * uv[f, 1, 0] + w * uv[f, 2, 0]
                    t = u * uv[f, 0, 1] + v * uv[f, 1, 1] + w * uv[f, 2, 1]
                    j = min(max(int(s * size), 0), size - 1)
                    i = min(max(int(t * size), 0), size - 1)
                    pattern = ((x * 2 + y * 3) % 5) * 0.12 - 0.24
                    if textures[texture[f], i, j, 3] <= 255 * min(0.97, max(0.02, cutoff[f] + pattern)):
                        continue
                depth[y, x] = z
                triangle[y, x] = f
                bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = u, v, w
    return triangle, bary, depth


@numba.njit(cache=True, fastmath=True)
def shade(
    triangle: np.ndarray, bary: np.ndarray, faces: np.ndarray, uv: np.ndarray, vertices: np.ndarray,
    normals: np.ndarray, openness: np.ndarray, tint: np.ndarray, material: np.ndarray, look: np.ndarray,
    colour: np.ndarray, textures: np.ndarray, linear: np.ndarray, noise: np.ndarray, lights: np.ndarray,
    colours: np.ndarray, ambient: np.ndarray, shadow: np.ndarray, to_shadow: np.ndarray, softness: float,
    background: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Light (height, width, 3) float32 that the drawn triangles send to the camera, over background (linear too).

    vertices, normals (V, 3) in the camera's frame (x right, y down, z away), openness (V,) 0..1, tint (V, 3) factors on
    the albedo. material (F,) chooses a row of look (M, 8): first texture, second texture, share of the second, gloss,
    its exponent, how much of the texture's own colour is replaced by colour (M, 3) times its brightness, wrap, and
    strength of the noise; without replacement colour is a factor. noise (N, N) about 0. lights (L, 3) unit vectors
    towards lights of colours (L, 3), the first of which casts shadow (S, S): depths seen along to_shadow (3, 4),
    blurred over softness pixels. ambient (2, 3) from below and above.
    """
    height, width = triangle.shape
    size, grains, map_size = textures.shape[1], noise.shape[0], shadow.shape[0]
    out = background.copy()
    albedo = np.zeros(3, np.float32)
    for y in range(height):
        for x in range(width):
            f = triangle[y, x]
            if f < 0:
                continue
            m = material[f]
            nx, ny, nz, px, py, pz, s, t, sky = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            red, green, blue = 0.0, 0.0, 0.0
            for c in range(3):
                v, b = faces[f, c], bary[y, x, c]
                nx += b * normals[v, 0]
                ny += b * normals[v, 1]
                nz += b * normals[v, 2]
                px += b * vertices[v, 0]
                py += b * vertices[v, 1]
                pz += b * vertices[v, 2]
                s += b * uv[f, c, 0]
                t += b * uv[f, c, 1]
                sky += b * openness[v]
                red += b * tint[v, 0]
                green += b * tint[v, 1]
                blue += b * tint[v, 2]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / length, ny / length, nz / length
            distance = np.sqrt(px * px + py * py + pz * pz) + 1e-9
            vx, vy, vz = -px / distance, -py / distance, -pz / distance
            if nx * vx + ny * vy + nz * vz < 0 and look[m, 5] > 0:  # a strand of hair has two sides
                nx, ny, nz = -nx, -ny, -nz
            # Albedo: two textures mixed, bilinear.
            gx = min(max(s * size - 0.5, 0.0), size - 1.001)
            gy = min(max(t * size - 0.5, 0.0), size - 1.001)
            i, j = int(gy), int(gx)
            fy, fx = gy - i, gx - j
            one, two, share = int(look[m, 0]), int(look[m, 1]), look[m, 2]
            for c in range(3):
                value = 0.0
                for di in range(2):
                    wy = fy if di else 1 - fy
                    for dj in range(2):
                        weight = wy * (fx if dj else 1 - fx)
                        texel = linear[textures[one, i + di, j + dj, c]]
                        if share > 0:
                            texel += share * (linear[textures[two, i + di, j + dj, c]] - texel)
                        value += weight * texel
                albedo[c] = value
            brightness = 0.3 * albedo[0] + 0.55 * albedo[1] + 0.15 * albedo[2] + _FLOOR
            grain = 1.0
            if look[m, 7] != 0:
                coarse = noise[int(t * 1800) % grains, int(s * 1800) % grains]
                broad = noise[int(t * 500 + 37) % grains, int(s * 500) % grains]
                grain = max(0.2, 1.0 + look[m, 7] * (0.6 * coarse + 0.7 * broad))
            for c in range(3):
                plain = albedo[c] + look[m, 5] * (brightness - albedo[c])
                albedo[c] = min(plain * colour[m, c] * grain, 0.95)
            albedo[0] *= red
            albedo[1] *= green
            albedo[2] *= blue
            # Shadow of the first light: share of nearby map pixels that see this place.
            lit = 1.0
            if map_size > 1:
                qx = to_shadow[0, 0] * px + to_shadow[0, 1] * py + to_shadow[0, 2] * pz + to_shadow[0, 3]
                qy = to_shadow[1, 0] * px + to_shadow[1, 1] * py + to_shadow[1, 2] * pz + to_shadow[1, 3]
                qz = to_shadow[2, 0] * px + to_shadow[2, 1] * py + to_shadow[2, 2] * pz + to_shadow[2, 3]
                seen = 0.0
                for a in range(-1, 2):
                    for b2 in range(-1, 2):
                        i2, j2 = int(qy + a * softness + 0.5), int(qx + b2 * softness + 0.5)
                        inside = 0 <= i2 < map_size and 0 <= j2 < map_size
                        if not inside or qz < shadow[i2, j2] + 0.004 + 0.0015 * softness:
                            seen += 1.0
                lit = seen / 9
            up = 0.5 - 0.5 * ny
            shine = 0.0
            r, g, b3 = 0.0, 0.0, 0.0
            for k in range(len(lights)):
                cosine = nx * lights[k, 0] + ny * lights[k, 1] + nz * lights[k, 2]
                strength = lit if k == 0 else 1.0
                wrap = look[m, 6]
                # Red light travels furthest under skin: it wraps round the form more than blue.
                r += strength * max(0.0, (cosine + 1.5 * wrap) / (1 + 1.5 * wrap)) * colours[k, 0]
                g += strength * max(0.0, (cosine + wrap) / (1 + wrap)) * colours[k, 1]
                b3 += strength * max(0.0, (cosine + 0.8 * wrap) / (1 + 0.8 * wrap)) * colours[k, 2]
                if cosine > 0:
                    hx, hy, hz = lights[k, 0] + vx, lights[k, 1] + vy, lights[k, 2] + vz
                    toward = (nx * hx + ny * hy + nz * hz) / (np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
                    if toward > 0:
                        power = look[m, 3] * toward ** look[m, 4] * min(1.0, 4 * cosine)
                        shine += strength * power * (colours[k, 0] + colours[k, 1] + colours[k, 2]) / 3
            out[y, x, 0] = albedo[0] * (r + sky * (ambient[0, 0] * (1 - up) + ambient[1, 0] * up)) + shine
            out[y, x, 1] = albedo[1] * (g + sky * (ambient[0, 1] * (1 - up) + ambient[1, 1] * up)) + shine
            out[y, x, 2] = albedo[2] * (b3 + sky * (ambient[0, 2] * (1 - up) + ambient[1, 2] * up)) + shine
    return out
