"""Scan conversion and material sampling in numba: the steps and float32 order of `scan_lines` and `reference`.

Each kernel processes a range and writes only its own output: no locks, and no dependence on the number of threads.
"""

from __future__ import annotations

import numpy as np

from ...core.kernel_cpu import cached_njit

ONE = np.float32(1)
HALF = np.float32(0.5)
TWO = np.float32(2)
BYTE = np.float32(255)
MIRROR, CLAMP = 2, 1
MASK, OPAQUE = 1, 0
ALPHA = 5


@cached_njit
def _cell(position, size, count):
    return np.int64(min(max(position / size, 0.0), count - 1.0))


@cached_njit
def _mix(a, b, at, value_a, value_b):
    if a == b:
        return value_a
    alpha = (at - a) / (b - a)
    return (1.0 - alpha) * value_a + alpha * value_b


@cached_njit
def _bound(corners, voxel_size, shape):
    """Returns an upper bound of the keys that one triangle [3, 3] writes."""
    cells = np.empty(3, np.int64)
    for axis in range(3):
        low = min(corners[0, axis], corners[1, axis], corners[2, axis])
        high = max(corners[0, axis], corners[1, axis], corners[2, axis])
        size, count = np.float64(voxel_size[axis]), shape[axis]
        cells[axis] = _cell(np.float64(high), size, count) - _cell(np.float64(low), size, count) + 1
    return 4 * (cells[0] * cells[1] + cells[1] * cells[2] + cells[2] * cells[0])


@cached_njit
def _scan_axis(corners, axis, voxel_size, shape, out, used):
    """Writes the voxel numbers around the grid lines along `axis` that cross one triangle; returns the new `used`."""
    a0, a1 = (axis + 1) % 3, (axis + 2) % 3
    strides = (shape[1] * shape[2], shape[2], 1)
    p = np.empty((3, 3), np.float64)
    for i in range(3):
        p[i, 0], p[i, 1], p[i, 2] = corners[i, a0], corners[i, a1], corners[i, axis]
    for i in range(1, 3):
        j = i
        while j > 0 and p[j, 1] < p[j - 1, 1]:
            for k in range(3):
                p[j, k], p[j - 1, k] = p[j - 1, k], p[j, k]
            j -= 1
    size0, size1, size2 = np.float64(voxel_size[a0]), np.float64(voxel_size[a1]), np.float64(voxel_size[axis])
    middle = _cell(p[1, 1], size1, shape[a1])
    for row in range(_cell(p[0, 1], size1, shape[a1]), _cell(p[2, 1], size1, shape[a1])):
        y = np.float64(np.float32(row + 1) * voxel_size[a1])
        apex, far = (0, 2) if row < middle else (2, 0)
        x3 = _mix(p[apex, 1], p[1, 1], y, p[apex, 0], p[1, 0])
        z3 = _mix(p[apex, 1], p[1, 1], y, p[apex, 2], p[1, 2])
        x4 = _mix(p[apex, 1], p[far, 1], y, p[apex, 0], p[far, 0])
        z4 = _mix(p[apex, 1], p[far, 1], y, p[apex, 2], p[far, 2])
        if x3 > x4:
            x3, z3, x4, z4 = x4, z4, x3, z3
        for column in range(_cell(x3, size0, shape[a0]), _cell(x4, size0, shape[a0])):
            x = np.float64(np.float32(column + 1) * voxel_size[a0])
            height = _mix(x3, x4, x, z3, z4) / size2
            if height >= 0.0 and height < shape[axis]:
                base = column * strides[a0] + row * strides[a1] + np.int64(height) * strides[axis]
                out[used] = base
                out[used + 1] = base + strides[a1]
                out[used + 2] = base + strides[a0]
                out[used + 3] = base + strides[a0] + strides[a1]
                used += 4
    return used


@cached_njit
def scan_range(triangles, voxel_size, shape, tri_bits, first, last, out):
    """Writes the keys of triangles [first, last) to `out` [K] int64 while they are sure to fit.

    Returns (next triangle, keys written); if the next is `first`, `out` is too short: see `room_for`.
    """
    used = 0
    for t in range(first, last):
        if used + _bound(triangles[t], voxel_size, shape) > len(out):
            return t, used
        end = used
        for axis in range(3):
            end = _scan_axis(triangles[t], axis, voxel_size, shape, out, end)
        if end == used:
            continue
        found = np.sort(out[used:end])
        previous = np.int64(-1)
        for voxel in found:
            if voxel != previous:
                out[used] = (voxel << tri_bits) | t
                used += 1
                previous = voxel
    return last, used


@cached_njit
def room_for(triangle, voxel_size, shape):
    """Returns a sufficient length of `out` for one triangle [3, 3] float32."""
    return _bound(triangle, voxel_size, shape)


@cached_njit
def _wrapped(texel, size, mode):
    if mode == CLAMP:
        return min(max(texel, 0), size - 1)
    if mode == MIRROR:
        texel = texel % (2 * size)
        return min(texel, 2 * size - 1 - texel)
    return texel % size


@cached_njit
def _taps(position, size, mode, nearest):
    if nearest:
        low, weight = np.int64(np.floor(position)), np.float32(0)
    else:
        low = np.int64(np.floor(position - HALF))
        weight = position - np.float32(low) - HALF
    return _wrapped(low, size, mode), _wrapped(low + 1, size, mode), weight


@cached_njit
def _bilinear(texels, at, channels, wrap, nearest, u, v, out):
    """Writes to `out` [channels] the texel at (u, v) of the level `at` = (first byte, height, width)."""
    first, height, width = at[0], at[1], at[2]
    x0, x1, wx = _taps(u * np.float32(width), width, wrap[0], nearest)
    y0, y1, wy = _taps((ONE - v) * np.float32(height), height, wrap[1], nearest)
    w00, w10 = (ONE - wx) * (ONE - wy), wx * (ONE - wy)
    w01, w11 = (ONE - wx) * wy, wx * wy
    i00, i10 = first + (y0 * width + x0) * channels, first + (y0 * width + x1) * channels
    i01, i11 = first + (y1 * width + x0) * channels, first + (y1 * width + x1) * channels
    for c in range(channels):
        total = w00 * np.float32(texels[i00 + c]) + w10 * np.float32(texels[i10 + c])
        total = total + w01 * np.float32(texels[i01 + c])
        total = total + w11 * np.float32(texels[i11 + c])
        out[c] = total / BYTE


@cached_njit
def _read_tables(tables, lod, material, uv, fine, coarse, values):
    """Overwrites the textured channels of `values` [C] at uv = (u, v); `fine`, `coarse` are scratch."""
    texels, levels, last_level, wrap, nearest, channels, channel_count = tables
    for g in range(len(levels)):
        if last_level[g, material] < 0:
            continue
        n = channel_count[g]
        lower = np.floor(lod[g])
        fraction = lod[g] - lower
        level = np.int64(lower)
        modes, near = wrap[g, material], nearest[g, material]
        _bilinear(texels, levels[g, material, level], n, modes, near, uv[0], uv[1], fine)
        if fraction > 0:
            _bilinear(texels, levels[g, material, level + 1], n, modes, near, uv[0], uv[1], coarse)
        for c in range(n):
            value = fine[c]
            if fraction > 0:
                value = (ONE - fraction) * fine[c] + fraction * coarse[c]
            values[channels[g, c]] = value


@cached_njit
def _project(plane, point, flat_sine):
    """Returns (barycentrics of the last two corners, signed distance) of `point` [3] over one row of Scene.plane."""
    ox, oy, oz = point[0] - plane[0], point[1] - plane[1], point[2] - plane[2]
    distance = ox * plane[9] + (oy * plane[10] + oz * plane[11])
    ox = (point[0] - distance * plane[9]) - plane[0]
    oy = (point[1] - distance * plane[10]) - plane[1]
    oz = (point[2] - distance * plane[11]) - plane[2]
    d20 = ox * plane[3] + (oy * plane[4] + oz * plane[5])
    d21 = ox * plane[6] + (oy * plane[7] + oz * plane[8])
    d00, d01, d11, determinant = plane[12], plane[13], plane[14], plane[15]
    zero = np.float32(0)
    if determinant <= flat_sine * d00 * d11:
        along, square = (d20, d00) if d00 >= d11 else (d21, d11)
        on_edge = min(max(along / square, zero), ONE) if square > zero else zero
        return (on_edge, zero, distance) if d00 >= d11 else (zero, on_edge, distance)
    v = (d11 * d20 - d01 * d21) / determinant
    w = (d00 * d21 - d01 * d20) / determinant
    return v, w, distance


@cached_njit
def _blend(corners, count, u, v, w, out):
    """Interpolates three corners' values, `corners` [3 count]."""
    for k in range(count):
        out[k] = u * corners[k] + v * corners[count + k] + w * corners[2 * count + k]


@cached_njit
def _bend_normal(values, at, smooth, tangents, factors, textured):
    """Turns the three texels at `at` into a normal in place; without a texture, writes the smooth normal."""
    if not textured:
        values[at : at + 3] = smooth
        return
    x = (values[at] * TWO - ONE) * factors[at]
    y = (values[at + 1] * TWO - ONE) * factors[at + 1]
    z = (values[at + 2] * TWO - ONE) * factors[at + 2]
    for k in range(3):
        values[at + k] = (x * tangents[k] + y * tangents[3 + k]) + z * smooth[k]
    a, b, c = values[at], values[at + 1], values[at + 2]
    length = np.sqrt(a * a + (b * b + c * c))
    if length > np.float32(0):
        for k in range(3):
            values[at + k] = values[at + k] / length


@cached_njit
def _alpha(alpha, mode, cutoff):
    if mode == OPAQUE:
        return ONE
    if mode == MASK:
        return ONE if alpha >= cutoff else np.float32(0)
    return alpha


@cached_njit
def means_range(voxels, triangles, ends, span, surface, materials, tables, settings, out):
    """Writes the weighted means of voxels span = (first, last) to `out` [N, C] float32.

    voxels: [N, 3], triangles: [P], ends: [N], all int64, as `reference.weighted_means`.
    surface: (plane, uv, colors, normals, tangents, lod, material), with width 0 for tables the scene lacks.
    materials: (factors, alpha_mode, alpha_cutoff, normal_table).  settings: (voxel_size, side, normal_at, flat_sine,
    least_weight).
    """
    plane, uv, colors, normals, tangents, lod, material_of = surface
    factors, alpha_mode, alpha_cutoff, normal_table = materials
    voxel_size, side, normal_at, flat_sine, least_weight = settings
    count = out.shape[1]
    plain = count if normal_at < 0 else normal_at
    values, sums = np.empty(count, np.float32), np.empty(count, np.float32)
    fine, coarse = np.empty(count, np.float32), np.empty(count, np.float32)
    point, place = np.empty(3, np.float32), np.zeros(2, np.float32)
    tint, smooth = np.empty(4, np.float32), np.empty(3, np.float32)
    for n in range(span[0], span[1]):
        start = ends[n - 1] if n > 0 else 0
        total = np.float32(0)
        sums[:] = 0
        for k in range(3):
            point[k] = (np.float32(voxels[n, k]) + HALF) * voxel_size[k]
        for pair in range(start, ends[n]):
            t = triangles[pair]
            material = material_of[t]
            v, w, distance = _project(plane[t], point, flat_sine)
            u = (ONE - v) - w
            values[:] = 1
            if uv.shape[1]:
                _blend(uv[t], 2, u, v, w, place)
                _read_tables(tables, lod[t], material, place, fine, coarse, values)
            if normal_at >= 0:
                _blend(normals[t], 3, u, v, w, smooth)
                textured = normal_table >= 0 and tables[2][normal_table, material] >= 0
                _bend_normal(values, normal_at, smooth, tangents[t], factors[material], textured)
            for c in range(plain):
                values[c] = values[c] * factors[material, c]
            if colors.shape[1]:
                _blend(colors[t], 4, u, v, w, tint)
                for c in range(4):
                    channel = c if c < 3 else ALPHA
                    values[channel] = values[channel] * min(max(tint[c], np.float32(0)), ONE)
            values[ALPHA] = _alpha(values[ALPHA], alpha_mode[material], alpha_cutoff[material])
            weight = max(ONE - distance / side, least_weight)
            total = total + weight
            for c in range(count):
                sums[c] = sums[c] + values[c] * weight
        for c in range(count):
            out[n, c] = sums[c] / total if ends[n] > start else np.float32(0)
