// Draws the runs of a page (apq/report/view.py says what the data are).
"use strict";
(() => {
  const {
    runs, given, byId, views, GAIN, number, percent, show, brief, metricsOf, ofFront,
    value, spread, promise, count, sentence, optionOf, css, colours, draw, wide, extent, row, labels,
  } = globalThis.apqPage;
  const state = { a: null, b: null, x: "", y: "accuracy", walk: 0, walkRun: 0, choice: "" };

  // ---- the front

  const SHAPES = ["circle", "triangle-up", "square", "diamond", "cross", "triangle-down", "triangle-left"];
  function series() {
    const palette = colours(), several = given > 1, out = [];
    runs.forEach((run, r) => {
      const colour = r < given ? palette[r % palette.length] : css("--ink");
      out.push({ key: runs.length > 1 ? run.name : "front", colour, shape: SHAPES[r < given ? r % 7 : 3], run: r, of: null });
      run.baselines.forEach((base, i) => {
        if (!base.found || !byId("beside").checked) return;
        const key = several ? `${brief(run.name, 16)}: ${base.name}` : base.name;
        const tint = several ? colour : palette[(i + 1) % palette.length];
        out.push({ key, colour: tint, shape: SHAPES[1 + (i % 6)], run: r, of: base });
      });
    });
    const keys = labels(out.map((kind) => kind.key), 40);
    return out.map((kind, i) => ({ ...kind, key: keys[i] }));
  }

  function points(kinds) {
    const { x, y } = state, out = [];
    for (const kind of kinds) {
      const run = runs[kind.run];
      if (kind.of) {
        const at = (from, i) => (i == null ? from : from?.[i]);
        const add = (from, i, chosen) => {
          const px = at(from(x), i), py = at(from(y), i);
          if (px != null && py != null) out.push({ x: px, y: py, s: kind.key, big: chosen, base: kind.of.name });
        };
        const length = kind.of.front.accuracy?.length || 0;
        for (let i = 0; i < length; i++) add((n) => kind.of.front[n], i, false);
        add((n) => (n === GAIN ? kind.of.accuracy : kind.of.costs[n]), null, true);
        continue;
      }
      const xs = ofFront(run, x), ys = ofFront(run, y), error = run.front.spread;
      if (!xs || !ys) continue;
      for (let i = 0; i < xs.length; i++) {
        if (xs[i] == null || ys[i] == null) continue;
        const point = { x: xs[i], y: ys[i], s: kind.key, c: kind.colour, run: kind.run, row: i, big: false };
        if (y === GAIN && error[i] != null) Object.assign(point, { lo: ys[i] - error[i], hi: ys[i] + error[i] });
        if (x === GAIN && error[i] != null) Object.assign(point, { left: xs[i] - error[i], right: xs[i] + error[i] });
        out.push(point);
      }
    }
    return out;
  }

  function scoredPoints() {
    const { x, y } = state;
    return runs.flatMap((run) => {
      const xs = run.scored[x], ys = run.scored[y];
      return xs && ys ? xs.map((v, i) => ({ x: v, y: ys[i] })).filter((p) => p.x != null && p.y != null) : [];
    });
  }

  function limitLines() {
    const lines = [];
    for (const run of runs)
      for (const [name, v] of Object.entries(run.limits)) {
        if (name === state.x && !lines.some((l) => l.lx === v)) lines.push({ lx: v, t: `budget ${number(v)}` });
        if (name === state.y && !lines.some((l) => l.ly === v)) lines.push({ ly: v, t: `budget ${show(name, v)}` });
      }
    return lines;
  }

  const axisOf = (name, across) => ({
    title: name === GAIN ? "predicted accuracy" : brief(name),
    format: name === GAIN ? ".1%" : "~g",
    ...(across ? { labelAngle: 0, labelOverlap: true, tickCount: Math.max(3, Math.round(wide(byId("front-chart")) / 90)) } : {}),
  });

  let shown = [];
  async function drawFront() {
    const element = byId("front-chart"), kinds = series(), log = byId("log-axis").checked;
    shown = points(kinds);
    const cloud = byId("all-scored").checked ? scoredPoints() : [], limits = limitLines();
    const xs = [...shown, ...cloud].map((p) => p.x).concat(limits.map((l) => l.lx));
    const ys = [...shown, ...cloud].map((p) => p.y)
      .concat(limits.map((l) => l.ly), shown.flatMap((p) => (p.lo == null ? [] : [p.lo, p.hi])));
    const scale = { domain: extent(xs, log), type: log ? "log" : "linear", nice: false, zero: false };
    const x = { field: "x", type: "quantitative", scale, axis: axisOf(state.x, true) };
    const y = {
      field: "y", type: "quantitative", axis: axisOf(state.y, false),
      scale: { domain: extent(ys, false), nice: false, zero: false },
    };
    const keys = kinds.map((k) => k.key);
    const colour = { field: "s", type: "nominal", legend: null, scale: { domain: keys, range: kinds.map((k) => k.colour) } };
    const shape = { field: "s", type: "nominal", legend: null, scale: { domain: keys, range: kinds.map((k) => k.shape) } };
    const own = { field: "c", type: "nominal", scale: null, legend: null };
    const small = shown.length > 1500 ? 14 : 34;
    const view = await draw(element, {
      width: wide(element), height: Math.min(520, Math.max(320, wide(element) * 0.62)),
      autosize: { type: "fit", contains: "padding" },
      layer: [
        { data: { values: cloud }, mark: { type: "point", filled: true, size: 5, color: css("--dots"), opacity: 0.6, clip: true }, encoding: { x, y } },
        {
          data: { values: shown.filter((p) => p.lo != null) }, mark: { type: "rule", opacity: 0.28, clip: true },
          encoding: { x, y: { ...y, field: "lo" }, y2: { field: "hi" }, stroke: own },
        },
        {
          data: { values: shown.filter((p) => p.left != null) }, mark: { type: "rule", opacity: 0.28, clip: true },
          encoding: { y, x: { ...x, field: "left" }, x2: { field: "right" }, stroke: own },
        },
        {
          data: { values: limits.filter((l) => l.lx != null) },
          mark: { type: "rule", strokeDash: [5, 4], color: css("--limit"), clip: true }, encoding: { x: { ...x, field: "lx" } },
        },
        {
          data: { values: limits.filter((l) => l.lx != null) },
          mark: { type: "text", align: "right", baseline: "bottom", dx: -5, dy: -4, color: css("--limit"), fontSize: 12 },
          encoding: { x: { ...x, field: "lx" }, y: { value: { expr: "height" } }, text: { field: "t" } },
        },
        {
          data: { values: limits.filter((l) => l.ly != null) },
          mark: { type: "rule", strokeDash: [5, 4], color: css("--limit"), clip: true }, encoding: { y: { ...y, field: "ly" } },
        },
        {
          data: { values: shown }, mark: { type: "point", filled: true, opacity: 0.9, clip: true },
          encoding: {
            x, y, color: colour, shape,
            size: { field: "big", type: "ordinal", legend: null, scale: { domain: [false, true], range: [small, 190] } },
          },
        },
        { data: { name: "focus", values: [] }, mark: { type: "point", size: 260, strokeWidth: 2, color: css("--ink") }, encoding: { x, y } },
        {
          data: { name: "pins", values: [] }, mark: { type: "point", size: 200, strokeWidth: 3, filled: false },
          encoding: { x, y, stroke: { field: "c", type: "nominal", scale: null } },
        },
        {
          data: { name: "pins", values: [] }, mark: { type: "text", dy: -16, fontSize: 15, fontWeight: 700 },
          encoding: { x, y, text: { field: "t" }, color: { field: "c", type: "nominal", scale: null } },
        },
      ],
    });
    element.setAttribute("aria-label",
      `${shown.filter((p) => p.run != null).length} networks, ${state.y} up against ${state.x} across. ` +
      "The slider below walks along them; the table beside compares two.");
    drawKey(kinds);
    markPins();
    return view;
  }

  const GLYPHS = { circle: "●", "triangle-up": "▲", square: "■", diamond: "◆", cross: "✚", "triangle-down": "▼", "triangle-left": "◀" };
  function drawKey(kinds) {
    byId("front-key").replaceChildren(...kinds.map((kind) => {
      const item = document.createElement("li"), glyph = document.createElement("span");
      glyph.textContent = GLYPHS[kind.shape];
      glyph.style.color = kind.colour;
      glyph.setAttribute("aria-hidden", "true");
      item.append(glyph, ` ${kind.key}`);
      return item;
    }));
  }

  function pinned(at, text, colour) {
    const x = at && value(at, state.x), y = at && value(at, state.y);
    return x == null || y == null ? [] : [{ x, y, t: text, c: colour }];
  }
  function setData(element, name, values) {
    const view = views.get(element);
    if (view) view.change(name, vega.changeset().remove(vega.truthy).insert(values)).run();
  }
  function markPins() {
    const element = byId("front-chart");
    setData(element, "pins", [...pinned(state.a, "A", css("--a")), ...pinned(state.b, "B", css("--b"))]);
    element.dataset.a = state.a ? `${state.a.run}:${state.a.row}` : "";
    element.dataset.b = state.b ? `${state.b.run}:${state.b.row}` : "";
  }

  function nearest(event) {
    const element = byId("front-chart"), view = views.get(element), canvas = element.querySelector("canvas");
    if (!view || !canvas) return null;
    const box = canvas.getBoundingClientRect(), origin = view.origin();
    const px = event.clientX - box.left - origin[0], py = event.clientY - box.top - origin[1];
    const sx = view.scale("x"), sy = view.scale("y");
    let best = null, least = 24 * 24;
    for (const p of shown) {
      const dx = sx(p.x) - px, dy = sy(p.y) - py, far = dx * dx + dy * dy - (p.run == null ? 0 : 4);
      if (far < least) { least = far; best = p; }
    }
    return best;
  }

  function tell(event, point) {
    const tip = byId("tip");
    tip.hidden = !point;
    if (!point) return;
    if (point.run == null) {
      tip.textContent = `${brief(point.base, 200)}\n${state.y} ${show(state.y, point.y)}, ${state.x} ${show(state.x, point.x)}`;
    } else {
      const at = { run: point.run, row: point.row };
      tip.textContent = [...sentence(at).split("; ").flatMap((s, i) => (i ? s.split(", ") : [s])), `layers: ${inWords(at)}`].join("\n");
    }
    const width = Math.min(352, window.innerWidth * 0.9);
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, window.innerWidth - width - 8))}px`;
    tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 8)}px`;
  }

  function inWords(at) {
    const blocks = runs[at.run].blocks, active = blocks.filter((b) => optionOf(b, at.row) != null);
    const first = active[0]?.choices.findIndex((c) => c === "kernel") ?? -1;
    const kernels = first < 0 ? "" : `, kernels ${brief(active.map((b) => b.options[optionOf(b, at.row)][b.choices.indexOf("kernel")] ?? "").join(" "), 40)}`;
    return `${active.length} of ${blocks.length} blocks${kernels}`;
  }

  // ---- comparing two

  const change = (from, to) => (from ? `${to >= from ? "+" : "−"}${Math.abs(100 * (to / from - 1)).toFixed(1)}%` : "");

  function drawCompared() {
    const table = byId("compare"), { a, b } = state;
    table.replaceChildren();
    const head = row(table, b ? ["", "A", "B", "change"] : ["", "A", "limit"], "th", "col");
    head.cells[1].className = "a";
    if (b) head.cells[2].className = "b";
    if (runs.length > 1) row(table, ["run", brief(runs[a.run].name), ...(b ? [brief(runs[b.run].name), ""] : [""])]);
    const limits = runs[a.run].limits;
    const points = (v) => `${v >= 0 ? "+" : "−"}${Math.abs(100 * v).toFixed(2)} points`;
    row(table, b
      ? ["predicted accuracy", promise(a), promise(b), points(value(b, GAIN) - value(a, GAIN))]
      : ["predicted accuracy", promise(a), limits[GAIN] == null ? "" : `≥ ${percent(limits[GAIN])}`]);
    for (const m of metricsOf()) {
      const va = value(a, m), vb = b && value(b, m);
      if (va == null && vb == null) continue;
      const line = row(table, b
        ? [brief(m), number(va), number(vb), va == null || vb == null ? "" : change(va, vb)]
        : [brief(m), number(va), limits[m] == null ? "" : `≤ ${number(limits[m])}`]);
      [[a, 1, va], [b, 2, vb]].forEach(([at, i, v]) => {
        const limit = at && runs[at.run].limits[m];
        if (limit != null && v > limit * (1 + 1e-5)) line.cells[i].className = "over";
      });
    }
    const on = (at) => runs[at.run].blocks.filter((x) => optionOf(x, at.row) != null).length;
    row(table, ["blocks", String(on(a)), ...(b ? [String(on(b)), ""] : [""])]);
  }

  function drawBaselines() {
    const holder = byId("baselines");
    holder.replaceChildren();
    const listed = runs.flatMap((run) => run.baselines.map((base) => ({ run, base })));
    if (!listed.length) return;
    const several = given > 1, title = document.createElement(several ? "summary" : "h3");
    title.textContent = "Tried as hard";
    const box = document.createElement("div");
    box.className = "scroll";
    box.tabIndex = 0;
    box.setAttribute("role", "region");
    box.setAttribute("aria-label", "Baselines");
    const table = document.createElement("table"), costs = metricsOf();
    row(table, ["", "predicted accuracy", ...costs.map((m) => brief(m)), "candidates", "what was done"], "th", "col").lastElementChild.className = "words";
    for (const run of runs.slice(0, given)) {
      const at = { run: runs.indexOf(run), row: run.chosen };
      row(table, [`${several ? `${brief(run.name)}: ` : ""}chosen`, promise(at),
        ...costs.map((m) => number(value(at, m))), count(run.curve.at(-1)?.candidates), ""]);
      for (const base of run.baselines) {
        const name = `${several ? `${brief(run.name)}: ` : ""}${brief(base.name, 200)}`;
        if (!base.found) { row(table, [name, "none keeps the budgets", ...costs.map(() => ""), "", ""]); continue; }
        const line = row(table, [name, `${percent(base.accuracy)}${base.spread == null ? "" : ` ± ${percent(base.spread)}`}`,
          ...costs.map((m) => number(base.costs[m])), count(base.candidates), brief(base.about, 400)]);
        line.lastElementChild.className = "words";
      }
    }
    box.append(table);
    const folded = several ? holder.appendChild(document.createElement("details")) : holder;
    folded.append(title, box);
  }

  // ---- a network, block by block

  function shades(low, high) {
    const mix = vega.interpolate("rgb")(low, high);
    const dark = (c) => { const [r, g, b] = c.match(/\d+/g).map(Number); return 0.3 * r + 0.59 * g + 0.11 * b < 140; };
    return (t) => { const fill = mix(Math.max(0, Math.min(1, t))); return { fill, ink: dark(fill) ? "#ffffff" : "#101214" }; };
  }
  const storedBits = (run, label) => (typeof label === "number" ? label : run.bits[label] ?? Number(label));

  function attributesOf(run) {
    const names = new Map();
    for (const block of run.blocks) block.choices.forEach((c, i) => names.set(c, block.formats[i]));
    return [...names].sort((p, q) => p[1] - q[1]).map(([name, format]) => ({ name, format }));
  }
  const short = (name) => brief(name.replace(/_bits$/, "").replaceAll("_", " "), 16);

  function cells(at, other) {
    const run = runs[at.run], attributes = attributesOf(run), metrics = Object.keys(run.fixed);
    const most = new Map(attributes.map(({ name, format }) => {
      let top = 1;
      for (const each of runs) for (const block of each.blocks) {
        const i = block.choices.indexOf(name);
        if (i >= 0) for (const o of block.options) top = Math.max(top, Number(format ? storedBits(each, o[i]) : o[i]) || 1);
      }
      return [name, top];
    }));
    const tone = shades(css("--low"), css("--high")), chosen = [], shares = [];
    const columns = labels(attributes.map((a) => short(a.name)), 16), priced = labels(metrics.map(short), 16);
    const twins = other && new Map(runs[other.run].blocks.map((block) => [block.name, block]));
    const beforeOf = (block, name, label) => {
      const twin = twins?.get(block.name);
      if (!twin) return label;
      const mirror = optionOf(twin, other.row);
      return mirror == null ? null : twin.options[mirror][twin.choices.indexOf(name)] ?? null;
    };
    for (const block of run.blocks) {
      const option = optionOf(block, at.row), labels = option == null ? null : block.options[option];
      attributes.forEach(({ name, format }, column) => {
        const i = block.choices.indexOf(name);
        if (i < 0) return;
        const label = labels ? labels[i] : null;
        const t = label == null ? 0 : Number(format ? storedBits(run, label) : label) / most.get(name);
        chosen.push({
          b: block.name, c: columns[column], t: label == null ? (column ? "" : "skip") : brief(String(label), 9), differs: beforeOf(block, name, label) !== label,
          ...(label == null ? { fill: "transparent", ink: css("--quiet") } : tone(t)),
        });
      });
      metrics.forEach((m, column) => {
        if (option == null || !block.costs[m]) return;
        shares.push({ b: block.name, c: priced[column], ...share(block.costs[m][option], value(at, m), tone) });
      });
    }
    metrics.forEach((m, column) => shares.push({ b: FIXED, c: priced[column], ...share(run.fixed[m], value(at, m), tone) }));
    return { attributes, metrics, columns, priced, chosen, shares, blocks: [...run.blocks.map((b) => b.name), FIXED] };
  }
  const FIXED = "not searched";
  function share(cost, whole, tone) {
    const part = whole ? cost / whole : 0;
    return { part, cost, t: part && part < 0.005 ? "<1%" : `${Math.round(100 * part)}%`, ...tone(Math.sqrt(part)) };
  }

  async function drawNetwork(holder, at, letter, other) {
    for (const [element, view] of views) if (holder.contains(element)) { view.finalize(); views.delete(element); }
    holder.replaceChildren();
    if (!at) return;
    const title = document.createElement("h3");
    title.className = letter.toLowerCase();
    const chosen = at.row === runs[at.run].chosen ? ", the chosen one" : "";
    title.textContent = `${letter}${chosen}${runs.length > 1 ? ` of ${brief(runs[at.run].name)}` : ""}`;
    const chart = document.createElement("div");
    chart.className = "chart";
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", `Network ${letter}, block by block; the table below holds the same`);
    holder.append(title, chart);
    const found = cells(at, other), narrow = wide(chart) < 520, sizes = [found.columns.length, found.priced.length];
    const columns = Math.max(1, narrow ? Math.max(...sizes) : sizes[0] + sizes[1]);
    const step = Math.max(24, Math.min(58, (wide(chart) - 145) / columns));
    const panel = (values, names, labels) => {
      const encoding = {
        x: {
          field: "c", type: "ordinal", scale: { domain: names, paddingInner: 0.06 },
          axis: { orient: "top", title: null, domain: false, ticks: false, labelAngle: -45 },
        },
        y: {
          field: "b", type: "nominal", sort: null, scale: { domain: found.blocks, paddingInner: 0.08 },
          axis: labels ? { title: null, domain: false, ticks: false, labelLimit: 110 } : null,
        },
      };
      return {
        width: { step }, height: { step: 22 }, data: { values },
        layer: [
          {
            mark: { type: "rect", cornerRadius: 3 },
            encoding: {
              ...encoding, fill: { field: "fill", type: "nominal", scale: null },
              stroke: { condition: { test: "datum.differs", value: css("--b") }, value: null }, strokeWidth: { value: 2.5 },
            },
          },
          { mark: { type: "text", fontSize: step < 34 ? 10 : 12 }, encoding: { ...encoding, text: { field: "t" }, color: { field: "ink", type: "nominal", scale: null } } },
        ],
      };
    };
    const parts = [panel(found.chosen, found.columns, true)];
    if (found.shares.length) parts.push(panel(found.shares, found.priced, narrow || !found.columns.length));
    await draw(chart, { [narrow ? "vconcat" : "hconcat"]: parts, spacing: 14, resolve: { scale: { y: "independent" } } });
    holder.append(networkTable(at, found, letter));
  }

  function networkTable(at, found, letter) {
    const run = runs[at.run], box = document.createElement("details"), table = document.createElement("table");
    const summary = document.createElement("summary"), scroll = document.createElement("div");
    summary.textContent = `Network ${letter} as a table`;
    scroll.className = "scroll";
    row(table, ["block", ...found.attributes.map((a) => a.name), ...found.metrics], "th", "col");
    for (const block of run.blocks) {
      const option = optionOf(block, at.row);
      const choices = found.attributes.map(({ name }) => {
        const i = block.choices.indexOf(name);
        return i < 0 ? "" : option == null ? "skipped" : String(block.options[option][i]);
      });
      const costs = found.metrics.map((m) => option == null || !block.costs[m] ? "" : told(block.costs[m][option], value(at, m)));
      row(table, [brief(block.name, 200), ...choices, ...costs]);
    }
    row(table, [FIXED, ...found.attributes.map(() => ""), ...found.metrics.map((m) => told(run.fixed[m], value(at, m)))]);
    scroll.append(table);
    box.append(summary, scroll);
    return box;
  }
  const told = (cost, whole) => `${number(cost)} (${whole ? Math.round((100 * cost) / whole) : 0}%)`;

  // ---- along the front, progress, measurements

  const order = (r) => {
    const run = runs[r], by = ofFront(run, state.x) || run.front.accuracy;
    return [...by.keys()].sort((i, j) => by[i] - by[j]);
  };

  async function drawChoices() {
    const element = byId("choices-chart"), r = state.a.run, run = runs[r], name = state.choice;
    byId("choices-section").hidden = !name || run.front.accuracy.length < 2;
    if (byId("choices-section").hidden) return;
    const ranks = order(r), count = Math.min(ranks.length, 160), values = [];
    for (const block of run.blocks) {
      const i = block.choices.indexOf(name);
      if (i < 0) continue;
      for (let k = 0; k < count; k++) {
        const option = optionOf(block, ranks[Math.round((k * (ranks.length - 1)) / Math.max(1, count - 1))]);
        const label = option == null ? null : block.options[option][i];
        values.push({ k, b: block.name, v: label == null ? null : storedBits(run, label) });
      }
    }
    const names = [...new Set(values.map((v) => v.b))];
    await draw(element, {
      width: wide(element), height: 90 + 16 * names.length, autosize: { type: "fit", contains: "padding" }, data: { values: values.filter((v) => v.v != null) }, mark: "rect",
      encoding: {
        x: { field: "k", type: "ordinal", scale: { domain: [...Array(count).keys()], padding: 0 }, axis: { labels: false, ticks: false, domain: false, title: `networks of the front, by rising ${brief(state.x)}`, titleLimit: wide(element) - 20 } },
        y: { field: "b", type: "nominal", sort: null, scale: { domain: names, paddingInner: 0.1 }, axis: { title: null, domain: false, ticks: false, labelLimit: 110 } },
        color: { field: "v", type: "quantitative", scale: { scheme: "viridis" }, legend: { orient: "top", gradientLength: Math.min(260, wide(element) - 180) } },
      },
    });
  }

  async function drawCurve(id, field, title, format) {
    const ran = runs.filter((run) => run.curve.length);
    const element = byId(id), names = labels(ran.map((run) => run.name), 40), palette = colours();
    const values = ran.flatMap((run, r) => run.curve.map((p) => ({ n: p.candidates, v: p[field], r: names[r] })));
    if (!values.some((v) => v.v != null)) return element.replaceChildren();
    await draw(element, {
      width: wide(element), height: 220, autosize: { type: "fit", contains: "padding" }, data: { values },
      mark: { type: "line", interpolate: "step-after", strokeWidth: 2.5, point: values.length < 3 },
      encoding: {
        x: { field: "n", type: "quantitative", axis: { title: "candidates scored", format: "~s", grid: false } },
        y: { field: "v", type: "quantitative", scale: { zero: false }, axis: { title, format } },
        color: {
          field: "r", type: "nominal", scale: { domain: names, range: ran.map((run) => palette[runs.indexOf(run) % palette.length]) },
          legend: ran.length > 1 ? { columns: 1 } : null,
        },
        strokeDash: ran.length > 1 ? { field: "r", type: "nominal", scale: { domain: names }, legend: { columns: 1 } } : undefined,
      },
    });
  }

  async function drawMeasured() {
    const element = byId("measured-chart");
    if (!element) return;
    const values = runs.flatMap((run) => run.measured.filter((m) => m.predicted != null).map((m) => ({
      p: m.predicted, m: m.test, lo: m.predicted - 2 * (m.spread || 0), hi: m.predicted + 2 * (m.spread || 0),
    })));
    if (!values.length) return element.replaceChildren();
    const all = extent(values.flatMap((v) => [v.lo, v.hi, v.m]), false);
    const quantity = (field, title) => ({ field, type: "quantitative", scale: { domain: all, nice: false, zero: false }, axis: { title, format: ".1%" } });
    const x = quantity("p", "predicted, ± two spreads"), y = quantity("m", "measured on test images");
    await draw(element, {
      width: Math.min(520, wide(element)), height: 320, autosize: { type: "fit", contains: "padding" },
      layer: [
        { data: { values: all.map((v) => ({ p: v, m: v })) }, mark: { type: "line", strokeDash: [5, 4], color: css("--quiet") }, encoding: { x, y } },
        { data: { values }, mark: { type: "rule", strokeWidth: 2, color: css("--a") }, encoding: { x: { ...x, field: "lo" }, x2: { field: "hi" }, y } },
        { data: { values }, mark: { type: "point", filled: true, size: 80, color: css("--a") }, encoding: { x, y } },
      ],
    });
  }

  // ---- what people do

  function fill(select, names, chosen) {
    select.replaceChildren(...names.map((name) => {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = brief(name, 48);
      option.selected = name === chosen;
      return option;
    }));
  }

  function walkTo(index) {
    const ranks = order(state.walkRun);
    state.walk = Math.max(0, Math.min(ranks.length - 1, index));
    const at = { run: state.walkRun, row: ranks[state.walk] }, slider = byId("walk");
    slider.max = ranks.length - 1;
    slider.value = state.walk;
    slider.setAttribute("aria-valuetext", sentence(at));
    byId("walked").textContent = sentence(at);
    return at;
  }
  function walk(index) {
    const at = walkTo(index);
    const x = value(at, state.x), y = value(at, state.y);
    setData(byId("front-chart"), "focus", x == null || y == null ? [] : [{ x, y }]);
  }
  const walked = () => ({ run: state.walkRun, row: order(state.walkRun)[state.walk] });

  async function pin(letter, at) {
    state[letter] = at;
    markPins();
    drawCompared();
    fillChoices();
    byId("said").textContent = at ? `${letter.toUpperCase()}: ${sentence(at)}` : "B is unpinned.";
    await Promise.all([drawNetwork(byId("network-a"), state.a, "A", null), drawNetwork(byId("network-b"), state.b, "B", state.a), drawChoices()]);
  }

  function fillChoices() {
    const names = attributesOf(runs[state.a.run]).map((a) => a.name);
    if (!names.includes(state.choice)) state.choice = names.find((n) => n === "width") || names[0] || "";
    fill(byId("choice"), names, state.choice);
  }

  function fillAxes() {
    const names = [GAIN, ...metricsOf()];
    if (!names.includes(state.x)) state.x = runs[0].objectives.find((o) => runs[0].metrics.includes(o)) || Object.keys(runs[0].limits).find((m) => runs[0].metrics.includes(m)) || names[1] || GAIN;
    fill(byId("x-axis"), names, state.x);
    fill(byId("y-axis"), names, state.y);
    byId("walk-run-label").hidden = runs.length < 2;
    fill(byId("walk-run"), runs.map((_, r) => String(r)), String(state.walkRun));
    [...byId("walk-run").options].forEach((option, r) => { option.textContent = brief(runs[r].name, 48); });
  }

  async function drawAll() {
    fillAxes();
    byId("beside-label").hidden = !runs.some((run) => run.baselines.some((base) => base.found));
    fillChoices();
    drawCompared();
    drawBaselines();
    walkTo(state.walk);
    await Promise.all([
      drawFront(), drawNetwork(byId("network-a"), state.a, "A", null), drawNetwork(byId("network-b"), state.b, "B", state.a),
      drawChoices(), drawCurve("accuracy-chart", "accuracy", "best predicted accuracy", ".1%"),
      drawCurve("volume-chart", "hypervolume", "hypervolume", "~g"), drawMeasured(),
    ]);
    document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
  }

  // shows what an explorer's server answered
  async function answer(run) {
    runs[given] = run;
    if (state.a.run === given) state.a = { run: 0, row: runs[0].chosen };
    state.b = { run: given, row: run.chosen };
    state.walkRun = given;
    state.walk = order(given).indexOf(run.chosen);
    fillAxes();
    fillChoices();
    walkTo(state.walk);
    drawCompared();
    await Promise.all([drawFront(), drawNetwork(byId("network-a"), state.a, "A", null), drawNetwork(byId("network-b"), state.b, "B", state.a)]);
  }

  function listen() {
    const chart = byId("front-chart");
    chart.addEventListener("pointermove", (event) => tell(event, nearest(event)));
    chart.addEventListener("pointerleave", (event) => tell(event, null));
    chart.addEventListener("click", (event) => {
      const point = nearest(event);
      if (!point || point.run == null) return;
      state.walkRun = point.run;
      walkTo(order(point.run).indexOf(point.row));
      fillAxes();
      pin("b", { run: point.run, row: point.row });
    });
    document.addEventListener("keydown", (event) => { if (event.key === "Escape") { tell(event, null); if (state.b) pin("b", null); } });
    byId("x-axis").addEventListener("change", (event) => { state.x = event.target.value; walk(state.walk); drawFront(); drawChoices(); });
    byId("y-axis").addEventListener("change", (event) => { state.y = event.target.value; drawFront(); });
    byId("all-scored").addEventListener("change", drawFront);
    byId("beside").addEventListener("change", drawFront);
    byId("log-axis").addEventListener("change", drawFront);
    byId("walk-run").addEventListener("change", (event) => { state.walkRun = Number(event.target.value); walk(0); });
    byId("walk").addEventListener("input", (event) => walk(Number(event.target.value)));
    byId("pin-a").addEventListener("click", () => pin("a", walked()));
    byId("pin-b").addEventListener("click", () => pin("b", walked()));
    byId("unpin").addEventListener("click", () => pin("b", null));
    byId("swap").addEventListener("click", async () => {
      if (!state.b) return;
      [state.a, state.b] = [state.b, state.a];
      await pin("b", state.b);
    });
    byId("choice").addEventListener("change", (event) => { state.choice = event.target.value; drawChoices(); });
    let width = document.documentElement.clientWidth, timer = 0;
    window.addEventListener("resize", () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (document.documentElement.clientWidth === width) return;
        width = document.documentElement.clientWidth;
        drawAll();
      }, 150);
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  }

  state.a = { run: 0, row: runs[0].chosen };
  state.y = GAIN;
  fillAxes();
  state.walk = order(0).indexOf(runs[0].chosen);
  listen();
  drawAll();
  globalThis.apqPage.answer = answer;
})();
