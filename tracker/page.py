"""Building blocks of one self-contained HTML page: tables, line plots as SVG, pictures as JPEG.

No script, no network, nothing but this one file: it can be mailed. Light or dark as the reader's
system is; one column on a phone. A series has its number's colour in every plot and table.
"""

import base64
import math
from html import escape

import numpy as np

from tracker.opencv import import_cv2

COLOURS = 8     # series beyond begin again at the first colour, dashed


def page(title, lead, sections):
    """The whole page: title and lead are text, sections are (heading, HTML) pairs."""
    body = "".join(f"<section><h2>{escape(heading)}</h2>{content}</section>"
                   for heading, content in sections)
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
            f"<h1>{escape(title)}</h1><p class=lead>{escape(lead)}</p>{body}"
            "</main></body></html>\n")


def table(headings, rows, shade=()):
    """A table that scrolls sideways where it is too wide.

    rows: lists of a label and of cells; a cell is text or a number (three decimals; None and nan
    become a dash). shade: the columns (0: the first after the label) that are coloured by value,
    0 to 1, or "row" for all with the largest of each row in bold.
    """
    head = "".join(f"<th>{escape(h)}</th>" for h in headings)
    body = "".join(f"<tr><th>{label if label.startswith('<') else escape(label)}</th>"
                   f"{''.join(_cells(cells, shade))}</tr>" for label, *cells in rows)
    return (f"<div class=wide><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{body}</tbody></table></div>")


def _cells(cells, shade):
    numbers = [c for c in cells if isinstance(c, float) and not math.isnan(c)]
    for i, cell in enumerate(cells):
        if cell is None or isinstance(cell, float) and math.isnan(cell):
            yield "<td class=none>–</td>"
        elif not isinstance(cell, float):
            yield f"<td>{escape(str(cell))}</td>"
        else:
            coloured = shade == "row" or i in shade
            style = f" style='--v:{min(max(cell, 0), 1):.3f}'" if coloured else ""
            best = " best" * (shade == "row" and cell == max(numbers))
            yield f"<td class='{'heat' * coloured}{best}'{style}>{cell:.3f}</td>"


def series_label(number, name):
    """A name with its colour before it."""
    return f"<i class='{_series(number)}'></i>{escape(name)}"


def round_numbers(low, high, most):
    """The multiples of 1, 2 or 5 times a power of ten between two numbers, in at most so many steps."""
    unit = 10. ** math.floor(math.log10((high - low) / most))
    step = next(unit * s for s in (1, 2, 5, 10) if unit * s * most >= (high - low) * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(step * k, 10) for k in range(first, last + 1)]


def plot(title, x, curves, x_label, y_range=(0, 1), x_names=None, small=False):
    """Lines over x as SVG, with a legend in HTML.

    x: (n,) numbers; curves: (series' number, its name, (n,) values, nan leaves a gap) each;
    x_names: what stands below the places x, where they are no scale; small: without numbers and
    legend, for many in a grid.
    """
    x = np.asarray(x, float)
    width, height = (300, 90) if small else (420, 280)
    left, right, top, bottom = (4, 4, 4, 4) if small else (38, 10, 10, 42)
    low, high = y_range
    span = (x[-1] - x[0]) or 1

    def across(value):
        return left + (value - x[0]) / span * (width - left - right)

    def up(value):
        return height - bottom - (value - low) / (high - low) * (height - top - bottom)

    ticks = round_numbers(low, high, 2 if small else 5)
    parts = [f"<line class=grid x1={left} x2={width - right} y1={up(t):.1f} y2={up(t):.1f} />"
             for t in ticks]
    if not small:
        parts += [f"<text x={left - 6} y={up(t) + 4:.1f} text-anchor=end>{t:g}</text>"
                  for t in ticks]
        places = (list(zip(x, x_names)) if x_names else
                  [(t, f"{t:g}") for t in np.linspace(x[0], x[-1], 6)])
        parts += [f"<text x={across(p):.1f} y={height - bottom + 18} text-anchor=middle>"
                  f"{escape(str(name))}</text>" for p, name in places]
        parts.append(f"<text x={(left + width - right) / 2} y={height - 6} text-anchor=middle>"
                     f"{escape(x_label)}</text>")
    for number, name, values in curves:
        line = "".join(f"{'L' if drawn else 'M'}{across(px):.1f} {up(py):.1f}"
                       for px, py, drawn in _joined(x, values))
        parts.append(f"<path class='{_series(number)}' d='{line}'><title>{escape(name)}</title>"
                     "</path>")
        if x_names:
            parts += [f"<circle class='{_series(number)}' cx={across(px):.1f} cy={up(py):.1f} "
                      "r=3 />" for px, py, _ in _joined(x, values)]
    legend = "".join(f"<span>{series_label(number, name)}</span>" for number, name, _ in curves)
    return (f"<figure><figcaption>{escape(title)}</figcaption>"
            f"<svg viewBox='0 0 {width} {height}' role=img aria-label='{escape(title, True)}'>"
            f"{''.join(parts)}</svg>" + f"<div class=legend>{legend}</div>" * (not small)
            + "</figure>")


def _joined(x, values):
    drawn = False
    for px, py in zip(x, values):
        if py is None or not math.isfinite(py):
            drawn = False
            continue
        yield px, py, drawn
        drawn = True


def picture(image, text):
    """An image (H, W, 3) uint8 BGR inside the page; text: for those who do not see it."""
    good, data = import_cv2().imencode(".jpg", image, [import_cv2().IMWRITE_JPEG_QUALITY, 80])
    if not good:
        raise ValueError(f"an image of shape {image.shape} cannot be written as JPEG")
    return (f"<img alt='{escape(text, True)}' width={image.shape[1]} height={image.shape[0]} "
            f"src='data:image/jpeg;base64,{base64.b64encode(data).decode()}'>")


def grid(parts, narrow=300):
    """Parts side by side, each at least `narrow` pixels wide where the screen has them."""
    return f"<div class=grid style='--narrow:{narrow}px'>{''.join(parts)}</div>"


def _series(number):
    return f"s{number % COLOURS}" + " dashed" * (number >= COLOURS)


_LIGHT = ("#2468c9", "#c9560a", "#12805c", "#ab3a90", "#7d6200", "#6250c8", "#bb3347", "#5a646e")
_DARK = ("#7db1ff", "#ffa05c", "#56d4aa", "#f294d9", "#dcc04a", "#b0a4ff", "#ff8a96", "#a9b3bd")

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1c2127; --soft: #5b6570; --line: #dfe3e8;
  --plate: #f6f7f9; --heat: #2f9e6e; """ + "".join(
    f"--s{i}: {c}; " for i, c in enumerate(_LIGHT)) + """ }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --ink: #e6e9ed; --soft: #9aa5b1;
  --line: #2c333b; --plate: #1c2127; --heat: #37b27f; """ + "".join(
    f"--s{i}: {c}; " for i, c in enumerate(_DARK)) + """ } }
* { box-sizing: border-box }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 24px 16px 64px }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px }
h2 { font-size: 1.2rem; margin: 40px 0 12px }
.lead, .note, figcaption { color: var(--soft) } .lead { margin: 0 }
pre { font-size: .8rem; overflow-x: auto }
p, ul { max-width: 72ch } li { margin: 4px 0; overflow-wrap: anywhere }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: 4px 10px; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; white-space: pre-line }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--ground) }
tbody th { font-weight: 500 }
.heat { background: color-mix(in srgb, var(--heat) calc(var(--v) * 70%), transparent) }
.best { font-weight: 700 } .none { color: var(--soft) }
.grid { display: grid; gap: 20px;
  grid-template-columns: repeat(auto-fill, minmax(min(var(--narrow), 100%), 1fr)) }
figure { margin: 0; min-width: 0 } figcaption { font-size: .9rem; margin-bottom: 4px }
svg { display: block; width: 100%; height: auto; background: var(--plate); border-radius: 6px }
svg text { fill: var(--soft); font: 13px system-ui, sans-serif }
line.grid { stroke: var(--line) } path { fill: none; stroke-width: 2; stroke-linejoin: round }
.dashed { stroke-dasharray: 5 4 }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: .85rem; margin-top: 6px }
i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px }
.strip { display: flex; gap: 4px; flex-wrap: wrap } .moment { margin: 0 0 20px }
.strip img { border-radius: 4px; height: auto; max-width: 45vw }
""" + "".join(f"path.s{i}, circle.s{i} {{ stroke: var(--s{i}) }} "
              f"i.s{i}, circle.s{i} {{ background: var(--s{i}); fill: var(--s{i}) }}\n"
              for i in range(COLOURS))
