"""What the scripts of the course share: figures with captions, and their pages.

A script is a list of cells: `# %% [markdown]` begins text, `# %%` begins code (jupytext's percent
format). It runs as it is, opens as a notebook, and `build` makes a page of it: each cell with what
it printed and drew.
"""

import base64
import contextlib
import html
import io
import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
OUTPUT = Path("course-output")

_collected = None  # while a page is made: the figures of the cell that runs


def scripts():
    """The course in order: {"01": path, ...}."""
    return {path.name[:2]: path for path in sorted(HERE.glob("[0-9][0-9]_*.py"))}


def show(picture, caption):
    """Show a matplotlib figure, or whatever has an `svg`, with what there is to see in it.

    In a notebook below the cell, on a page where it is made; a script saves it in course-output/.
    """
    if _collected is not None:
        _collected.append((picture, caption))
        return
    if "ipykernel" in sys.modules:
        from IPython.display import display
        display(picture)
        close_figures()  # or the notebook would show it again at the end of the cell
        print(caption)
        return
    OUTPUT.mkdir(exist_ok=True)
    stem = Path(sys._getframe(1).f_globals.get("__file__", "figure")).stem
    kind, data = encoded(picture)
    number = len(list(OUTPUT.glob(f"{stem}-*"))) + 1
    path = OUTPUT / f"{stem}-{number}.{kind}"
    path.write_bytes(data)
    print(f"[{path}] {caption}")


def encoded(picture):
    """("svg" or "png", bytes) of a picture."""
    if hasattr(picture, "svg"):
        return "svg", picture.svg.encode()
    file = io.BytesIO()
    picture.savefig(file, format="png", dpi=110)
    return "png", file.getvalue()


# ------------------------------------------------------------------------------------------- cells


class Cell:
    """kind: "text" or "code"; source; line: of its first line in the script; after a run `printed`
    and `figures`, a list of (picture, caption)."""

    def __init__(self, kind, source, line):
        self.kind, self.source, self.line = kind, source, line
        self.printed, self.figures = "", []


def cells(path):
    """The cells of a script."""
    found, kind, lines, start = [], None, [], 1

    def end():
        text = "\n".join(lines).strip("\n")
        if kind == "text":
            text = "\n".join(re.sub("^# ?", "", line) for line in text.splitlines())
        if kind and text.strip():
            skipped = next(i for i, line in enumerate(lines) if line.strip())
            found.append(Cell(kind, text, start + skipped))

    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("# %%"):
            end()
            kind, lines, start = "text" if "[markdown]" in line else "code", [], number + 1
        else:
            lines.append(line)
    end()
    return found


def run(path):
    """Run a script cell by cell: (its namespace, its cells with what they printed and drew)."""
    global _collected
    namespace = {"__name__": "__main__", "__file__": str(path)}
    found, before = cells(path), sys.path[:]
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    import course  # as the script does: not this module, if this one runs as `examples.course`
    try:
        for cell in found:
            if cell.kind == "code":
                course._collected, printed = cell.figures, io.StringIO()
                code = compile("\n" * (cell.line - 1) + cell.source, str(path), "exec")
                with contextlib.redirect_stdout(printed):
                    exec(code, namespace)
                cell.printed = printed.getvalue()
    finally:
        course._collected = None
        sys.path[:] = before
        close_figures()
    return namespace, found


def close_figures():
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def title(path):
    """The heading of a script's first cell, without its #."""
    return cells(path)[0].source.splitlines()[0].lstrip("# ")


def summary(path):
    """The first paragraph below the heading, as plain text."""
    paragraphs = cells(path)[0].source.split("\n\n")
    text = " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""
    return re.sub(r"[*`]", "", text)


# ------------------------------------------------------------------------------------------- pages


def build(folder=OUTPUT, only=None):
    """Run the scripts and write a page for each, and index.html: HTML with the figures inside.
    only: their numbers, all where not given. Returns the index's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in scripts().items():
        if only is None or number in only:
            print(f"{number} {title(path)}", flush=True)
            page = "\n".join(map(cell_html, run(path)[1]))
            write(folder / f"{path.stem}.html", title(path), page, number)
    items = "\n".join(
        f'<li><a href="{path.stem}.html">{html.escape(title(path))}</a><br>'
        f'{html.escape(summary(path))}</li>'
        for path in scripts().values())
    write(folder / "index.html", "minideep: the course",
          f"<h1>minideep: the course</h1>\n<p>From the first gradient to a tracked video. Each "
          f"lesson is a script in <code>examples/</code> that runs by itself and opens as a "
          f"notebook.</p>\n<ol class=course>{items}</ol>")
    return folder / "index.html"


def cell_html(cell):
    from markdown_it import MarkdownIt
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer
    if cell.kind == "text":
        return MarkdownIt().enable("table").render(cell.source)
    parts = [highlight(cell.source, PythonLexer(), HtmlFormatter())]
    if cell.printed.strip():
        parts.append(f"<pre class=printed>{html.escape(cell.printed.rstrip())}</pre>")
    for picture, caption in cell.figures:
        kind, data = encoded(picture)
        inner = data.decode() if kind == "svg" else (
            f'<img alt="{html.escape(caption)}" '
            f'src="data:image/png;base64,{base64.b64encode(data).decode()}">')
        parts.append(f"<figure>{inner}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "\n".join(parts)


def write(path, heading, body, number=None):
    from pygments.formatters import HtmlFormatter
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight")
                   for style in ("default", "github-dark"))
    names = list(scripts())
    links = ['<a href="index.html">The course</a>']
    if number is not None:
        at = names.index(number)
        for word, i in (("before", at - 1), ("next", at + 1)):
            if 0 <= i < len(names):
                other = scripts()[names[i]]
                links.append(f'<a href="{other.stem}.html">{word}: {html.escape(title(other))}</a>')
    navigation = f"<nav>{' · '.join(links)}</nav>"
    path.write_text(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(heading)}</title><style>{light}\n"
        f"@media (prefers-color-scheme: dark) {{ {dark} }}\n{STYLE}</style></head><body>"
        f"{navigation}<main>{body}</main>{navigation}</body></html>", encoding="utf-8")


STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #222; --soft: #f4f4f6; --line: #ddd;
  --link: #1a5fb4 }
@media (prefers-color-scheme: dark) { :root { --ground: #16181c; --text: #ddd; --soft: #22252b;
  --line: #3a3e46; --link: #7ab4ff } }
body { background: var(--ground); color: var(--text); font: 17px/1.55 Georgia, serif;
  max-width: 50rem; margin: 0 auto; padding: 1rem }
nav, figcaption, th { font: 14px/1.5 Helvetica, Arial, sans-serif }
a { color: var(--link) } nav { padding: .5rem 0 }
h1, h2, h3 { line-height: 1.2; font-family: Helvetica, Arial, sans-serif }
.highlight, pre.printed { background: var(--soft); border: 1px solid var(--line);
  border-radius: 6px; overflow-x: auto; padding: .1rem .8rem; font-size: 13.5px; line-height: 1.45 }
pre { margin: .6rem 0; overflow-x: auto }
pre.printed { border-left: 4px solid var(--line); padding: .6rem .8rem }
code { font-size: .85em } table { border-collapse: collapse; display: block; overflow-x: auto }
td, th { border: 1px solid var(--line); padding: .2rem .6rem }
figure { margin: 1.2rem 0 } figure img, figure svg { max-width: 100%; height: auto }
figcaption { color: #808080 } ol.course li { margin: .8rem 0 }
"""
