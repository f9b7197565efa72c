"""The frame of a page: style sheet, head, and the small pieces of HTML that every section uses.

One file, no script, no address outside itself: the content security policy in the head forbids the browser to load
anything but the pictures inside. Colours are the roles of `jepa.viz.style`, so drawings follow the page from light
to dark. `escape` is applied to every text that comes from a run.
"""

import html
from collections.abc import Iterable

from jepa.version import __version__
from jepa.viz.style import ROLES

_STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.5;
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,footer{max-width:1104px;margin:0 auto;padding:0 24px}
header{padding:40px 0 8px}
.kicker{margin:0;color:var(--muted);font-size:14px}
h1{margin:2px 0 12px;font-size:30px;line-height:1.2;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{margin:0 0 4px;font-size:20px;line-height:1.3}
h3{margin:22px 0 6px;font-size:15px}
section{margin:36px 0 0;padding:20px 0 0;border-top:1px solid var(--line)}
p{margin:0 0 10px;max-width:46em}
.lead{font-size:18px;line-height:1.5}
.note,figcaption,caption{color:var(--muted);font-size:14px}
a{color:var(--accent)}
nav{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:14px}
figure{margin:0;min-width:0}
svg.drawing{display:block;max-width:100%;height:auto}
.scroll{overflow-x:auto}
.curves{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:22px 24px;margin:12px 0 0}
.curves figcaption{color:var(--ink);font-weight:600;margin:0 0 2px}
.curves figcaption span{color:var(--muted);font-weight:400}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:0 0 6px;caption-side:top}
th{text-align:left;font-weight:600;font-size:14px;vertical-align:bottom}
th,td{padding:7px 28px 7px 0;vertical-align:top}
thead th{border-bottom:1px solid var(--muted);color:var(--muted);font-weight:500}
tbody tr+tr th,tbody tr+tr td{border-top:1px solid var(--line)}
.scores{margin:6px 0 30px}
.scores th small{display:block;color:var(--muted);font-weight:400}
.scores tbody th{font-weight:400;font-size:15px}
.scores .own th{color:var(--accent);font-weight:600}
.score{display:grid;grid-template-columns:2.5em auto;column-gap:10px;align-items:baseline}
.score b{font-weight:600;text-align:right}
.score small{color:var(--muted);white-space:nowrap}
.score .bar{grid-column:1/-1;display:block;max-width:100%;margin:2px 0 0 -4px}
.facts{margin:14px 0 8px}
.facts td,.facts th{padding:4px 32px 4px 0;font-size:14px}
.facts th{color:var(--muted);font-weight:400;white-space:nowrap;vertical-align:top}
.facts td{overflow-wrap:anywhere}
.facts thead th{color:var(--ink);font-weight:600}
.clip{margin:18px 0 0}
.clip h3{margin:0 0 6px;overflow-wrap:anywhere}
.strip{display:grid;grid-template-columns:13em 1fr;gap:0 16px;align-items:center;margin:0 0 4px}
.strip span{font-size:13px;color:var(--muted)}
.strip img{display:block;width:100%;height:auto}
.crisp{image-rendering:pixelated}
.key{display:flex;flex-wrap:wrap;gap:4px 20px;margin:0 0 8px;font-size:14px;color:var(--muted)}
.key i{display:inline-block;width:12px;height:12px;margin:0 6px 0 0;vertical-align:-1px;border-radius:2px}
details{margin:8px 0}
summary{cursor:pointer;font-size:15px}
pre{margin:8px 0 16px;padding:12px 14px;overflow-x:auto;border:1px solid var(--line);border-radius:6px;
 font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
code{font:.92em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
ul.notes{margin:8px 0;padding:0 0 0 1.1em;font-size:14px;color:var(--muted)}
footer{margin-top:48px;padding-bottom:40px;color:var(--muted);font-size:13px}
@media (max-width:640px){
 main,footer{padding:0 16px} h1{font-size:25px} .lead{font-size:17px} header{padding-top:24px}
 .strip{grid-template-columns:1fr;margin-bottom:10px}
 .scores thead{display:none} .scores,.scores caption,.scores tbody,.scores tr,.scores td{display:block}
 .scores tr{padding:10px 0;border-bottom:1px solid var(--line)} .scores th{display:block;padding:0 0 4px}
 .scores tbody tr+tr th,.scores tbody tr+tr td{border:0}
 .scores td{display:grid;grid-template-columns:6em 1fr;padding:3px 0} .scores td:empty{display:none}
 .scores td::before{content:attr(data-probe);color:var(--muted);font-size:14px}
 .facts th{padding-right:14px} .facts td{padding-right:12px}
}
@media print{body{font-size:13px} section{break-inside:avoid}}
"""


def escape(text: object) -> str:
    """Text as HTML, also inside quoted attributes."""
    return html.escape(str(text), quote=True)


def style_sheet() -> str:
    """CSS of the page, colours of both themes first."""
    light = ";".join(f"{role.variable}:{role.light}" for role in ROLES)
    dark = ";".join(f"{role.variable}:{role.dark}" for role in ROLES)
    scheme = f":root{{color-scheme:light dark;{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return scheme + _STYLE


def page(title: str, body: str) -> str:
    """A whole document around the sections."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        "style-src 'unsafe-inline'\">"
        f'<meta name="generator" content="jepa-video {escape(__version__)}">'
        f"<title>{escape(title)}</title><style>{style_sheet()}</style></head>\n"
        f"<body><main>\n{body}\n</main>"
        f"<footer>Made by <code>jepa report</code>, jepa-video {escape(__version__)}.</footer></body></html>\n"
    )


def section(name: str, title: str, content: str) -> str:
    """A section with its heading; `name` is the anchor."""
    return f'<section id="{escape(name)}"><h2>{escape(title)}</h2>\n{content}\n</section>'


def paragraph(text: str, kind: str = "") -> str:
    """Escaped text as a paragraph."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def note(text: str) -> str:
    """One line about something that is missing."""
    return paragraph(text, "note")


def notes(lines: Iterable[str]) -> str:
    """A list of remarks; empty for none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<ul class="notes">{items}</ul>' if items else ""


def folded(title: str, content: str) -> str:
    """Content that is shown on request; `content` is HTML."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def code_block(text: str) -> str:
    return f"<pre>{escape(text)}</pre>"
