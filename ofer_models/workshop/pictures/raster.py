"""A small z-buffer rasterizer: triangles to pixels, then shading per pixel. Compiled by numba, about 2 ms a head.

Screen convention: x right, y down, the centre of the first pixel at (0, 0) as in OpenCV; depth grows with distance.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, fastmath=True)
def rasterize(points: np.ndarray, faces: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest front-facing triangle per pixel of points (V, 3: x px, y px, depth) and faces (F, 3).

    Returns triangle (height, width) int32, -1 for none, and bary (height, width, 3) float32.
    """
    triangle = np.full((height, width), -1, np.int32)
    depth = np.full((height, width), np.inf, np.float32)
    bary = np.zeros((height, width, 3), np.float32)
    for f in range(len(faces)):
        a, b, c = points[faces[f, 0]], points[faces[f, 1]], points[faces[f, 2]]
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area >= 0:  # counter-clockwise faces of a y-up model appear clockwise once y points down
            continue
        left = max(0, int(np.ceil(min(a[0], b[0], c[0]))))
        right = min(width - 1, int(np.floor(max(a[0], b[0], c[0]))))
        top = max(0, int(np.ceil(min(a[1], b[1], c[1]))))
        bottom = min(height - 1, int(np.floor(max(a[1], b[1], c[1]))))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((b[0] - x) * (c[1] - y) - (b[1] - y) * (c[0] - x)) / area
                v = ((c[0] - x) * (a[1] - y) - (c[1] - y) * (a[0] - x)) / area
                w = 1.0 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                z = u * a[2] + v * b[2] + w * c[2]
                if z < depth[y, x]:
                    depth[y, x] = z
                    triangle[y, x] = f
                    bary[y, x, 0], bary[y, x, 1], bary[y, x, 2] = u, v, w
    return triangle, bary


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals (V, 3) of vertices (V, 3)."""
    normals = np.zeros_like(vertices)
    for f in range(len(faces)):
        i, j, k = faces[f, 0], faces[f, 1], faces[f, 2]
        ux, uy, uz = vertices[j, 0] - vertices[i, 0], vertices[j, 1] - vertices[i, 1], vertices[j, 2] - vertices[i, 2]
        vx, vy, vz = vertices[k, 0] - vertices[i, 0], vertices[k, 1] - vertices[i, 1], vertices[k, 2] - vertices[i, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for n in (i, j, k):
            normals[n, 0] += nx
            normals[n, 1] += ny
            normals[n, 2] += nz
    for n in range(len(normals)):
        length = np.sqrt(normals[n, 0] ** 2 + normals[n, 1] ** 2 + normals[n, 2] ** 2) + 1e-12
        normals[n] /= length
    return normals


@numba.njit(cache=True, fastmath=True)
def shade(
    triangle: np.ndarray,
    bary: np.ndarray,
    faces: np.ndarray,
    normals: np.ndarray,
    paint_xy: np.ndarray,
    material: np.ndarray,
    openness: np.ndarray,
    paints: np.ndarray,
    lights: np.ndarray,
    colours: np.ndarray,
    ambient: np.ndarray,
    gloss: np.ndarray,
    background: np.ndarray,
) -> np.ndarray:
    """Colours (height, width, 3) float32: painted albedo under lights.

    normals (V, 3) point in camera axes (x right, y down, z away), paint_xy (V, 2) are pixel coordinates into the paint
    of the face's material (F,), openness (V,) in 0..1 darkens hollows, paints (M, P, P, 3) in 0..1, lights (n, 3) unit
    vectors towards the light with colours (n, 3), ambient (2, 3) from below and above, gloss (M,) specular strength by
    material, background (height, width, 3).
    """
    height, width = triangle.shape
    size = paints.shape[1]
    out = background.copy()
    for y in range(height):
        for x in range(width):
            f = triangle[y, x]
            if f < 0:
                continue
            nx, ny, nz, s, t, sky = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            for c in range(3):
                v, b = faces[f, c], bary[y, x, c]
                nx += b * normals[v, 0]
                ny += b * normals[v, 1]
                nz += b * normals[v, 2]
                s += b * paint_xy[v, 0]
                t += b * paint_xy[v, 1]
                sky += b * openness[v]
            length = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-9
            nx, ny, nz = nx / length, ny / length, nz / length
            s, t = min(max(s, 0.0), size - 1.001), min(max(t, 0.0), size - 1.001)
            i, j = int(t), int(s)
            fy, fx = t - i, s - j
            m = material[f]
            up = 0.5 - 0.5 * ny
            shine = 0.0
            red, green, blue = 0.0, 0.0, 0.0
            for k in range(len(lights)):
                cosine = nx * lights[k, 0] + ny * lights[k, 1] + nz * lights[k, 2]
                diffuse = max(0.0, 0.8 * cosine + 0.2)  # wrapped a little, as skin scatters
                red += diffuse * colours[k, 0]
                green += diffuse * colours[k, 1]
                blue += diffuse * colours[k, 2]
                if cosine > 0:  # Blinn's highlight towards a viewer at -z
                    hx, hy, hz = lights[k, 0], lights[k, 1], lights[k, 2] - 1.0
                    toward = (nx * hx + ny * hy + nz * hz) / (np.sqrt(hx * hx + hy * hy + hz * hz) + 1e-9)
                    if toward > 0:
                        shine += gloss[m] * toward**24 * (colours[k, 0] + colours[k, 1] + colours[k, 2]) / 3
            for c in range(3):
                albedo = (1 - fy) * ((1 - fx) * paints[m, i, j, c] + fx * paints[m, i, j + 1, c]) + fy * (
                    (1 - fx) * paints[m, i + 1, j, c] + fx * paints[m, i + 1, j + 1, c]
                )
                light = red if c == 0 else (green if c == 1 else blue)
                out[y, x, c] = sky * (albedo * (light + ambient[0, c] * (1 - up) + ambient[1, c] * up) + shine)
    return out
