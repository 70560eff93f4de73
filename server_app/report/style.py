"""The page's looks and its little script, as text: a Flower app carries no files of their kinds."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --raised: #f5f7f9; --text: #16191d; --quiet: #59616b; --rule: #dfe3e8; --grid: #e9ecef; --axis: #8a929c;
  --blue: #0b62a8; --orange: #c04a0b; --green: #0b7a57; --purple: #7b3fb5; --grey: #8b939d; --good: #0b7a57; --bad: #b3261e;
  --h0: #08406f; --h1: #1d6099; --h2: #3f82b8; --h3: #6ba3cd; --h4: #98c0de; --h5: #c3daec; --h6: #e6f0f8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #13161a; --raised: #1c2126; --text: #e9ecef; --quiet: #a5adb7; --rule: #31373e; --grid: #262b31; --axis: #7d8691;
    --blue: #6db3f2; --orange: #f59b5b; --green: #4fc79b; --purple: #c29bf0; --grey: #79828d; --good: #4fc79b; --bad: #ff8b80;
    --h0: #c4e1fb; --h1: #97c8f3; --h2: #6dabe1; --h3: #4a8bc4; --h4: #346a9a; --h5: #264b6d; --h6: #1d3348;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Helvetica Neue", "Liberation Sans", "DejaVu Sans", sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1360px; margin: 0 auto; padding: 28px clamp(16px, 3vw, 40px) 56px; }
h1 { font-size: clamp(1.5rem, 1.1rem + 1.6vw, 2.2rem); line-height: 1.2; margin: 2px 0 8px; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 14px; }
h3 { font-size: 1rem; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 78ch; }
section { margin-top: 36px; padding-top: 22px; border-top: 1px solid var(--rule); }
.eyebrow, .quiet, figcaption, .caption { color: var(--quiet); }
.eyebrow { margin: 0; overflow-wrap: anywhere; }
.eyebrow b { color: var(--text); font-weight: 600; }
.lead { font-size: 1.05rem; }
.status { display: inline-block; margin-left: 4px; padding: 0 9px; border: 1px solid currentColor; border-radius: 99px;
  font-size: .86em; color: var(--bad); }
.status.completed { color: var(--good); }
.skip { position: absolute; left: -9999px; }
.skip:focus { left: 16px; top: 8px; background: var(--page); padding: 6px 10px; z-index: 3; }
nav { margin-top: 20px; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: var(--blue); text-underline-offset: 3px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 158px), 1fr)); gap: 12px; margin: 20px 0 0; }
.tiles > div { background: var(--raised); border-radius: 8px; padding: 12px 16px; }
.tiles + p { margin: 10px 0 0; }
.tiles dt { color: var(--quiet); font-size: .92rem; }
.tiles dd { margin: 0; }
.tiles .value { font-size: 1.7rem; font-weight: 650; line-height: 1.25; letter-spacing: -.01em; }
.tiles .what { color: var(--quiet); font-size: .86rem; line-height: 1.35; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 30px 44px; }
figure { margin: 0 0 6px; min-width: 0; max-width: 560px; }
figure.wide { max-width: none; }
@media (min-width: 820px) { figure.wide { grid-column: span 2; } }
figcaption { font-size: .88rem; line-height: 1.45; margin-top: 6px; max-width: 64ch; }
svg.plot { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 12px; fill: var(--quiet); }
svg .label, svg .key { fill: var(--text); }
svg .middle { text-anchor: middle; } svg .end { text-anchor: end; }
svg .grid { stroke: var(--grid); } svg .axis { stroke: var(--axis); fill: none; }
svg .line { fill: none; stroke-width: 2.2; stroke-linejoin: round; } svg .thin { stroke-width: 1.2; }
svg .line.grey { stroke: var(--axis); } svg .level { stroke-width: 1.4; stroke-dasharray: 5 4; fill: none; }
svg .line.blue, svg .level.blue { stroke: var(--blue); } svg .line.orange, svg .level.orange { stroke: var(--orange); }
svg .line.green { stroke: var(--green); }
svg .mark { stroke: var(--page); stroke-width: 1; }
svg .blue { --c: var(--blue); } svg .orange { --c: var(--orange); } svg .green { --c: var(--green); }
svg .purple { --c: var(--purple); } svg .red { --c: var(--bad); } svg .grey { --c: var(--grey); }
svg .mark, svg .fill { fill: var(--c); }
svg .dot { fill: var(--c); fill-opacity: .55; stroke: var(--c); stroke-width: 1; }
svg .dot.on { fill-opacity: 1; stroke: var(--text); stroke-width: 2; }
svg .band { fill: var(--text); fill-opacity: 0; } svg .band.on { fill-opacity: .1; }
.heat { display: grid; grid-template-columns: auto 1fr; gap: 0 8px; }
.heat .rows { display: grid; font-size: .8rem; color: var(--quiet); text-align: right; align-items: center; line-height: 1; }
.heat .rows .chosen { color: var(--text); font-weight: 600; }
.heat svg { shape-rendering: crispEdges; }
.ends { display: flex; justify-content: space-between; gap: 8px; font-size: .8rem; color: var(--quiet); margin-top: 5px; }
.ends.key { justify-content: flex-start; align-items: center; }
.ramp { width: 140px; height: 10px; border-radius: 2px;
  background: linear-gradient(90deg, var(--h0), var(--h1), var(--h2), var(--h3), var(--h4), var(--h5), var(--h6)); }
.heat0 { fill: var(--h0); } .heat1 { fill: var(--h1); } .heat2 { fill: var(--h2); } .heat3 { fill: var(--h3); }
.heat4 { fill: var(--h4); } .heat5 { fill: var(--h5); } .heat6 { fill: var(--h6); }
.table { margin-top: 16px; min-width: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
.caption { margin: 0 0 6px; font-size: .9rem; }
th, td { padding: 4px 18px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--rule); }
table.numbers td, table.numbers thead th + th { text-align: right; white-space: nowrap; }
table:not(.numbers) td { overflow-wrap: anywhere; min-width: 5em; }
thead th { color: var(--quiet); font-weight: 500; } tbody th { font-weight: 500; }
details { margin-top: 16px; }
summary { cursor: pointer; color: var(--blue); width: fit-content; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 0 32px; margin: 8px 0 0; }
.pairs > div { display: flex; justify-content: space-between; gap: 16px; padding: 4px 0; border-bottom: 1px solid var(--rule);
  font-size: .9rem; }
.pairs dt { color: var(--quiet); } .pairs dd { margin: 0; text-align: right; overflow-wrap: anywhere; min-width: 0; }
:focus-visible { outline: 2px solid var(--blue); outline-offset: 3px; border-radius: 3px; }
#tip { position: fixed; z-index: 2; left: 0; top: 0; max-width: min(300px, 90vw); padding: 6px 10px; border-radius: 6px;
  white-space: pre-line; pointer-events: none; background: var(--text); color: var(--page); font-size: .82rem; line-height: 1.4;
  visibility: hidden; }
footer { margin-top: 40px; color: var(--quiet); font-size: .86rem; }
@media print {
  main { max-width: none; padding: 0; } nav, #tip { display: none; } figure, .tiles > div, tr { break-inside: avoid; }
}
"""

SCRIPT = """
(() => {
  const tip = document.body.appendChild(document.createElement("div"));
  tip.id = "tip"; tip.setAttribute("role", "status");
  let shown = null;
  const show = (mark) => {
    if (mark === shown) return;
    if (shown) shown.classList.remove("on");
    shown = mark;
    if (!mark) { tip.style.visibility = "hidden"; tip.textContent = ""; return; }
    mark.classList.add("on");
    tip.textContent = mark.dataset.tip;
    const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, at.left + at.width / 2 - own.width / 2), innerWidth - own.width - 8);
    const above = at.top - own.height - 8;
    tip.style.transform = `translate(${left}px, ${above > 8 ? above : Math.min(at.bottom + 8, innerHeight - own.height - 8)}px)`;
    tip.style.visibility = "visible";
  };
  document.addEventListener("pointerover", (event) => show(event.target.closest("[data-tip]")));
  document.addEventListener("pointerdown", (event) => show(event.target.closest("[data-tip]")));
  addEventListener("scroll", () => show(null), { passive: true });
  for (const plot of document.querySelectorAll("svg.plot")) {
    const marks = [...plot.querySelectorAll("[data-tip]")];
    if (!marks.length) continue;
    marks.sort((a, b) => a.getBoundingClientRect().left - b.getBoundingClientRect().left);
    plot.tabIndex = 0;
    plot.setAttribute("aria-description", "Arrow keys tell its numbers one by one");
    let place = -1;
    const steps = { ArrowRight: 1, ArrowLeft: -1 };
    plot.addEventListener("keydown", (event) => {
      if (event.key === "Escape") show(null);
      if (!(event.key in steps)) return;
      event.preventDefault();
      place = Math.min(Math.max(place + steps[event.key], 0), marks.length - 1);
      show(marks[place]);
    });
    plot.addEventListener("blur", () => show(null));
  }
})();
"""
