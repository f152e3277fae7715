"use strict";
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // ---- theme -------------------------------------------------------------
  const system = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  let printing = false; // paper is light
  const current = () =>
    printing ? "light" : root.dataset.theme || (system.matches ? "dark" : "light");
  const showTheme = () => {
    const other = current() === "dark" ? "Light" : "Dark";
    button.textContent = other + " theme";
    root.dataset.drawn = current();
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = current() === "dark" ? "light" : "dark";
    redraw();
  });
  system.addEventListener("change", () => redraw());
  addEventListener("beforeprint", () => {
    printing = true;
    paintMap();
    for (const folded of document.querySelectorAll(".part[open] .tables details, section > .tables details")) folded.open = true;
  });
  addEventListener("afterprint", () => { printing = false; paintMap(); });

  // ---- charts ------------------------------------------------------------
  const unpack = (columns) => {
    const names = Object.keys(columns);
    const read = names.map((name) => {
      const column = columns[name];
      return column.texts ? column.index.map((i) => column.texts[i]) : column;
    });
    const rows = [];
    for (let i = 0; names.length && i < read[0].length; i++) {
      const row = {};
      names.forEach((name, k) => { row[name] = read[k][i]; });
      rows.push(row);
    }
    return rows;
  };
  const specOf = (packed, title) => {
    const spec = { ...packed, description: title, datasets: {} };
    for (const [name, columns] of Object.entries(packed.datasets)) {
      spec.datasets[name] = unpack(columns);
    }
    return spec;
  };
  const views = new Map();
  const chosen = {};
  const draw = async (element) => {
    const variant = page.figures[element.dataset.chart][chosen[element.dataset.chart] || 0];
    const spec = variant.specs[element.dataset.bos];
    const old = views.get(element);
    if (old) { old.finalize(); views.delete(element); }
    if (!spec) {
      element.textContent = "Not measured in this run.";
      return;
    }
    const narrow = element.clientWidth < 460; // then a legend takes a line for each of its entries
    const { datasets, ...shape } = spec;
    const held = narrow ? JSON.stringify(shape).replace(/"columns":\d+/g, '"columns":1') : "";
    const fitting = narrow ? { ...JSON.parse(held), datasets } : spec;
    const config = page.themes[current()].config;
    const legend = narrow ? { ...config.legend, columns: 1 } : config.legend;
    const result = await vegaEmbed(element, specOf(fitting, element.dataset.title), {
      mode: "vega-lite",
      renderer: "svg",
      ast: true, // expressions are interpreted: the page allows no eval
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: element.dataset.chart + "-" + element.dataset.bos,
      config: { ...config, legend },
    });
    views.set(element, result);
    const menu = element.querySelector("summary");
    if (menu) menu.setAttribute("aria-label", "Save this chart");
    if (element.dataset.chart === "heat") {
      result.view.addEventListener("click", (_, item) => {
        if (item && item.datum && "head" in item.datum) {
          openMap(element.dataset.bos, item.datum.block, item.datum.head);
        }
      });
    }
  };
  const elements = [...document.querySelectorAll("[data-chart]")];
  const waiting = new Set();
  let drawing = false;
  const drawAll = async (some) => {
    for (const element of some) {
      if (!element.closest(".part:not([open])")) waiting.add(element); // what is folded has no width
    }
    root.dataset.charts = "drawing";
    if (drawing) return;
    drawing = true;
    try {
      for (const element of waiting) { // what is added meanwhile is drawn too
        waiting.delete(element);
        await draw(element);
      }
    } finally {
      drawing = false;
    }
    root.dataset.charts = "drawn";
  };
  const choose = (figure) => {
    const name = figure.dataset.figure;
    const [label, axis] = ["[data-select]", "[data-axis]"].map((one) => figure.querySelector(one));
    const axes = axis ? axis.options.length : 1;
    chosen[name] = Number(label ? label.value : 0) * axes + Number(axis ? axis.value : 0);
    figure.querySelector("figcaption").textContent = page.figures[name][chosen[name]].caption;
    return name;
  };
  const drawFigures = (figures) => {
    const names = figures.map(choose);
    drawAll(elements.filter((element) => names.includes(element.dataset.chart)));
  };
  for (const select of document.querySelectorAll("[data-select]")) {
    select.addEventListener("change", () => drawFigures([select.closest("figure")]));
  }
  const axes = [...document.querySelectorAll("[data-axis]")];
  for (const select of axes) {
    select.addEventListener("change", () => { // figures that lie below each other keep one axis
      for (const other of axes) other.value = select.value;
      drawFigures(axes.map((other) => other.closest("figure")));
    });
  }
  const redraw = () => {
    showTheme();
    paintMap();
    for (const [element, result] of views) { // what is folded now is drawn anew when it is opened
      if (element.closest(".part:not([open])")) { result.finalize(); views.delete(element); }
    }
    return drawAll(elements);
  };

  // ---- parts that fold ---------------------------------------------------
  const parts = [...document.querySelectorAll(".part")];
  const fold = byId("fold");
  const folded = () => parts.some((part) => !part.open);
  const showFold = () => { fold.textContent = folded() ? "Open all parts" : "Fold all parts"; };
  for (const part of parts) {
    part.addEventListener("toggle", () => {
      showFold();
      drawAll([...part.querySelectorAll("[data-chart]")].filter((element) => !views.has(element)));
    });
  }
  fold.hidden = !parts.length;
  fold.addEventListener("click", () => {
    const open = folded();
    for (const part of parts) part.open = open;
  });
  const follow = () => {
    const target = location.hash && byId(decodeURIComponent(location.hash.slice(1)));
    const part = target && target.querySelector(".part");
    if (part) { part.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", follow);

  // ---- attention maps ----------------------------------------------------
  const SVG = "http://www.w3.org/2000/svg";
  const inflated = {};
  const map = { bos: null, cells: null, bytes: null, at: [0, 0] };
  const inflate = async (bos) => {
    if (!inflated[bos]) {
      const packed = Uint8Array.from(atob(page.maps[bos].bytes), (c) => c.charCodeAt(0));
      const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
      inflated[bos] = new Uint8Array(await new Response(stream).arrayBuffer());
    }
    return inflated[bos];
  };
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const colourOf = (share) => {
    const ramp = page.themes[current()].ramp;
    const place = Math.sqrt(Math.min(Math.max(share, 0), 1)) * (ramp.length - 1);
    const low = Math.min(Math.floor(place), ramp.length - 2);
    const [from, to] = [channels(ramp[low]), channels(ramp[low + 1])];
    return from.map((value, i) => Math.round(value + (to[i] - value) * (place - low)));
  };
  const css = (rgb) => "rgb(" + rgb.join(",") + ")";
  const inkOn = ([r, g, b]) => (0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#14171b" : "#ffffff");
  const fill = (select, options, keep) => {
    const before = keep === undefined ? select.value : String(keep);
    select.replaceChildren(...options.map(([value, label]) => new Option(label, value)));
    if (options.some(([value]) => String(value) === before)) select.value = before;
  };
  const selects = ["bos", "example", "block", "head"].reduce(
    (all, name) => ({ ...all, [name]: byId("map-" + name) }), {});
  const share = (query, key) => {
    const data = page.maps[map.bos];
    const size = (data.size * (data.size + 1)) / 2;
    const block = Number(selects.block.value), head = Number(selects.head.value);
    const index = data.heads.findIndex((pair) => pair[0] === block && pair[1] === head);
    const start = (Number(selects.example.value) * data.heads.length + index) * size;
    return map.bytes[start + (query * (query + 1)) / 2 + key] / 255;
  };
  const make = (name, attributes, parent) => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    parent.append(node);
    return node;
  };
  const cut = (text) => ([...text].length > 12 ? [...text].slice(0, 11).join("") + "…" : text);
  const CELL = 10, EDGE = 84;
  const buildMap = () => {
    const data = page.maps[map.bos];
    const example = Number(selects.example.value);
    const tokens = data.tokens[example].slice(0, data.lengths[example]);
    const size = EDGE + tokens.length * CELL + 2;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 " + size + " " + size);
    svg.setAttribute("aria-hidden", "true");
    svg.style.maxWidth = 1.35 * size + "px"; // letters of short prompts need not grow
    map.cells = [];
    tokens.forEach((token, i) => {
      const middle = EDGE + (i + 0.5) * CELL;
      const font = { "font-size": 8.4, "dominant-baseline": "central" };
      const row = make("text", { ...font, x: EDGE - 5, y: middle, "text-anchor": "end" }, svg);
      const column = make("text", { ...font, transform: "translate(" + middle + "," + (EDGE - 5) + ") rotate(-90)" }, svg);
      row.textContent = column.textContent = cut(token);
      map.cells.push([]);
      for (let key = 0; key <= i; key++) {
        const place = { x: EDGE + key * CELL, y: EDGE + i * CELL, width: CELL - 0.6, height: CELL - 0.6 };
        const cell = make("rect", place, svg);
        cell.dataset.query = i;
        cell.dataset.key = key;
        map.cells[i].push(cell);
      }
    });
    map.cursor = make("rect", { class: "cursor", width: CELL, height: CELL, x: -99, y: -99 }, svg);
    byId("map-frame").replaceChildren(svg);
    map.tokens = tokens;
    map.at = [tokens.length - 1, 0];
  };
  const paintMap = () => {
    if (!map.cells || !map.bytes) return;
    const sums = map.tokens.map(() => 0);
    map.cells.forEach((row, query) => row.forEach((cell, key) => {
      const value = share(query, key);
      sums[key] += value;
      cell.setAttribute("fill", css(colourOf(value)));
    }));
    byId("map-tokens").replaceChildren(...map.tokens.map((token, key) => {
      const mean = sums[key] / (map.tokens.length - key);
      const span = document.createElement("span");
      const back = colourOf(mean);
      span.textContent = token;
      span.title = "position " + key + ": " + (100 * mean).toFixed(1) + "\u00a0%";
      span.style.backgroundColor = css(back);
      span.style.color = inkOn(back);
      return span;
    }));
    const stops = [0, 0.0625, 0.25, 0.5625, 1];
    const bar = document.createElement("i");
    bar.style.background = "linear-gradient(90deg," + stops.map((v) => css(colourOf(v))).join(",") + ")";
    const ticks = document.createElement("span");
    ticks.append(...stops.map((value) => {
      const tick = document.createElement("b");
      tick.textContent = Math.round(100 * value) + "\u00a0%";
      return tick;
    }));
    byId("map-scale").replaceChildren(bar, ticks);
    readCell();
  };
  const readCell = () => {
    const [query, key] = map.at;
    map.cursor.setAttribute("x", EDGE + key * CELL - 0.3);
    map.cursor.setAttribute("y", EDGE + query * CELL - 0.3);
    byId("map-read").textContent = "Block " + selects.block.value + ", head " + selects.head.value +
      ": query " + query + " “" + map.tokens[query] + "” gives " +
      (100 * share(query, key)).toFixed(1) + "\u00a0% to key " + key + " “" + map.tokens[key] + "”.";
  };
  const fillHeads = (keep) => {
    const data = page.maps[map.bos];
    const block = Number(selects.block.value);
    const heads = data.heads.filter((pair) => pair[0] === block).map((pair) => pair[1]);
    fill(selects.head, heads.sort((a, b) => a - b).map((head) => [head, String(head)]), keep);
  };
  const fillMap = async (block, head) => {
    map.bos = selects.bos.value;
    const data = page.maps[map.bos];
    fill(selects.example, data.tokens.map((_, i) => [i, String(i + 1)]));
    const blocks = [...new Set(data.heads.map((pair) => pair[0]))].sort((a, b) => a - b);
    fill(selects.block, blocks.map((number) => [number, String(number)]), block);
    fillHeads(head);
    map.bytes = await inflate(map.bos);
    buildMap();
    paintMap();
    root.dataset.map = "drawn";
  };
  const openMap = async (bos, block, head) => {
    const data = page.maps[bos];
    const kept = data && data.heads.some((pair) => pair[0] === block && pair[1] === head);
    if (kept) {
      selects.bos.value = bos;
      await fillMap(block, head);
    } else if (data) {
      byId("map-read").textContent = "The page holds no map of block " + block + ", head " + head + ".";
    }
    if (data) {
      byId("maps").querySelector(".part").open = true;
      byId("maps").scrollIntoView();
    }
  };
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const startMaps = async () => {
    const policies = Object.keys(page.maps);
    if (!policies.length) return;
    if (typeof DecompressionStream === "undefined") {
      byId("map-read").textContent = "This browser cannot unpack the maps; a newer one can.";
      return;
    }
    fill(selects.bos, policies.map((bos) => [bos, page.labels[bos]]));
    const first = page.maps[policies[0]];
    const strongest = first.strongest;
    const note = byId("map-note");
    if (first.heads.length < first.total) {
      note.textContent += " The page holds the " + first.heads.length + " strongest of " + first.total + " heads.";
    }
    selects.bos.addEventListener("change", () => fillMap());
    selects.example.addEventListener("change", () => { buildMap(); paintMap(); });
    selects.block.addEventListener("change", () => { fillHeads(); paintMap(); });
    selects.head.addEventListener("change", paintMap);
    const frame = byId("map-frame");
    frame.addEventListener("pointerover", (event) => {
      const cell = event.target.dataset;
      if (cell && cell.query) { map.at = [Number(cell.query), Number(cell.key)]; readCell(); }
    });
    frame.addEventListener("keydown", (event) => {
      const move = step[event.key];
      if (!move || !map.cells) return;
      event.preventDefault();
      const query = Math.min(Math.max(map.at[0] + move[0], 0), map.tokens.length - 1);
      map.at = [query, Math.min(Math.max(map.at[1] + move[1], 0), query)];
      readCell();
    });
    await fillMap(strongest[0], strongest[1]);
  };

  // ---- drawings ----------------------------------------------------------
  const tip = document.createElement("div");
  tip.id = "tip";
  tip.setAttribute("role", "status");
  tip.hidden = true;
  document.body.append(tip);
  const explain = (element, x, y) => {
    tip.textContent = element.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 8)) + "px";
    tip.style.top = (y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
  };
  const silence = () => { tip.hidden = true; };
  for (const canvas of document.querySelectorAll(".canvas")) {
    canvas.addEventListener("pointermove", (event) => {
      const element = event.target.closest("[data-tip]");
      if (element) explain(element, event.clientX, event.clientY);
      else silence();
    });
    canvas.addEventListener("pointerleave", silence);
    canvas.addEventListener("focusin", (event) => {
      if (!event.target.dataset.tip) return;
      const box = event.target.getBoundingClientRect();
      explain(event.target, box.left, box.bottom - 12);
    });
    canvas.addEventListener("focusout", silence);
  }
  addEventListener("keydown", (event) => { if (event.key === "Escape") silence(); });

  showTheme();
  showFold();
  follow();
  startMaps();
  drawAll(elements);
})();
