"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  let model = data.models[0];
  let metric = null;

  // ---------------------------------------------------------------- small helpers

  const make = (name, attributes = {}, text = null) => {
    const e = document.createElement(name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== null) e.textContent = text;
    return e;
  };
  const draw = (name, attributes = {}, text = null) => {
    const e = document.createElementNS(SVG, name);
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    if (text !== null) e.textContent = text;
    return e;
  };
  const number = (v) => {
    if (v === 0) return "0.000";
    if (Math.abs(v) < 1e-3) return v.toExponential(2);
    return v.toFixed(Math.max(0, 3 - Math.floor(Math.log10(Math.abs(v)))));
  };
  const options = (select, labels, chosen) => {
    select.replaceChildren(...labels.map((t, i) => make("option", { value: i }, t)));
    select.value = chosen;
  };
  const described = (p) => {
    const span = p.low === null ? "" : ` [${number(p.low)}, ${number(p.high)}]`;
    const nfe = p.nfe === null ? "" : `, ${p.nfe} NFE`;
    const moved = p.relative === null ? "" : `, ${Math.round(100 * p.relative)}\u00a0% of a new seed`;
    const ms = p.ms === null ? "" : `, ${number(p.ms)} ms`;
    return `${p.method} at ${p.steps} steps: ${`${ms}${nfe}`.slice(2)}, ${metric.name} ${number(p.value)}${span}${moved}`;
  };
  const loss = (v) => (metric.better === "lower" ? v : -v);
  // Without a timing pass the chart is over U-Net evaluations.
  const timed = () => model.metrics.some((m) => m.points.some((p) => p.ms !== null));
  const cost = (p) => (timed() ? p.ms : p.nfe);
  const whole = () => metric.points.filter((p) => cost(p) !== null && p.value !== null);

  // ---------------------------------------------------------------- chart

  const methods = () => [...new Set(model.metrics.flatMap((m) => m.points.map((p) => p.method)))];
  const color = (method) => `var(--s${methods().indexOf(method) % 8})`;
  // Nine shapes and eight colors: no two of 72 methods look the same.
  const SHAPES = [
    (x, y) => `M${x - 6} ${y}a6 6 0 1 0 12 0a6 6 0 1 0 -12 0`,
    (x, y) => `M${x - 5.5} ${y - 5.5}h11v11h-11z`,
    (x, y) => `M${x} ${y - 7}l7 12h-14z`,
    (x, y) => `M${x} ${y - 7.5}l7.5 7.5l-7.5 7.5l-7.5 -7.5z`,
    (x, y) => `M${x} ${y + 7}l7 -12h-14z`,
    (x, y) => `M${x - 2.4} ${y - 7}h4.8v4.6h4.6v4.8h-4.6v4.6h-4.8v-4.6h-4.6v-4.8h4.6z`,
    (x, y) => `M${x - 6} ${y - 6}l3 -1l3 3.4l3 -3.4l3 1l-3.4 6l3.4 6l-3 1l-3 -3.4l-3 3.4l-3 -1l3.4 -6z`,
    (x, y) => `M${x - 3.5} ${y - 6.5}h7l3.5 6.5l-3.5 6.5h-7l-3.5 -6.5z`,
    (x, y) => `M${x} ${y - 7.5}l2 5.3h5.4l-4.3 3.6l1.6 5.6l-4.7 -3.3l-4.7 3.3l1.6 -5.6l-4.3 -3.6h5.4z`,
  ];
  const shape = (method, x, y) =>
    draw("path", { d: SHAPES[methods().indexOf(method) % SHAPES.length](x, y), fill: color(method) });

  const logTicks = (low, high) => {
    const ratio = high / low;
    const steps = ratio < 4 ? [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8] : ratio < 30 ? [1, 2, 3, 5] : ratio < 300 ? [1, 3] : [1];
    const out = [];
    for (let e = Math.floor(Math.log10(low)) - 1; e <= Math.ceil(Math.log10(high)); e++) {
      out.push(...steps.map((m) => m * 10 ** e));
    }
    return out.filter((t) => t >= low && t <= high);
  };
  const valueTicks = (low, high) => {
    const raw = (high - low) / 5;
    const base = 10 ** Math.floor(Math.log10(raw));
    const step = base * [1, 2, 5, 10].find((m) => m * base >= raw);
    const out = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) out.push(i * step);
    return out;
  };
  const tickText = (v, ticks) => {
    const step = ticks.length > 1 ? ticks[1] - ticks[0] : Math.abs(v) || 1;
    if (v !== 0 && Math.max(...ticks.map(Math.abs)) < 1e-3) return v.toExponential(1);
    return v.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
  };

  const chart = () => {
    const box = at("chart");
    const points = whole();
    const crowded = points.length > 80; // their numbers of steps would hide them
    const [what, unit] = timed() ? ["latency", "latency per image, ms"] : ["U-Net evaluations", "U-Net evaluations per image"];
    at("chart-h").textContent = `Distance against ${what}`;
    at("limit-what").textContent = timed() ? "Fastest with a distance within" : "Fewest evaluations with a distance within";
    at("chart-what").textContent = `${metric.name}: ${metric.summary}. ${metric.better === "lower" ? "Lower" : "Higher"} is better. ` +
      `${crowded ? "Bars" : "Numbers beside marks are steps; bars"} are 95\u00a0% intervals${timed() ? "; ringed marks on the broken line are the front" : ""}.` +
      (model.reference === null ? "" : ` The reference takes ${number(model.reference)} ms per image.`);
    at("legend").replaceChildren(...methods().filter((name) => points.some((p) => p.method === name)).map((name) => {
      const item = make("span");
      const icon = draw("svg", { width: 16, height: 16, "aria-hidden": "true" });
      icon.append(shape(name, 8, 8));
      item.append(icon, name);
      return item;
    }));
    if (!points.length) {
      box.replaceChildren(make("p", { class: "absent" }, "Nothing has a value of this distance."));
      return;
    }
    const width = Math.max(300, box.clientWidth || 720);
    const height = Math.round(Math.min(460, Math.max(300, width * 0.55)));
    const edge = { left: 76, right: 26, top: 18, bottom: 52 };
    const times = points.map(cost);
    if (model.reference !== null) times.push(model.reference);
    const [t0, t1] = [Math.min(...times) / 1.18, Math.max(...times) * 1.22];
    const values = points.flatMap((p) => (p.low === null ? [p.value] : [p.value, p.low, p.high]));
    if (metric.floor !== null) values.push(metric.floor);
    const wide = metric.logarithmic;
    const same = wide || model.reference === null ? null : identical(metric);
    if (same !== null) values.push(same);
    let [v0, v1] = [Math.min(...values), Math.max(...values)];
    const room = (v1 - v0 || Math.abs(v1) || 1) * 0.08;
    if (wide) [v0, v1] = [v0 / 1.25, v1 * 1.25];
    else [v0, v1] = [v0 >= 0 && v0 < (v1 - v0) * 0.4 ? 0 : v0 - room, v1 + room];
    const x = (t) => edge.left + (Math.log(t / t0) / Math.log(t1 / t0)) * (width - edge.left - edge.right);
    const share = wide ? (v) => Math.log(v / v0) / Math.log(v1 / v0) : (v) => (v - v0) / (v1 - v0);
    const y = (v) => height - edge.bottom - share(v) * (height - edge.top - edge.bottom);
    const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${metric.name} against ${what} of ${model.name}` });
    const vertical = wide ? logTicks(v0, v1) : valueTicks(v0, v1);
    for (const v of vertical) {
      svg.append(draw("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(v), y2: y(v) }));
      svg.append(draw("text", { x: edge.left - 8, y: y(v) + 4, "text-anchor": "end" }, wide ? `${+v.toPrecision(2)}` : tickText(v, vertical)));
    }
    for (const t of logTicks(t0, t1)) {
      svg.append(draw("line", { class: "grid", x1: x(t), x2: x(t), y1: edge.top, y2: height - edge.bottom }));
      svg.append(draw("text", { x: x(t), y: height - edge.bottom + 18, "text-anchor": "middle" }, `${+t.toPrecision(2)}`));
    }
    svg.append(draw("text", { x: (edge.left + width - edge.right) / 2, y: height - 10, "text-anchor": "middle" }, `${unit} (logarithmic)`));
    const middle = (edge.top + height - edge.bottom) / 2;
    svg.append(draw("text", { x: 16, y: middle, "text-anchor": "middle", transform: `rotate(-90 16 ${middle})` }, `${metric.name} ${metric.better === "lower" ? "↓" : "↑"}${wide ? " (logarithmic)" : ""}`));
    if (model.reference !== null) svg.append(...reference(x(model.reference), same === null ? null : y(same), edge.top, height - edge.bottom));
    if (metric.floor !== null) {
      svg.append(draw("line", { class: "floor", x1: edge.left, x2: width - edge.right, y1: y(metric.floor), y2: y(metric.floor) }));
      const end = model.reference === null ? width - edge.right : x(model.reference); // beside its line
      svg.append(draw("text", { x: Math.max(end - 6, edge.left + 190), y: y(metric.floor) - 5, "text-anchor": "end" }, "floor: reference, other seeds"));
    }
    for (const name of methods()) {
      const own = points.filter((p) => p.method === name).sort((a, b) => a.steps - b.steps);
      svg.append(draw("polyline", { points: own.map((p) => `${x(cost(p))},${y(p.value)}`).join(" "), fill: "none", stroke: color(name), "stroke-width": 1.5, opacity: 0.55 }));
    }
    const best = points.filter((p) => p.front).sort((a, b) => cost(a) - cost(b));
    svg.append(draw("path", { class: "frontline", d: best.map((p, i) => (i ? `H${x(cost(p))}V${y(p.value)}` : `M${x(cost(p))} ${y(p.value)}`)).join("") }));
    const ordered = [...points].sort((a, b) => cost(a) - cost(b));
    for (const p of ordered) svg.append(mark(p, x(cost(p)), y(p.value), y));
    const taken = ordered.map((p) => [x(cost(p)), y(p.value)]);
    if (!crowded) for (const p of ordered) svg.append(label(p, x(cost(p)), y(p.value), taken));
    box.replaceChildren(svg);
  };

  // A distance of the reference to itself, where the metric's name says it.
  const identical = (m) => (m.better === "lower" ? 0 : /^(ssim|cos|latent_cos)/.test(m.name) ? 1 : null);

  const reference = (x, y, top, bottom) => {
    const line = draw("line", { class: "floor", x1: x, x2: x, y1: top, y2: bottom });
    const words = draw("text", { x: x - 6, y: bottom - 8, "text-anchor": "end" }, "reference");
    if (y === null) return [line, words];
    const star = draw("path", { class: "reference", d: `M${x - 8} ${y}h16M${x} ${y - 8}v16M${x - 6} ${y - 6}l12 12M${x - 6} ${y + 6}l12 -12` });
    return [line, star, words];
  };

  const mark = (p, x, y, scale) => {
    const g = draw("g", { class: "point", tabindex: 0, role: "img", "aria-label": described(p) });
    g.append(draw("circle", { class: "halo", cx: x, cy: y, r: 15 }));
    if (p.low !== null) {
      const [a, b] = [scale(p.low), scale(p.high)];
      g.append(draw("path", { d: `M${x} ${a}V${b}M${x - 4} ${a}h8M${x - 4} ${b}h8`, stroke: color(p.method), "stroke-width": 1.6 }));
    }
    if (p.front) g.append(draw("circle", { class: "ring", cx: x, cy: y, r: 10 }));
    g.append(shape(p.method, x, y));
    const say = () => { at("chart-said").textContent = described(p); };
    for (const event of ["focus", "pointerenter", "click"]) g.addEventListener(event, say);
    return g;
  };

  // The number of steps, at the first place around its mark that nothing else has taken.
  const label = (p, x, y, taken) => {
    const places = [[14, -9], [-14, -9], [14, 19], [-14, 19], [0, -20], [0, 28]];
    const far = ([dx, dy]) => taken.every(([a, b]) => Math.abs(x + dx - a) > 11 || Math.abs(y + dy - 4 - b) > 12);
    const [dx, dy] = places.find(far) || places[0];
    taken.push([x + dx, y + dy - 4]);
    return draw("text", { class: "step", x: x + dx, y: y + dy, "text-anchor": "middle" }, String(p.steps));
  };

  const fastest = () => {
    const limit = at("limit").valueAsNumber;
    const out = at("fastest");
    if (Number.isNaN(limit)) { out.textContent = ""; return; }
    const end = (p) => (p.low === null ? loss(p.value) : Math.max(loss(p.low), loss(p.high)));
    const within = whole().filter((p) => end(p) <= loss(limit)).sort((a, b) => cost(a) - cost(b) || loss(a.value) - loss(b.value));
    if (!within.length) { out.textContent = `None has its whole interval within ${number(limit)}.`; return; }
    const p = within[0];
    const gain = p.speed_up === null ? "" : `; ${p.speed_up.toFixed(1)} times as fast as the reference${p.doubt && ` (in doubt: ${p.doubt})`}`;
    out.textContent = `${described(p)}${gain}.`;
  };

  // ---------------------------------------------------------------- images

  const names = () => [model.gallery.reference, ...model.gallery.cells];
  const item = () => model.gallery.items[at("prompt").value];
  const image = (id, alt) => {
    if (id === null) return make("span", { class: "absent" }, "no image");
    const img = make("img", { alt, src: data.images[id], decoding: "async" });
    img.addEventListener("load", () => img.classList.toggle("small", img.naturalWidth <= 128));
    return img;
  };
  const set = (img, id, alt) => {
    img.hidden = id === null;
    img.alt = alt;
    if (id === null) { img.removeAttribute("src"); return; }
    img.src = data.images[id];
    img.decode().then(() => img.classList.toggle("small", img.naturalWidth <= 128)).catch(() => {});
  };
  const wipe = () => {
    const v = at("slider").value;
    at("wipe-over").style.clipPath = `inset(0 ${100 - v}% 0 0)`;
    at("wipe-line").style.left = `${v}%`;
    at("slider").setAttribute("aria-valuetext", `${v} % ${names()[at("left").value]}, ${100 - v} % ${names()[at("right").value]}`);
  };
  const showPair = () => {
    const [l, r] = [at("left").value, at("right").value];
    set(at("wipe-over"), item().images[l], `Left: ${names()[l]}`);
    set(at("wipe-under"), item().images[r], `Right: ${names()[r]}`);
    for (const b of at("strip").querySelectorAll("button")) b.setAttribute("aria-pressed", String(b.dataset.cell === r));
    wipe();
  };
  const showPrompt = () => {
    const one = item();
    at("prompt-text").textContent = `${one.prompt}${one.negative ? `\nnot: ${one.negative}` : ""}\nseed ${one.seed}, image ${one.index}`;
    at("strip").replaceChildren(...names().map((name, i) => {
      const figure = make("figure");
      const button = make("button", { type: "button", "data-cell": i, "aria-label": `Compare with ${name}` });
      button.append(image(one.images[i], ""));
      button.addEventListener("click", () => { at("right").value = i; showPair(); });
      const caption = make("figcaption", {}, name);
      if (i && one.scores[i - 1] !== null) caption.append(make("span", { class: "score" }, `${model.paired} ${number(one.scores[i - 1])}`));
      figure.append(button, caption);
      return figure;
    }));
    showPair();
  };
  const turn = (by) => {
    const n = model.gallery.items.length;
    at("prompt").value = (Number(at("prompt").value) + by + n) % n;
    showPrompt();
  };
  const pair = (one, name) => {
    const figure = make("figure");
    const two = make("div", { class: "two" });
    two.append(image(one.images[0], "Reference"), image(one.images[1], name));
    const caption = make("figcaption", {}, one.prompt);
    caption.prepend(make("span", { class: "score" }, `${model.paired} ${number(one.score)}, seed ${one.seed}`));
    figure.append(two, caption);
    return figure;
  };
  const showExtremes = () => {
    const c = at("extreme-cell").value;
    const [best, worst] = model.gallery.extremes[c] || [[], []];
    at("best").replaceChildren(...best.map((one) => pair(one, names()[Number(c) + 1])));
    at("worst").replaceChildren(...worst.map((one) => pair(one, names()[Number(c) + 1])));
    at("extremes-body").hidden = !best.length;
    at("extremes-none").hidden = best.length > 0;
  };
  const gallery = () => {
    const g = model.gallery;
    at("gallery").hidden = at("extremes").hidden = false;
    const notes = g ? g.notes : ["This model has no reference images."];
    at("gallery-notes").replaceChildren(...notes.map((t) => make("li", {}, t)));
    at("gallery-notes").hidden = !notes.length;
    const any = Boolean(g) && g.items.some((one) => one.images.some((p) => p !== null));
    at("gallery-body").hidden = !any;
    if (!any && !notes.length) at("gallery-notes").append(make("li", {}, "There are no images to show."));
    if (any) {
      options(at("prompt"), g.items.map((one) => one.prompt.slice(0, 160)), 0);
      options(at("left"), names(), 0);
      options(at("right"), names(), Math.min(1, g.cells.length));
      showPrompt();
    }
    at("extremes").hidden = !g || !g.cells.length;
    if (g && g.cells.length) {
      options(at("extreme-cell"), g.cells, 0);
      showExtremes();
    }
  };

  // The pair of the recommended method that is in the middle of its scores, on the first screen.
  const example = (one) => {
    const g = one.gallery;
    const c = g && one.recommended ? g.places.findIndex(([m, s]) => m === one.recommended[0] && s === one.recommended[1]) : -1;
    const box = document.querySelector(`[data-example="${data.models.indexOf(one)}"]`);
    if (!box || c < 0) return;
    const items = g.items.filter((i) => i.images[0] !== null && i.images[c + 1] !== null);
    items.sort((a, b) => (a.scores[c] ?? 0) - (b.scores[c] ?? 0));
    if (!items.length) return;
    const item = items[Math.floor(items.length / 2)];
    for (const [id, name] of [[item.images[0], "reference"], [item.images[c + 1], one.recommended[0]]]) {
      const figure = make("figure");
      figure.append(image(id, `${name}: ${item.prompt}`), make("figcaption", {}, name));
      box.append(figure);
    }
  };

  // ---------------------------------------------------------------- sorting

  const sortable = (table) => {
    const heads = [...table.tHead.rows[0].cells];
    const value = (row, i) => parseFloat(row.cells[i].textContent.replaceAll(",", ""));
    const compare = (a, b, i) => {
      const [x, y] = [value(a, i), value(b, i)];
      if (Number.isNaN(x) && Number.isNaN(y)) return a.cells[i].textContent.localeCompare(b.cells[i].textContent);
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? Infinity : -Infinity;
      return x - y;
    };
    heads.forEach((head, i) => {
      const button = make("button", { type: "button" }, head.textContent);
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        rows.sort((a, b) => {
          const order = compare(a, b, i);
          return down && Number.isFinite(order) ? -order : order;
        });
        table.tBodies[0].replaceChildren(...rows);
      });
    });
  };

  // ---------------------------------------------------------------- switches

  const only = () => {
    let pairs = 0;
    for (const e of document.querySelectorAll("[data-model]")) {
      const other = e.dataset.metric !== undefined && (metric === null || e.dataset.metric !== metric.name);
      e.hidden = e.dataset.model !== model.name || other;
      pairs += e.dataset.metric !== undefined && !e.hidden;
    }
    if (at("no-pairs")) at("no-pairs").hidden = pairs > 0;
  };
  const chooseMetric = () => {
    metric = model.metrics[at("metric").value] || null;
    at("chart-section").hidden = metric === null;
    only();
    if (metric === null) return;
    at("limit").value = metric.limit === null ? "" : Number(metric.limit.toPrecision(4));
    at("chart-said").textContent = "Point at a mark, or reach it with Tab, for its numbers.";
    chart();
    fastest();
  };
  const chooseModel = () => {
    model = data.models[at("model").value];
    const labels = model.metrics.map((m) => `${m.name} ${m.better === "lower" ? "↓" : "↑"}`);
    const kept = metric === null ? model.metric : metric.name;
    options(at("metric"), labels, Math.max(0, model.metrics.findIndex((m) => m.name === kept)));
    chooseMetric();
    gallery();
  };

  for (const table of document.querySelectorAll("table.sortable")) sortable(table);
  for (const one of data.models) example(one);
  options(at("model"), data.models.map((m) => m.name), 0);
  at("switches").hidden = false;
  at("model").addEventListener("change", chooseModel);
  at("metric").addEventListener("change", chooseMetric);
  at("limit").addEventListener("input", fastest);
  at("prompt").addEventListener("change", showPrompt);
  at("previous").addEventListener("click", () => turn(-1));
  at("next").addEventListener("click", () => turn(1));
  at("slider").addEventListener("input", wipe);
  at("left").addEventListener("change", showPair);
  at("right").addEventListener("change", showPair);
  at("extreme-cell").addEventListener("change", showExtremes);
  let drawn = 0;
  new ResizeObserver(() => {
    if (metric !== null && at("chart").clientWidth !== drawn) { drawn = at("chart").clientWidth; chart(); }
  }).observe(at("chart"));
  chooseModel();
})();
