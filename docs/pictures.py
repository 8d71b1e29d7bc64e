"""Draws graphs as SVG: the examples of reasons and diagnoses, before and after `bnfold optimize`.

`python docs/pictures.py FOLDER` writes them all; the site does so while it is built. Nothing is drawn by hand.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import make_diagnoses
import make_reasons
from make_reasons import Example, model_of

import bnfold
from bnfold.errors import BnfoldError

FOLDER = Path(__file__).with_name("pictures")
_HEIGHT, _GAP, _MARGIN, _LETTER = 36, 24, 14, 7.2
_MOST = 14
"""Operators that are drawn; of a longer graph the first and last."""
_FILL = {"BatchNormalization": "#fde7c8", "input": "#e4e8ee", "output": "#e4e8ee", "more": "#ffffff"}
_PLAIN = "#dcebfa"


@dataclass
class _Box:
    """A node of the picture: `kind` chooses its colour, `under` is a second line."""

    kind: str
    title: str
    under: str = ""
    rank: int = 0
    x: float = 0.0

    @property
    def width(self) -> float:
        """Wide enough for both lines."""
        return max(56.0, _LETTER * len(self.title) + 18, 0.8 * _LETTER * len(self.under) + 18)

    @property
    def y(self) -> float:
        """The upper edge."""
        return _MARGIN + 22 + self.rank * (_HEIGHT + _GAP)


def picture(model: ModelProto, title: str) -> tuple[str, float, float]:
    """The graph as the inside of an SVG, its width and its height."""
    boxes, edges = _boxes_and_edges(model.graph)
    _rank(boxes, edges)
    width = _place(boxes, edges)
    width = max(width, _LETTER * len(title) + 2 * _MARGIN)
    height = max((box.y for box in boxes), default=0) + _HEIGHT + _MARGIN
    parts = [f'<text x="{_MARGIN}" y="{_MARGIN + 8}" class="t">{escape(title)}</text>']
    parts += [_edge(boxes[one], boxes[other]) for one, other in edges]
    parts += map(_box, boxes)
    return "\n".join(parts), width, height


def _boxes_and_edges(graph: GraphProto) -> tuple[list[_Box], list[tuple[int, int]]]:
    stored = {each.name for each in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    boxes: list[_Box] = []
    makers: dict[str, int] = {}
    edges: list[tuple[int, int]] = []
    nodes = [node for node in graph.node if node.op_type != "Constant"]
    stored |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
    used = {name for node in nodes for name in _reads(node)}
    for value in graph.input:
        if value.name in used and value.name not in stored:
            makers[value.name] = len(boxes)
            boxes.append(_Box("input", value.name))
    left_out = range(_MOST // 2, len(nodes) - _MOST // 2) if len(nodes) > _MOST else range(0)
    for position, node in enumerate(nodes):
        if position in left_out:
            if position == left_out.start:
                boxes.append(_Box("more", f"… {len(left_out)} more …"))
        else:
            boxes.append(_Box(node.op_type, node.op_type, ", ".join(name for name in node.input if name in stored)))
        here = len(boxes) - 1
        edges += [(makers[name], here) for name in _reads(node) if name in makers and makers[name] != here]
        makers |= dict.fromkeys((name for name in node.output if name), here)
    for value in graph.output:
        boxes.append(_Box("output", value.name))
        if value.name in makers:
            edges.append((makers[value.name], len(boxes) - 1))
    return boxes, list(dict.fromkeys(edges))


def _reads(node: NodeProto) -> Iterator[str]:
    """What a node reads, its bodies included."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in attribute.g.node if attribute.HasField("g") else ():
            yield from _reads(inner)


def _rank(boxes: Sequence[_Box], edges: Sequence[tuple[int, int]]) -> None:
    """A box below all that it reads; edges lead from earlier boxes to later ones."""
    for one, other in sorted(edges, key=lambda edge: edge[1]):
        boxes[other].rank = max(boxes[other].rank, boxes[one].rank + 1)


def _place(boxes: Sequence[_Box], edges: Sequence[tuple[int, int]]) -> float:
    """Side by side in each rank, in the order of what they read; the width of it all."""
    rows: dict[int, list[int]] = {}
    for index, box in enumerate(boxes):
        rows.setdefault(box.rank, []).append(index)
    above: Mapping[int, list[int]] = {
        index: [one for one, other in edges if other == index] for index in range(len(boxes))
    }
    centre: dict[int, float] = {}
    widths = {rank: sum(boxes[i].width for i in row) + _GAP * (len(row) - 1) for rank, row in rows.items()}
    widest = max(widths.values(), default=0.0)
    for rank, row in sorted(rows.items()):
        row.sort(key=lambda i: sum(centre[j] for j in above[i]) / len(above[i]) if above[i] else 0.0)
        x = _MARGIN + (widest - widths[rank]) / 2
        for index in row:
            boxes[index].x = x
            centre[index] = x + boxes[index].width / 2
            x += boxes[index].width + _GAP
    return widest + 2 * _MARGIN


def _edge(one: _Box, other: _Box) -> str:
    x1, y1, x2, y2 = one.x + one.width / 2, one.y + _HEIGHT, other.x + other.width / 2, other.y - 2
    if other.rank - one.rank == 1:
        return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" class="e"/>'
    # Around what stands between: out to the side, and back.
    side = max(x1, x2) + 40
    return (
        f'<path d="M{x1:.1f} {y1:.1f} C{side:.1f} {y1 + 20:.1f} {side:.1f} {y2 - 20:.1f} {x2:.1f} {y2:.1f}" class="e"/>'
    )


def _box(box: _Box) -> str:
    fill = _FILL.get(box.kind, _PLAIN)
    corner = _HEIGHT / 2 if box.kind in ("input", "output") else 5
    middle = box.x + box.width / 2
    down = box.y + (15 if box.under else 22)
    size = f'width="{box.width:.1f}" height="{_HEIGHT}"'
    parts = [
        f'<rect x="{box.x:.1f}" y="{box.y:.1f}" {size} rx="{corner}" fill="{fill}"/>',
        f'<text x="{middle:.1f}" y="{down:.1f}" class="n">{escape(box.title)}</text>',
    ]
    if box.under:
        parts.append(f'<text x="{middle:.1f}" y="{box.y + 29:.1f}" class="u">{escape(box.under)}</text>')
    return "".join(parts)


_STYLE = (
    "text{font-family:ui-monospace,Menlo,Consolas,monospace;fill:#1c2733}.n{font-size:12px;text-anchor:middle}"
    ".u{font-size:9.5px;text-anchor:middle;fill:#54606e}.t{font:600 12px system-ui,sans-serif}"
    "rect{stroke:#8896a6}.e{stroke:#54606e;fill:none;marker-end:url(#a)}"
)


_ARROW = (
    '<marker id="a" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" fill="#54606e"/></marker>'
)


def side_by_side(pictures: Sequence[tuple[str, float, float]], label: str) -> str:
    """Pictures beside each other as one SVG, which `label` describes to those who do not see it."""
    width, height = sum(each[1] for each in pictures), max(each[2] for each in pictures)
    size = f'width="{width:.0f}" height="{height:.0f}"'
    told = f'role="img" aria-label="{escape(label, quote=True)}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" {size} {told}>',
        f"<style>{_STYLE}</style>",
        f"<defs>{_ARROW}</defs>",
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="6" fill="#fbfcfd" style="stroke:none"/>',
    ]
    offset = 0.0
    for inside, own, _ in pictures:
        parts.append(f'<g transform="translate({offset:.0f} 0)">{inside}</g>')
        offset += own
    for (_, one, _), _ in pairwise(pictures):
        parts.append(f'<path d="M{one:.0f} 8 V{height - 8:.0f}" stroke="#d5dbe2"/>')
    return "\n".join([*parts, "</svg>\n"])


def _complete(example: Example) -> Example:
    """The example with numbers for every constant that only its test has."""
    while True:
        try:
            model_of(example)
        except KeyError as error:
            name = str(error.args[0]).partition("'")[2].partition("'")[0]
            example = replace(example, constants={**example.constants, name: np.ones(4, np.float32)})
        else:
            return example


def drawn(example: Example, code: str) -> str:
    """The graph of an example and, where bnfold writes one, what becomes of it."""
    model = model_of(_complete(example))
    pictures = [picture(model, "before")]
    if example.elsewhere:  # a model alone does not have it
        return side_by_side(pictures, f"{code}: the graph")
    try:
        after = bnfold.optimize(model, verify=False, **example.options).model
    except BnfoldError as error:
        return side_by_side(pictures, f"{code}: the graph, of which bnfold writes none: {type(error).__name__}")
    pictures.append(picture(after, "after bnfold optimize"))
    return side_by_side(pictures, f"{code}: the graph before and after bnfold optimize")


def pages() -> dict[str, Mapping[str, Example]]:
    """By page, the examples by their codes."""
    return {
        "reasons": {reason.code: example for reason, example in make_reasons.EXAMPLES.items()},
        "diagnoses": {diagnosis.code: example for diagnosis, example in make_diagnoses.EXAMPLES.items()},
    }


def name_of(page: str, code: str) -> str:
    """The file name of a picture."""
    return f"{page}-{code.lower().replace('_', '-')}.svg"


def write_all(folder: Path) -> None:
    """Write every picture into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for page, examples in pages().items():
        for code, example in examples.items():
            (folder / name_of(page, code)).write_text(drawn(example, code), encoding="utf-8")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
