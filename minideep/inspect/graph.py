"""A picture of the graph behind a tensor: Graphviz's DOT, or an SVG without Graphviz."""

import html
import math
import re

from minideep.autograd import Node
from minideep.inspect.observe import display_name, path_and_line
from minideep.inspect.trace import arrays_of, check_tensors, nodes_behind, owner, short, size
from minideep.tensor import Tensor

__all__ = ["Graph", "graph"]


class Box:
    """One box of the picture: an op, a leaf, or all ops of a layer. lines: its text."""

    def __init__(self, kind, title):
        self.kind, self.title, self.shape, self.saved, self.seconds = kind, title, None, 0, 0.0
        self.group = None  # of a layer's box: its path
        self.path, self.line, self.count, self.sources = (), None, 0, {}

    @property
    def lines(self):
        text = [clean(self.title) + (f"  ({self.count} ops)" if self.kind == "layer" else "")]
        if self.shape is not None:
            text.append("x".join(map(str, self.shape)) or "scalar")
        if self.saved:
            text.append(f"saves {size(self.saved)}")
        if self.seconds:
            text.append(f"{1e3 * self.seconds:.3g} ms")
        return text


class Graph:
    """boxes, in the order of computation; each knows the boxes that it reads (`sources`: box ->
    shape of what comes from it). `dot` and `svg` are texts; save(path) writes either; a notebook
    shows the SVG."""

    def __init__(self, boxes):
        self.boxes = boxes

    @property
    def dot(self):
        """The graph in Graphviz's language."""
        names = {box: f"n{i}" for i, box in enumerate(self.boxes)}
        shapes = {"op": "box", "leaf": "ellipse", "layer": "folder"}
        lines = ["digraph {", "  rankdir=TB; node [fontname=Helvetica fontsize=10];"]
        for box, name in names.items():
            label = "\\n".join(line.replace("\\", "\\\\").replace('"', r'\"') for line in box.lines)
            lines.append(f'  {name} [shape={shapes[box.kind]} label="{label}"];')
        for box, name in names.items():
            for source, arrows in box.sources.items():
                for shape in arrows:
                    label = "x".join(map(str, shape))
                    lines.append(f'  {names[source]} -> {name} [label="{label}" fontsize=8];')
        return "\n".join([*lines, "}"])

    @property
    def svg(self):
        """The graph as an SVG, laid out here: no Graphviz needed. Light and dark, as the page."""
        places, width, height = layout(self.boxes)
        parts = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
                 f'width="{width:.0f}" height="{height:.0f}" font-family="Helvetica, sans-serif" '
                 f'font-size="12">{STYLE}']
        for box in self.boxes:
            x, y, w, h = places[box]
            for source, arrow in ((s, i - (len(arrows) - 1) / 2) for s, arrows in
                                  box.sources.items() for i in range(len(arrows))):
                x0, y0, w0, h0 = places[source]
                a, b = (x0 + w0 / 2 + 14 * arrow, y0 + h0), (x + w / 2 + 14 * arrow, y)
                bend = (y - y0 - h0) / 2
                parts.append(f'<path d="M{a[0]:.1f},{a[1]:.1f} C{a[0]:.1f},{a[1] + bend:.1f} '
                             f'{b[0]:.1f},{b[1] - bend:.1f} {b[0]:.1f},{b[1]:.1f}"/>')
        for box in self.boxes:
            x, y, w, h = places[box]
            hint = html.escape(clean(f"{'/'.join(box.path)} {short(box.line)}"))
            parts.append(f'<g class="{box.kind}"><title>{hint}</title><rect x="{x:.1f}" y="{y:.1f}" '
                         f'width="{w:.1f}" height="{h:.1f}" rx="{h / 2 if box.kind == "leaf" else 4}'
                         '"/>')
            for i, line in enumerate(box.lines):
                parts.append(f'<text x="{x + w / 2:.1f}" y="{y + 17 + 15 * i:.1f}"'
                             f'{BOLD if i == 0 else ""}>{html.escape(line)}</text>')
            parts.append("</g>")
        return "".join([*parts, "</svg>"])

    _repr_svg_ = svg.fget

    def save(self, path):
        """Write the picture: a path that ends with .svg or .dot says which."""
        path = str(path)
        if not path.endswith((".svg", ".dot")):
            raise ValueError(f"a graph is saved as .svg or .dot, not as {path!r}")
        with open(path, "w", encoding="utf-8") as file:
            file.write(self.svg if path.endswith(".svg") else self.dot)

    def __repr__(self):
        return f"<graph of {len(self.boxes)} boxes>"


def clean(text):
    """Without characters that XML and DOT cannot have."""
    return re.sub(r"[\x00-\x1f]", " ", str(text))


BOLD = ' font-weight="bold"'
STYLE = """<style>
text { text-anchor: middle; fill: #222 } path { fill: none; stroke: #888 }
rect { stroke: #777; fill: #eef } .leaf rect { fill: #efe } .layer rect { fill: #fec }
@media (prefers-color-scheme: dark) { text { fill: #eee }
rect { fill: #335 } .leaf rect { fill: #253 } .layer rect { fill: #642 } }
</style>"""


def graph(*tensors, depth=None, names=None, profile=None):
    """The graph behind tensors, as a `Graph`.

    depth: how many levels of layers to keep apart: 0 shows a whole model as one box, 1 each of its
    layers, None every op. Layers and lines are known of what ran inside `inspect.trace()` (or
    profile()). names: {tensor: name} or a model, for its weights. profile: an `inspect.Profile` of
    the run; it adds the time of the ops of each layer, forward and backward.
    """
    if depth is not None and depth < 0:
        raise ValueError(f"depth must be None or at least 0, got {depth}")
    if hasattr(names, "named_weights"):
        names = {tensor: name for name, tensor in names.named_weights().items()}
    boxes, of = {}, {}
    found = list(nodes_behind(check_tensors(tensors)))
    shapes = {t.node or t: t.shape for t in tensors}
    for node in found:
        if type(node) is Node:
            for edge, (shape, _) in zip(node.edges or (), node.likes):
                if edge is not None:
                    shapes[edge] = shape
    for node in reversed(list(_topological(tensors))):
        if isinstance(node, Tensor):
            key, kind, title = node, "leaf", (names or {}).get(node, "leaf")
            path, line = (), None
        else:
            path, line = path_and_line(node)
            key, kind, title = node, "op", display_name(node.op)
            if depth is not None and path:
                key, kind, title = path[:depth + 1], "layer", path[:depth + 1][-1]
        box = boxes.setdefault(key, Box(kind, title))
        box.group = key if kind == "layer" else None
        box.shape, box.path, box.line = shapes.get(node), path, box.line or line
        box.count += 1
        of[node] = box
        if type(node) is Node:
            for edge, (shape, _) in zip(node.edges or (), node.likes):
                if edge is not None and of[edge] is not box:
                    box.sources.setdefault(of[edge], []).append(shape)
    for row in _saved(found):
        of[row[0]].saved += row[1]
    if profile is not None:
        _times(boxes.values(), profile, depth)
    return Graph(_sources_first(boxes.values()))


def _sources_first(boxes):
    """The boxes, each after those that it reads. (A layer that is called twice may stand, as one
    box, both before and after another: then one of the two.)"""
    ordered, begun = {}, set()
    for box in boxes:
        stack = [] if box in begun else [(box, iter(box.sources))]
        begun.add(box)
        while stack:
            top, sources = stack[-1]
            for source in sources:
                if source not in begun:
                    begun.add(source)
                    stack.append((source, iter(source.sources)))
                    break
            else:
                ordered.setdefault(top)
                stack.pop()
    return list(ordered)


def _topological(tensors):
    """Nodes and leaves, each before what it was computed from; no recursion."""
    waiting, stack = {}, [t.node or t for t in tensors]
    roots = list(dict.fromkeys(stack))
    while stack:
        node = stack.pop()
        waiting[node] = waiting.get(node, 0) + 1
        if waiting[node] == 1 and type(node) is Node:
            stack.extend(e for e in node.edges or () if e is not None)
    for root in roots:
        waiting[root] -= sum(t.node is root or t is root for t in tensors)
    ready = [root for root in roots if waiting[root] == 0]
    while ready:
        node = ready.pop()
        yield node
        for edge in (node.edges or ()) if type(node) is Node else ():
            if edge is not None:
                waiting[edge] -= 1
                if not waiting[edge]:
                    ready.append(edge)


def _saved(found):
    """(node, bytes) of what each keeps, a buffer that several keep only once."""
    seen = {id(owner(leaf.data)) for leaf in found if isinstance(leaf, Tensor)}
    for node in found:
        if type(node) is Node:
            total = 0
            for _, array in arrays_of(node):
                base = owner(array)
                if id(base) not in seen:
                    seen.add(id(base))
                    total += int(base.nbytes)
            yield node, total


def _times(boxes, profile, depth):
    """A layer's box gets the time of all that ran in it; an op's the mean of the ops of that name,
    layer and line."""
    spent, alike = {}, {}
    for event in profile.events:
        key = event["op"], event["path"], event["line"]
        if depth is not None and event["path"]:
            key = event["path"][:depth + 1]
        spent[key] = spent.get(key, 0.0) + event["seconds"]
    key_of = {box: box.group or (box.title, box.path, box.line)
              for box in boxes if box.kind != "leaf"}
    for key in key_of.values():
        alike[key] = alike.get(key, 0) + 1
    for box, key in key_of.items():
        box.seconds = spent.get(key, 0.0) / alike[key]


def layout(boxes):
    """Places of the boxes, {box: (x, y, width, height)}, and the picture's size: rows by distance
    from the leaves, each row ordered by the mean place of what its boxes read (Sugiyama et al.
    1981)."""
    rows, row_of = {}, {}
    for box in boxes:
        row_of[box] = 1 + max((row_of[s] for s in box.sources if s in row_of), default=-1)
    for box in reversed(boxes):  # a leaf stands just above the first box that reads it
        readers = [row_of[b] for b in boxes if box in b.sources] if box.kind == "leaf" else []
        if readers:
            row_of[box] = min(readers) - 1
    for box in boxes:
        rows.setdefault(row_of[box], []).append(box)
    sizes = {box: (max(70, 7.2 * max(map(len, box.lines)) + 16), 10 + 15 * len(box.lines))
             for box in boxes}
    middle, places, y = {}, {}, 20.0
    for number in sorted(rows):
        row = rows[number]

        def wanted(box):
            ends = [middle[s] for s in box.sources if s in middle]
            return sum(ends) / len(ends) if ends else math.inf

        row.sort(key=wanted)
        total = sum(sizes[b][0] for b in row) + 24 * (len(row) - 1)
        known = [wanted(b) for b in row if wanted(b) < math.inf]
        x = (sum(known) / len(known) if known else 0) - total / 2
        height = max(sizes[b][1] for b in row)
        for box in row:
            w, h = sizes[box]
            places[box] = x, y, w, h
            middle[box] = x + w / 2
            x += w + 24
        y += height + 34
    left = min((p[0] for p in places.values()), default=0) - 20
    places = {box: (x - left, *rest) for box, (x, *rest) in places.items()}
    width = max((x + w for x, _, w, _ in places.values()), default=0) + 20
    return places, width, y
