"""The renderer's inner loops in numba, a row of samples or pixels after another: the formulas of `draw`,
`surface_normals`, `shade`, `light` and `ambient` in float64, without their temporaries.

Equal to those up to float32 rounding, under half a step of 8 bits. Every call writes its own rows, so the result does
not depend on the threads.
"""

from __future__ import annotations

from math import cos, exp, exp2, inf, pi, sin, sqrt

import numpy as np

from ...core.kernel_cpu import cached_njit
from ...ops.texture_sample import kernel_cpu as textures
from .. import ambient, draw, light, shade

TINY = 1e-37
CREASE_COS = draw.CREASE_COS
DIELECTRIC, SMOOTHEST = shade.DIELECTRIC, shade.SMOOTHEST
SHARPEST_EDGE, BLUR_PER_ALPHA, TERMINATOR = light.SHARPEST_EDGE, light.BLUR_PER_ALPHA, light.TERMINATOR
TAPS, STRENGTH, BIAS, GOLDEN_TURN, BLUR = (
    ambient.TAPS,
    ambient.STRENGTH,
    ambient.BIAS,
    ambient.GOLDEN_TURN,
    ambient.BLUR,
)
LOGISTIC = pi / sqrt(3.0)


def _compiled(function):
    return cached_njit(function, textures, ambient, draw, light, shade, error_model="numpy")


@_compiled
def read_samples(face, bary, materials, table, values):
    """Writes PBR values [S, 6] of samples face [S], bary [S, 3]. materials, table: see `quick.texture_arrays`."""
    material, factors, cutoff, uv, textured = materials
    texels, offset, height, width, wrap, nearest, channels = table
    one, scale = np.float32(1), np.float32(255)
    for s in range(len(face)):
        f = face[s]
        if f < 0:
            continue
        m = material[f]
        for c in range(6):
            values[s, c] = factors[m, c]
        if textured[m]:
            u = uv[f, 0, 0] * bary[s, 0] + uv[f, 1, 0] * bary[s, 1] + uv[f, 2, 0] * bary[s, 2]
            v = uv[f, 0, 1] * bary[s, 0] + uv[f, 1, 1] * bary[s, 1] + uv[f, 2, 1] * bary[s, 2]
            columns, rows, first = width[m, 0], height[m, 0], offset[m, 0]
            x0, x1, fx = textures.taps(u * np.float32(columns), columns, wrap[m, 0], nearest[m])
            y0, y1, fy = textures.taps((one - v) * np.float32(rows), rows, wrap[m, 1], nearest[m])
            w00, w01, w10, w11 = (one - fx) * (one - fy), fx * (one - fy), (one - fx) * fy, fx * fy
            above, below = first + y0 * columns, first + y1 * columns
            for c in range(texels.shape[1]):
                total = w00 * np.float32(texels[above + x0, c]) + w01 * np.float32(texels[above + x1, c])
                total += w10 * np.float32(texels[below + x0, c]) + w11 * np.float32(texels[below + x1, c])
                values[s, channels[c]] *= total / scale
        if cutoff[m] >= 0:
            values[s, 5] = np.float32(values[s, 5] >= cutoff[m])


@_compiled
def shade_samples(face, bary, mesh, values, view, lights, out):
    """Writes samples out [S, 8]: premultiplied tone-mapped linear colour, alpha, world normal, depth; 0 and inf where
    empty.

    mesh: faces, vertices, normals ([0, 3] for flat shading).  values: [S, 6] PBR.  view: position, back, orthographic.
    lights: see `quick._light_arrays`.
    """
    (px, py, pz), back, orthographic = view
    faces, vertices, axes = mesh
    boxes, sky, exposure = lights
    known, linear, current = (-1.0, -1.0, -1.0), (0.0, 0.0, 0.0), -1
    flat = a = b = c = (0.0, 0.0, 0.0)
    for s in range(len(face)):
        f = face[s]
        if f < 0:
            out[s, :7] = 0
            out[s, 7] = inf
            continue
        if f != current:
            current = f
            a, b, c = _corners(vertices, faces, f)
            flat = _flat_normal(a, b, c)
        u, v, w = np.float64(bary[s, 0]), np.float64(bary[s, 1]), np.float64(bary[s, 2])
        point = (a[0] * u + b[0] * v + c[0] * w, a[1] * u + b[1] * v + c[1] * w, a[2] * u + b[2] * v + c[2] * w)
        eye = back
        if not orthographic:
            eye = _unit((px - point[0], py - point[1], pz - point[2]))
        normal = flat
        if _dot(flat, eye) < 0:
            normal = (-flat[0], -flat[1], -flat[2])
        if len(axes):
            normal = _smooth_normal(axes, faces, f, (u, v, w), normal)
        behind = min(_dot(normal, eye), 0.0)
        normal = _unit((normal[0] - behind * eye[0], normal[1] - behind * eye[1], normal[2] - behind * eye[2]))
        color = (np.float64(values[s, 0]), np.float64(values[s, 1]), np.float64(values[s, 2]))
        if color != known:
            known, linear = color, (_linear(color[0]), _linear(color[1]), _linear(color[2]))
        surface = np.float64(values[s, 3]), min(max(np.float64(values[s, 4]), SMOOTHEST), 1.0)
        red, green, blue = _shade(normal, eye, linear, surface, boxes, sky, exposure)
        alpha = values[s, 5]
        out[s, 0], out[s, 1], out[s, 2], out[s, 3] = red * alpha, green * alpha, blue * alpha, alpha
        out[s, 4], out[s, 5], out[s, 6] = normal
        out[s, 7] = back[0] * (px - point[0]) + back[1] * (py - point[1]) + back[2] * (pz - point[2])


@_compiled
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@_compiled
def _unit(a):
    scale = 1 / sqrt(max(a[0] * a[0] + a[1] * a[1] + a[2] * a[2], TINY))
    return a[0] * scale, a[1] * scale, a[2] * scale


@_compiled
def _linear(value):
    """sRGB to linear."""
    return value / 12.92 if value <= 0.04045 else ((max(value, 0.0) + 0.055) / 1.055) ** 2.4


@_compiled
def _corner(vertices, i):
    return np.float64(vertices[i, 0]), np.float64(vertices[i, 1]), np.float64(vertices[i, 2])


@_compiled
def _corners(vertices, faces, f):
    return _corner(vertices, faces[f, 0]), _corner(vertices, faces[f, 1]), _corner(vertices, faces[f, 2])


@_compiled
def _flat_normal(a, b, c):
    """The unit normal of a triangle; 0 of a degenerate one."""
    u = _unit((b[0] - a[0], b[1] - a[1], b[2] - a[2]))
    v = _unit((c[0] - a[0], c[1] - a[1], c[2] - a[2]))
    return _unit((u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]))


@_compiled
def _smooth_normal(axes, faces, f, weight, flat):
    """The mean of the corners' axes, each turned to the side of `flat`, or `flat` at a crease."""
    x, y, z = 0.0, 0.0, 0.0
    for k in range(3):
        row = faces[f, k]
        nx, ny, nz = np.float64(axes[row, 0]), np.float64(axes[row, 1]), np.float64(axes[row, 2])
        along = nx * flat[0] + ny * flat[1] + nz * flat[2]
        share = weight[k] if along > 0 else -weight[k]
        if abs(along) < CREASE_COS:
            nx, ny, nz, share = flat[0], flat[1], flat[2], weight[k]
        x, y, z = x + nx * share, y + ny * share, z + nz * share
    return _unit((x, y, z))


@_compiled
def _shade(normal, eye, base, surface, boxes, sky, exposure):
    """Tone-mapped radiance, as `shade.shade_pbr` and `shade.tone_map`. surface: metallic, roughness."""
    metallic, roughness = surface
    cosine = min(max(_dot(normal, eye), 1e-4), 1.0)
    twice = 2 * cosine
    mirror = (twice * normal[0] - eye[0], twice * normal[1] - eye[1], twice * normal[2] - eye[2])
    r0 = 1 - roughness
    share = min(r0 * r0, exp2(-9.28 * cosine)) * r0 + 0.0425 - 0.0275 * roughness
    scale, bias = -1.04 * share + 1.04 - 0.572 * roughness, 1.04 * share - 0.04 + 0.022 * roughness
    again = 1 / (scale + bias) - 1
    plastic = (DIELECTRIC * scale + bias) * (1 + DIELECTRIC * again)
    diffuse, glossy = _irradiance(normal, boxes, sky, exposure), _radiance(mirror, roughness, boxes, sky, exposure)
    matte = (1 - metallic) * (1 - plastic)
    metal = (base[0] * scale + bias) * (1 + base[0] * again)
    red = base[0] * matte * diffuse[0] + (plastic + metallic * (metal - plastic)) * glossy[0]
    metal = (base[1] * scale + bias) * (1 + base[1] * again)
    green = base[1] * matte * diffuse[1] + (plastic + metallic * (metal - plastic)) * glossy[1]
    metal = (base[2] * scale + bias) * (1 + base[2] * again)
    blue = base[2] * matte * diffuse[2] + (plastic + metallic * (metal - plastic)) * glossy[2]
    return _tone_map(red, green, blue)


@_compiled
def _tone_map(red, green, blue):
    low = min(red, green, blue)
    shift = low - 6.25 * low * low if low < 0.08 else 0.04
    red, green, blue = red - shift, green - shift, blue - shift
    peak, start = max(red, green, blue), 0.8 - DIELECTRIC
    if peak < start:
        return red, green, blue
    room = 1 - start
    folded = 1 - room * room / (peak + room - start)
    white = 1 - 1 / (0.15 * (peak - folded) + 1)
    dim = folded / peak * (1 - white)
    return red * dim + white * folded, green * dim + white * folded, blue * dim + white * folded


@_compiled
def _environment(height, softness, sky):
    """The radiance without soft boxes; sky: [3, 3], above, level and below."""
    level = height / sqrt(height * height + softness * softness)
    side = 0 if level > 0 else 2
    share = level * level
    return (
        sky[1, 0] + share * (sky[side, 0] - sky[1, 0]),
        sky[1, 1] + share * (sky[side, 1] - sky[1, 1]),
        sky[1, 2] + share * (sky[side, 2] - sky[1, 2]),
    )


@_compiled
def _irradiance(normal, boxes, sky, exposure):
    """Irradiance / pi."""
    red, green, blue = _environment(normal[2], 1.0, sky)
    for b in range(boxes.shape[0]):
        facing = boxes[b, 0] * normal[0] + boxes[b, 1] * normal[1] + boxes[b, 2] * normal[2]
        cosine = (facing + sqrt(facing * facing + TERMINATOR * TERMINATOR)) / 2 - TERMINATOR * TERMINATOR / 4
        if cosine > 0:
            cosine *= boxes[b, 15]
            red, green, blue = (
                red + cosine * boxes[b, 12],
                green + cosine * boxes[b, 13],
                blue + cosine * boxes[b, 14],
            )
    return red * exposure, green * exposure, blue * exposure


@_compiled
def _edge_pair(tangent, half, scale):
    """sigmoid((tangent + half) scale) - sigmoid((tangent - half) scale), as sinh / (cosh + cosh)."""
    reach, place = half * scale, abs(tangent) * scale
    if place - reach > 20.0:
        return 0.0
    if reach > 20.0:
        return 1 / (1 + exp(place - reach))
    grown, spread = exp(place), exp(reach)
    return (spread - 1 / spread) / (spread + 1 / spread + grown + 1 / grown)


@_compiled
def _radiance(direction, roughness, boxes, sky, exposure):
    """Prefiltered radiance, as `light.radiance`."""
    alpha = roughness * roughness
    red, green, blue = _environment(direction[2], 0.12 + alpha, sky)
    scale = LOGISTIC / (SHARPEST_EDGE + BLUR_PER_ALPHA * alpha)
    for b in range(boxes.shape[0]):
        facing = boxes[b, 0] * direction[0] + boxes[b, 1] * direction[1] + boxes[b, 2] * direction[2]
        if facing <= 0:
            continue
        front = 1 / max(facing, 1e-3)
        across = boxes[b, 3] * direction[0] + boxes[b, 4] * direction[1] + boxes[b, 5] * direction[2]
        cover = _edge_pair(across * front, boxes[b, 9], scale)
        if cover > 0:
            along = boxes[b, 6] * direction[0] + boxes[b, 7] * direction[1] + boxes[b, 8] * direction[2]
            cover *= _edge_pair(along * front, boxes[b, 10], scale) * min(facing * 10, 1.0) * boxes[b, 11]
            red, green, blue = red + cover * boxes[b, 12], green + cover * boxes[b, 13], blue + cover * boxes[b, 14]
    wide = alpha * alpha
    red, green, blue = red * exposure, green * exposure, blue * exposure
    if wide > 1e-5:
        even = _irradiance(direction, boxes, sky, exposure)
        red, green, blue = (
            red + wide * (even[0] - red),
            green + wide * (even[1] - green),
            blue + wide * (even[2] - blue),
        )
    return red, green, blue


@_compiled
def resolve_pixels(layers, side, rows, color, alpha, normal, depth):
    """Resolves side x side samples of pixel rows first to last: mean colour [H, W, 3] and alpha [H, W], unit normal
    [H, W, 3], least depth [H, W]. layers: colour [H, W, 3], alpha, normal and depth of samples."""
    colors, alphas, normals, depths = layers
    share = 1.0 / (side * side)
    for y in range(rows[0], rows[1]):
        for x in range(alpha.shape[1]):
            red, green, blue, nx, ny, nz = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
            covered, nearest = 0.0, np.float32(inf)
            for v in range(y * side, y * side + side):
                for u in range(x * side, x * side + side):
                    if depths[v, u] == inf:
                        continue
                    nearest = min(nearest, depths[v, u])
                    covered += alphas[v, u]
                    red, green, blue = red + colors[v, u, 0], green + colors[v, u, 1], blue + colors[v, u, 2]
                    nx, ny, nz = nx + normals[v, u, 0], ny + normals[v, u, 1], nz + normals[v, u, 2]
            alpha[y, x], depth[y, x] = covered * share, nearest
            color[y, x, 0], color[y, x, 1], color[y, x, 2] = red * share, green * share, blue * share
            normal[y, x, 0], normal[y, x, 1], normal[y, x, 2] = _unit((nx, ny, nz))


@_compiled
def occlude(depth, normal, view, reach, rows, left):
    """Writes visibility [H, W], as `ambient.occlusion`. view: right, up, back [3, 3], scale [2], orthographic."""
    axes, scale, orthographic = view
    height, width = depth.shape
    turns = BLUR * BLUR
    ways = np.empty((turns, TAPS, 2))
    for start in range(turns):
        for tap in range(TAPS):
            angle = 2 * pi * (start / turns + tap * GOLDEN_TURN)
            far = ((tap + 0.5) / TAPS) ** 0.75
            ways[start, tap, 0], ways[start, tap, 1] = far * cos(angle), far * sin(angle)
    for y in range(rows[0], rows[1]):
        for x in range(width):
            near = np.float64(depth[y, x])
            if near == inf:
                left[y, x] = 1.0
                continue
            nx, ny, nz = np.float64(normal[y, x, 0]), np.float64(normal[y, x, 1]), np.float64(normal[y, x, 2])
            right = axes[0, 0] * nx + axes[0, 1] * ny + axes[0, 2] * nz
            up = axes[1, 0] * nx + axes[1, 1] * ny + axes[1, 2] * nz
            away = -(axes[2, 0] * nx + axes[2, 1] * ny + axes[2, 2] * nz)
            here = _eye_position(near, x, y, width, height, scale, orthographic)
            spread = 1.0 if orthographic else near
            radius = min(max(reach * scale[1] * height / 2 / spread, 2.0), max(height / 6, 2.0))
            start = ((x % BLUR) * BLUR + (y % BLUR) * 7) % turns
            taken = 0.0
            for tap in range(TAPS):
                tap_x = int(min(max(x + 0.5 + radius * ways[start, tap, 0], 0.0), width - 1.0))
                tap_y = int(min(max(y + 0.5 + radius * ways[start, tap, 1], 0.0), height - 1.0))
                far = np.float64(depth[tap_y, tap_x])
                if abs(far - near) >= reach:
                    continue
                there = _eye_position(far, tap_x, tap_y, width, height, scale, orthographic)
                dx, dy, dz = there[0] - here[0], there[1] - here[1], there[2] - here[2]
                square = dx * dx + dy * dy + dz * dz
                rise = (dx * right + dy * up + dz * away) / sqrt(max(square, 1e-30)) - BIAS
                if rise > 0:
                    taken += rise * max(1 - square / (reach * reach), 0.0)
            left[y, x] = max(1 - STRENGTH / TAPS * taken, 0.05)


@_compiled
def _eye_position(depth, x, y, width, height, scale, orthographic):
    spread = 1.0 if orthographic else depth
    return ((2 * x + 1) / width - 1) * spread / scale[0], (1 - (2 * y + 1) / height) * spread / scale[1], depth


@_compiled
def attenuate(values, depth, reach, rows, color):
    """Multiplies color [H, W, 3] by `values` [H, W] averaged over BLUR x BLUR pixels of similar depth, as
    `ambient.smoothed`."""
    height, width = depth.shape
    for y in range(rows[0], rows[1]):
        for x in range(width):
            if depth[y, x] == inf:
                continue
            total, count = 0.0, 0
            for v in range(max(0, y - BLUR // 2), min(height, y + BLUR - BLUR // 2)):
                for u in range(max(0, x - BLUR // 2), min(width, x + BLUR - BLUR // 2)):
                    if abs(depth[v, u] - depth[y, x]) < reach / 4:
                        total += values[v, u]
                        count += 1
            if count:
                for c in range(3):
                    color[y, x, c] *= total / count


@_compiled
def encode(alpha, rows, color):
    """Makes premultiplied linear color [H, W, 3] straight and sRGB, in place; alpha: [H, W]."""
    for y in range(rows[0], rows[1]):
        for x in range(alpha.shape[1]):
            if alpha[y, x] > 0:
                for c in range(3):
                    value = min(max(np.float64(color[y, x, c]) / max(alpha[y, x], 1e-6), 0.0), 1.0)
                    low = value <= 0.0031308
                    color[y, x, c] = value * 12.92 if low else 1.055 * value ** (1 / 2.4) - 0.055


__all__ = ["attenuate", "encode", "occlude", "read_samples", "resolve_pixels", "shade_samples"]
