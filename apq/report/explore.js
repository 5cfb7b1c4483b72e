// Budgets to move: asks the server that the page comes from (apq/report/serve.py) for the front
// within them, one question at a time, always the latest.
"use strict";
(() => {
  const { data, byId, number, percent, brief, answer } = globalThis.apqPage;
  const offer = data.offer;
  if (!offer) return;
  const STEPS = 400, fields = new Map();
  let wanted = null, asking = false, file = null;

  // a slider's place and its limit: even steps of the logarithm, where the cost has one
  function limitAt([low, high], place) {
    const t = place / STEPS;
    return low > 0 ? low * (high / low) ** t : low + t * (high - low);
  }
  function placeOf([low, high], limit) {
    const t = low > 0 ? Math.log(limit / low) / Math.log(high / low) : (limit - low) / (high - low);
    return Math.max(0, Math.min(STEPS, Math.round(t * STEPS)));
  }
  // rounded up, so that the smallest cost can be met
  const rounded = (limit) => {
    const unit = 10 ** (Math.floor(Math.log10(limit)) - 3);
    return Number((Math.ceil(limit / unit - 1e-9) * unit).toPrecision(4));
  };

  function field(metric, range) {
    const box = document.createElement("div"), label = document.createElement("label");
    const slider = document.createElement("input"), exact = document.createElement("input");
    const name = `budget-${fields.size}`;
    label.textContent = `${brief(metric)} at most`;
    label.htmlFor = name;
    Object.assign(slider, { type: "range", id: name, min: 0, max: STEPS, step: 1 });
    Object.assign(exact, { type: "number", min: 0, step: "any", placeholder: "no limit" });
    exact.setAttribute("aria-label", `${brief(metric)} at most, as a number`);
    const set = (limit) => {
      slider.value = limit == null ? STEPS : placeOf(range, limit);
      exact.value = limit == null ? "" : limit;
      slider.setAttribute("aria-valuetext", limit == null ? "no limit" : `at most ${limit}`);
    };
    slider.addEventListener("input", () => {
      set(Number(slider.value) === STEPS ? null : rounded(limitAt(range, Number(slider.value))));
      ask();
    });
    exact.addEventListener("change", () => {
      set(Number(exact.value) > 0 ? Number(exact.value) : null);
      ask();
    });
    box.append(label, slider, exact);
    byId("budgets").append(box);
    fields.set(metric, { set, limit: () => (exact.value === "" ? null : Number(exact.value)) });
    set(offer.limits[metric] ?? null);
  }

  function ask() {
    wanted = Object.fromEntries([...fields].map(([m, f]) => [m, f.limit()]).filter(([, v]) => v != null));
    if (!asking) next();
  }
  async function next() {
    asking = true;
    while (wanted) {
      const limits = wanted;
      wanted = null;
      byId("answered").setAttribute("aria-busy", "true");
      const told = await question(limits);
      if (wanted) continue;
      if (told.error) say(told.error, null);
      else {
        say(words(told), told.file);
        await answer(told.run);
      }
    }
    asking = false;
    byId("answered").removeAttribute("aria-busy");
    document.body.dataset.answered = String(Number(document.body.dataset.answered || 0) + 1);
  }
  async function question(limits) {
    try {
      const reply = await fetch("ask", {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ limits }),
      });
      return reply.ok || reply.status === 422 ? await reply.json() : { error: `the server refused: ${reply.status} ${reply.statusText}` };
    } catch {
      return { error: "No answer: apq explore has ended. Start it again and open the address it prints." };
    }
  }
  function say(text, found) {
    file = found;
    byId("answered").textContent = text;
    byId("answered").classList.toggle("wrong", !found);
    byId("save").disabled = !found;
  }
  function words(told) {
    const front = told.run.front, row = told.run.chosen, accuracy = front.accuracy[row];
    const gained = told.best_stored == null ? 0 : accuracy - told.best_stored;
    const costs = Object.entries(front.costs).map(([m, c]) => `${brief(m)} ${number(c[row])}`).join(", ");
    const searched = !told.scored ? "" : `, ${told.scored.toLocaleString("en")} more scored` +
      (gained > 1e-5 ? `, which gained ${(100 * gained).toFixed(2)} points` : "");
    return `${percent(accuracy)} ± ${percent(front.spread[row])} predicted; ${costs}. ` +
      `Of ${told.stored.toLocaleString("en")} known candidates within these limits${searched}; ${told.seconds.toFixed(2)} s.`;
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file, null, 2)], { type: "application/json" }));
    link.download = "candidate.json";
    link.click();
    URL.revokeObjectURL(link.href);
  }

  for (const [metric, range] of Object.entries(offer.ranges)) field(metric, range);
  byId("save").addEventListener("click", save);
  byId("reset").addEventListener("click", () => {
    for (const [metric, f] of fields) f.set(offer.limits[metric] ?? null);
    ask();
  });
})();
