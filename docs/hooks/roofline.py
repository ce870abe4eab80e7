"""The roofline of the kernels page as an SVG picture, drawn from the operations and bytes that docstrings state."""

import math

# name, operations an item, bytes an item; the docstring of each op states both (float32 unless said otherwise).
OPS = (
    ("extrema", 5, 4),
    ("log_weight_stats", 8, 4),
    ("resample", 60, 28),
    ("sor", 16, 16),
    ("hadamard_quantize, bfloat16", 256, 2.25),
    ("pfn_attention, 1024 slots", 4 * 1024, 16),
)
# name, bytes a second, operations a second outside of and on matrix units (vendors' data sheets).
DEVICES = (("H200", 4.8e12, 67e12, 989e12), ("TPU v5e", 0.82e12, 6.2e12, 197e12))
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 760, 420, 70, 50
_X, _Y = (0.25, 1024.0), (2e11, 2e15)


def _place(intensity, rate):
    def part(value, ends):
        return (math.log(value) - math.log(ends[0])) / (math.log(ends[1]) - math.log(ends[0]))

    x = _LEFT + part(intensity, _X) * (_WIDTH - _LEFT - 20)
    return x, _HEIGHT - _BOTTOM - part(rate, _Y) * (_HEIGHT - _BOTTOM - 20)


def svg() -> str:
    """The picture: a roof for each device, a dashed line for each op where it meets the roofs."""
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        'font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for i in range(-2, 11, 2):
        x, y = _place(2.0**i, _Y[0])
        out.append(f'<text x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{2.0**i:g}</text>')
    for rate, text in ((1e12, "1 T"), (1e13, "10 T"), (1e14, "100 T"), (1e15, "1000 T")):
        x, y = _place(_X[0], rate)
        out.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
        out.append(f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{_WIDTH - 20}" y2="{y:.1f}" stroke="#ddd"/>')
    for (name, bandwidth, scalar, matrix), colour in zip(DEVICES, ("#0072b2", "#d55e00")):
        for ceiling, dash in ((scalar, "5 3"), (matrix, "")):
            corner = ceiling / bandwidth
            points = [(_X[0], bandwidth * _X[0]), (corner, ceiling), (_X[1], ceiling)]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(*p) for p in points))
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-dasharray="{dash}"/>')
        x, y = _place(_X[1], matrix)
        out.append(f'<text x="{x:.1f}" y="{y - 6:.1f}" text-anchor="end" fill="{colour}">{name}</text>')
    for number, (name, operations, moved) in enumerate(OPS):
        x, y = _place(operations / moved, _Y[0])
        top = _place(operations / moved, DEVICES[0][1] * min(operations / moved, DEVICES[0][3] / DEVICES[0][1]))[1]
        out.append(
            f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x:.1f}" y2="{top:.1f}" stroke="#999" stroke-dasharray="2 3"/>'
        )
        out.append(f'<circle cx="{x:.1f}" cy="{top:.1f}" r="4" fill="#009e73"/>')
        side, anchor = (5, "start") if x < _WIDTH / 2 else (-5, "end")
        out.append(f'<text x="{x + side:.1f}" y="{y - 8 - 15 * number:.1f}" text-anchor="{anchor}">{name}</text>')
    x, y = _WIDTH / 2, _HEIGHT - 10
    out.append(f'<text x="{x}" y="{y}" text-anchor="middle">operations for each byte moved</text>')
    out.append(f'<text x="16" y="{_HEIGHT / 2}" transform="rotate(-90 16 {_HEIGHT / 2})" text-anchor="middle">')
    return "".join(out) + "operations a second</text></svg>"
