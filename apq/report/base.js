// What the scripts of a page share: its data, words for numbers and names, Vega's pictures, tables.
// Texts of files are only ever set as text, and data fields have fixed names, so no name of a file
// means anything here.
"use strict";
globalThis.apqPage = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs;
  const given = runs.length; // what an explorer's server answers comes behind, and takes turns there
  const byId = (id) => document.getElementById(id);
  const views = new Map();

  // ---- numbers and words

  const GAIN = "accuracy";
  const number = (v) => (v == null ? "–" : String(Number(v.toPrecision(4))));
  const percent = (v, digits = 2) => (v == null ? "–" : `${(100 * v).toFixed(digits)}%`);
  const show = (name, v) => (name === GAIN ? percent(v) : number(v));
  // a name that turns the writing direction turns its own alone: it stands in an isolate
  const TURNS = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069]/;
  const isolated = (text) => (TURNS.test(text) ? `\u2068${text}\u2069` : text);
  const brief = (text, most = 60) => isolated(text.length > most ? `${text.slice(0, most - 1)}…` : text);
  const metricsOf = () => [...new Set(runs.flatMap((run) => run.metrics))];
  const ofFront = (run, name) => (name === GAIN ? run.front.accuracy : run.front.costs[name]);
  const value = (at, name) => {
    const column = ofFront(runs[at.run], name);
    return column ? column[at.row] : null;
  };
  const spread = (at) => runs[at.run].front.spread[at.row];
  const promise = (at) => percent(value(at, GAIN)) + (spread(at) == null ? "" : ` ± ${percent(spread(at))}`);
  const count = (n) => (n == null ? "" : n.toLocaleString("en"));

  function sentence(at) {
    const run = runs[at.run];
    const costs = run.metrics.map((m) => `${brief(m)} ${number(value(at, m))}`);
    const name = runs.length > 1 ? `${brief(run.name)}, ` : "";
    return `${name}accuracy ${promise(at)}; ${costs.join(", ")}`;
  }

  function unpack(packed) {
    const raw = Uint8Array.from(atob(packed.base64), (c) => c.charCodeAt(0));
    return packed.bytes === 1 ? raw : new Uint16Array(raw.buffer);
  }
  const whichOf = new WeakMap();
  function optionOf(block, row) {
    if (!whichOf.has(block)) whichOf.set(block, unpack(block.which));
    const at = whichOf.get(block)[row];
    return at < block.options.length ? at : null; // null: the block is skipped
  }

  // ---- drawing

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colours = () => [0, 1, 2, 3, 4, 5, 6].map((i) => css(`--run${i}`));
  function theme() {
    const ink = css("--ink"), quiet = css("--quiet"), line = css("--line");
    const font = "system-ui, sans-serif";
    return {
      background: null,
      font,
      view: { stroke: null },
      axis: {
        labelColor: quiet, titleColor: ink, gridColor: line, gridOpacity: 0.6, domainColor: line,
        tickColor: line, labelFontSize: 12, titleFontSize: 13, titleFontWeight: "normal", labelLimit: 130,
        titleLimit: 260,
      },
      legend: {
        labelColor: ink, titleColor: ink, labelFontSize: 12, labelLimit: 230, orient: "bottom",
        columns: 2, symbolSize: 90, title: null,
      },
      text: { color: ink },
    };
  }
  async function draw(element, spec) {
    const before = views.get(element);
    if (before) before.finalize();
    const compiled = vegaLite.compile({ config: theme(), ...spec }).spec;
    const runtime = vega.parse(compiled, null, { ast: true });
    element.replaceChildren();
    const said = element.getAttribute("aria-label");
    const view = new vega.View(runtime, {
      container: element, renderer: "canvas", hover: false, expr: vega.expressionInterpreter,
      logLevel: vega.Warn,
    });
    views.set(element, view);
    element.setAttribute("role", "img"); // Vega makes it a document, of which a canvas shows nothing
    element.setAttribute("aria-label", said);
    await view.runAsync();
    return view;
  }
  const wide = (element, least = 240) => Math.max(least, element.clientWidth);

  function extent(values, log) {
    let low = Infinity, high = -Infinity;
    for (const v of values) if (v != null && (!log || v > 0)) { low = Math.min(low, v); high = Math.max(high, v); }
    if (low > high) return [0, 1];
    if (low === high) { const room = Math.abs(low) * 0.05 || 0.5; return [low - room, high + room]; }
    const room = 0.05 * (high - low);
    return log ? [low / 1.02, high * 1.02] : [low - room, high + room];
  }

  function cell(row, text, tag = "td", kind = "") {
    const element = document.createElement(tag);
    element.textContent = text;
    if (tag === "th") element.scope = kind || "row";
    row.append(element);
    return element;
  }

  function row(table, texts, tag = "td", kind = "") {
    const line = table.insertRow();
    texts.forEach((text, i) => cell(line, text, i === 0 && tag === "td" ? "th" : tag, i === 0 && tag === "td" ? "row" : kind));
    return line;
  }

  // what a picture calls things: short, and told apart where that makes them equal
  function labels(names, most) {
    const seen = new Map();
    return names.map((name) => {
      const text = brief(name, most), count = (seen.get(text) || 0) + 1;
      seen.set(text, count);
      return count > 1 ? `${text} (${count})` : text;
    });
  }

  return {
    data, runs, given, byId, views, GAIN, number, percent, show, brief, metricsOf, ofFront, value,
    spread, promise, count, sentence, optionOf, css, colours, draw, wide, extent, row, labels,
  };
})();
