"""Style sheet of the report: one column on phones, grids on wide screens, light and dark mode."""

from __future__ import annotations

from xvlm.reports.draw import PREDICTED_COLOUR, TRUE_COLOUR
from xvlm.reports.svg import DARK, LIGHT, svg_css


def _variables(palette: dict[str, str]) -> str:
    return ":root{" + "".join(f"--{name}:{value};" for name, value in palette.items()) + "}"


_RULES = f"""
*{{box-sizing:border-box}}
html{{color-scheme:light dark;-webkit-text-size-adjust:100%}}
body{{margin:0;background:var(--page);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif}}
main{{max-width:1120px;margin:0 auto;padding:clamp(20px,5vw,56px) clamp(16px,4vw,40px) 64px}}
h1{{font-size:clamp(1.6rem,5vw,2.3rem);line-height:1.2;letter-spacing:-.02em;margin:0 0 .4em;
text-wrap:balance}}
h2{{font-size:1.25rem;letter-spacing:-.01em;margin:2.6em 0 .3em}}
h3{{font-size:1rem;margin:0 0 12px;font-weight:600}}
p{{margin:.3em 0 1em;max-width:68ch}}
.lead,.dim,.legend,section>p.intro{{color:var(--muted)}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin-top:24px}}
.tile,.card{{background:var(--paper);border:1px solid var(--line);border-radius:14px}}
.tile{{padding:16px 18px;font-size:.9rem;line-height:1.4;color:var(--muted)}}
.tile b{{display:block;font-size:1.8rem;line-height:1.2;letter-spacing:-.02em;font-weight:650;
color:var(--ink);font-variant-numeric:tabular-nums;overflow-wrap:anywhere}}
.target{{font-size:.82rem;margin-top:4px}}
.grid{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,290px),1fr));gap:16px;
margin:14px 0;align-items:start}}
.stack{{display:grid;grid-template-columns:minmax(0,1fr);gap:16px;margin:14px 0}}
.stack>p{{margin:0}}
.card{{margin:0;overflow:hidden;min-width:0}}
.card>img{{display:block;width:100%;height:auto;max-height:360px;object-fit:contain;background:var(--line)}}
.pair{{display:grid;grid-template-columns:1fr 1fr;gap:2px;background:var(--line)}}
.pair img{{display:block;width:100%;height:auto;aspect-ratio:1;object-fit:cover}}
figcaption dl,figcaption .ranks{{margin:8px 0}}
figcaption{{padding:12px 16px 14px;overflow-wrap:anywhere}}
.plot{{padding:8px 6px 4px}}
svg.v{{display:block;width:100%;height:auto;font-variant-numeric:tabular-nums}}
.badge{{font-size:.8rem;font-weight:600;margin-right:10px}}
.good{{color:var(--good)}}.bad{{color:var(--bad)}}
.dim{{font-size:.85rem;font-variant-numeric:tabular-nums;white-space:nowrap}}
.legend{{font-size:.88rem;margin-bottom:0;display:flex;flex-wrap:wrap;gap:2px 22px}}
.swatch{{display:inline-block;width:26px;height:0;border-top:3px solid {PREDICTED_COLOUR};
vertical-align:middle;margin-right:8px}}
.swatch.dashed{{border-top:3px dashed {TRUE_COLOUR}}}
.row{{display:flex;justify-content:space-between;gap:12px;align-items:baseline}}
.ranks{{list-style:none;margin:0;padding:0}}
.ranks li{{padding:6px 0;font-size:.92rem;line-height:1.4}}
.ranks li.true{{font-weight:600}}
.meter{{height:4px;border-radius:2px;background:var(--line);margin-top:4px;overflow:hidden}}
.meter i{{display:block;height:100%;border-radius:2px;background:var(--c0)}}
.true .meter i{{background:var(--good)}}
.strip{{padding:16px}}
.cells{{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(28%,130px),1fr));gap:10px}}
.cell img{{display:block;width:100%;aspect-ratio:1;object-fit:cover;border-radius:8px;background:var(--line)}}
.cell.true img{{outline:3px solid var(--good);outline-offset:1px}}
.cell .row{{font-size:.85rem;padding:5px 2px 0}}
dl{{margin:0;display:grid;grid-template-columns:auto minmax(0,1fr);gap:4px 14px;font-size:.95rem}}
dt{{color:var(--muted)}}dd{{margin:0}}
.scroll{{overflow-x:auto;padding:6px 16px}}
table{{border-collapse:collapse;width:100%;font-size:.93rem;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;padding:9px 24px 9px 0;border-bottom:1px solid var(--line);white-space:nowrap}}
th{{color:var(--muted);font-weight:500;font-size:.85rem}}
tbody tr:last-child td{{border-bottom:0}}
.n{{text-align:right}}
@media (min-width:1000px){{.grid{{grid-template-columns:repeat(3,minmax(0,1fr))}}}}
@media print{{.tile,.card{{break-inside:avoid}}}}
"""

PAGE_CSS = (
    _variables(LIGHT) + "@media (prefers-color-scheme:dark){" + _variables(DARK) + "}" + _RULES + svg_css()
)
