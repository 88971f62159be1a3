"use strict";
(() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const COLORS = 8;
  const OPTIONS = { actions: false, renderer: "svg", ast: true, mode: "vega-lite" };
  const SHAPES = [
    '<circle cx="8" cy="8" r="6"/>', '<path d="M2.5 2.5h11v11h-11z"/>', '<path d="M8 2l7 12H1z"/>', '<path d="M8 1l6 7-6 7-6-7z"/>',
    '<path d="M6 1.5h4V6h4.5v4H10v4.5H6V10H1.5V6H6z"/>', '<path d="M1 2h14L8 14z"/>', '<path d="M2 1l12 7-12 7z"/>',
    '<path d="M14 1v14L2 8z"/>',
  ];
  const root = document.documentElement.style;
  const slots = new Map(); // place of a row -> number of its color
  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  // An option is plain text, where a control character of bidirectional text would turn what stands around it.
  const undirected = (text) => text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, "");
  const swatch = (row) => {
    const parsed = new DOMParser().parseFromString(
      `<svg class="swatch" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="var(--r${row})">${SHAPES[content.rows[row].shape]}</svg>`, "image/svg+xml");
    return document.importNode(parsed.documentElement, true);
  };

  // The names of the rows in a chart.
  const drawnRows = (number) => {
    const { spec } = content.charts[number];
    return new Set([spec, ...spec.layer].flatMap((each) => (each.data ? each.data.values : [])).map((each) => each.row));
  };

  // Colors: a row's variable is that of its slot, or gray; no chart is drawn again.
  const paint = () => {
    content.rows.forEach((_, row) => root.setProperty(`--r${row}`, slots.has(row) ? `var(--p${slots.get(row)})` : "var(--other)"));
    document.querySelectorAll(".legend").forEach((legend) => {
      const charts = [...legend.parentElement.querySelectorAll(".chart")].map((place) => drawnRows(Number(place.dataset.chart)));
      legend.replaceChildren(...content.rows.flatMap((row, place) => {
        if (!slots.has(place) || !charts.some((drawn) => drawn.has(row.name))) return [];
        const entry = element("span");
        entry.append(swatch(place), ` ${row.name}`);
        return [entry];
      }));
    });
    showUser();
  };
  const toggle = (row) => {
    if (slots.has(row)) slots.delete(row);
    else {
      const free = [...Array(COLORS).keys()].find((color) => ![...slots.values()].includes(color));
      if (free === undefined) slots.delete([...slots.keys()][0]);
      slots.set(row, free ?? [...Array(COLORS).keys()].find((color) => ![...slots.values()].includes(color)));
    }
    document.querySelectorAll(".chips button").forEach((chip, place) => chip.setAttribute("aria-pressed", String(slots.has(place))));
    paint();
  };
  const drawKey = () => {
    const chips = document.querySelector(".chips");
    content.rows.forEach((row, place) => {
      const chip = element("button");
      chip.type = "button";
      chip.setAttribute("aria-pressed", String(slots.has(place)));
      chip.append(swatch(place), ` ${row.name}${row.reference ? " (reference)" : ""}`);
      chip.addEventListener("click", () => toggle(place));
      chips.append(chip);
    });
    document.getElementById("key").hidden = content.rows.length < 2;
    document.querySelectorAll(".mark").forEach((mark) => mark.append(swatch(Number(mark.dataset.row))));
  };

  // Charts
  const drawCharts = async () => {
    const views = [];
    for (const place of document.querySelectorAll(".chart")) {
      const drawn = await vegaEmbed(place, content.charts[Number(place.dataset.chart)].spec, OPTIONS);
      views.push({ place, view: drawn.view });
    }
    // On paper a chart is as wide as its column, so that its text keeps its size.
    addEventListener("beforeprint", () => views.forEach(({ view, place }) => view.width(place.closest(".single") && !place.closest(".beside") ? 520 : 340).run()));
    addEventListener("afterprint", () => views.forEach(({ view, place }) => view.width(place.clientWidth).run()));
    document.querySelectorAll(".save").forEach((button) => {
      button.hidden = false;
      button.addEventListener("click", () => save(Number(button.dataset.chart)));
    });
    // On paper all tables are open.
    let closed = [];
    addEventListener("beforeprint", () => {
      closed = [...document.querySelectorAll("details")].filter((each) => !each.open);
      closed.forEach((each) => { each.open = true; });
    });
    addEventListener("afterprint", () => closed.forEach((each) => { each.open = false; }));
    document.body.dataset.ready = "true";
  };
  // A saved chart stands alone: it has a title, and a legend of the rows with a color.
  const save = async (number) => {
    const { title, spec } = structuredClone(content.charts[number]);
    const drawn = drawnRows(number);
    const names = content.rows.filter((row, place) => slots.has(place) && drawn.has(row.name)).map((row) => row.name);
    spec.width = 640;
    spec.config.legend.layout = { bottom: { direction: "vertical", anchor: "start" } };
    spec.title = { text: title, anchor: "start", color: "var(--text)", fontSize: 14, fontWeight: "normal", offset: 12 };
    const named = document.querySelector(`.chart[data-chart="${number}"]`).closest("section").querySelector(".legend");
    for (const { encoding } of named ? spec.layer : []) {
      const others = encoding.color?.legend?.values ?? [];
      const legend = { title: null, orient: "bottom", columns: 2, symbolSize: 90, symbolOpacity: 1, values: [...names, ...others] };
      if (encoding.color?.field === "row") encoding.color.legend = legend;
      if (encoding.shape?.field === "row" && !others.length) encoding.shape.legend = legend;
    }
    const { view } = await vegaEmbed(element("div"), spec, OPTIONS);
    const style = getComputedStyle(document.documentElement);
    let text = await view.toSVG();
    view.finalize();
    for (let left = 4; left && text.includes("var("); left -= 1) {
      text = text.replace(/var\((--\w+)\)/g, (_, name) => style.getPropertyValue(name).trim());
    }
    const link = element("a");
    link.href = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    link.download = `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60)}.svg`;
    link.click();
  };

  // Users
  const select = document.getElementById("user");
  const codesOf = (item, tokenizer, target) => {
    const codes = content.users.items[item].codes[tokenizer];
    const wanted = target === undefined ? [] : content.users.items[target].codes[tokenizer];
    let shared = 0;
    while (shared < codes.length && codes[shared] === wanted[shared]) shared += 1;
    const shown = element("span", undefined, "codes");
    shown.title = codes.join(", ");
    const cut = codes.slice(0, 6);
    if (shared) shown.append(element("b", cut.slice(0, shared).join(" ")), " ");
    shown.append(cut.slice(shared).join(" ") + (codes.length > cut.length ? ` … (${codes.length} codes)` : ""));
    return shown;
  };
  const nameOf = (item) => {
    const { id, title } = content.users.items[item];
    return title && title !== id ? `${title}, ${id}` : id;
  };
  const entry = (item, place, tokenizer, user) => {
    const line = element("li");
    const { id, title } = content.users.items[item];
    line.append(element("span", place ? `${place}. ` : "", "place"));
    if (title && title !== id) line.append(element("span", title, "title"), " ");
    line.append(element("span", id, "id"));
    if (user && item === user.target) {
      line.className = "hit";
      line.append(element("span", " ✓ the target", "tag"));
    } else if (user && user.history.includes(item)) line.append(element("span", " in the history", "tag"));
    if (tokenizer !== undefined) line.append(codesOf(item, tokenizer, user && user.target));
    return line;
  };
  const list = (title, entries, row) => {
    const made = element("div", undefined, "list");
    const head = element("h3");
    if (row !== undefined) head.append(swatch(row), " ");
    head.append(title);
    const items = element("ol");
    items.append(...(entries.length ? entries : [element("li", "empty")]));
    made.append(head, items);
    return made;
  };
  const showUser = () => {
    if (!select) return;
    const user = content.users.users[Number(select.value)];
    const first = content.rows.map((row) => content.users.tokenizers[row.name]).find((each) => each !== undefined);
    const lists = element("div", undefined, "lists");
    lists.tabIndex = 0;
    const cut = user.length > user.history.length ? `, last ${user.history.length} of ${user.length}` : "";
    const about = list("Target", [entry(user.target, 0, first)]);
    about.append(...list(`History${cut}, latest first`, [...user.history].reverse().map((item) => entry(item, 0, first))).childNodes);
    lists.append(about);
    content.rows.forEach((row, place) => {
      const own = user.lists[row.name];
      if (!own || !slots.has(place)) return;
      const at = own.indexOf(user.target);
      const rank = at < 0 ? `not in the first ${content.users.places}` : `place ${at + 1}`;
      const title = `${row.name}, seed ${content.users.seeds[row.name]}: target ${rank}`;
      lists.append(list(title, own.map((item, index) => entry(item, index + 1, content.users.tokenizers[row.name], user)), place));
    });
    document.getElementById("browser").replaceChildren(lists);
  };
  const drawUsers = () => {
    if (!select) return;
    content.users.users.forEach((user, number) => {
      const found = Object.values(user.lists).filter((own) => own.includes(user.target)).length;
      const about = `user ${user.id}, target ${nameOf(user.target)} (found by ${found} of ${Object.keys(user.lists).length} rows)`;
      const option = element("option", undirected(about));
      option.value = String(number);
      select.append(option);
    });
    const move = (by) => {
      select.value = String((Number(select.value) + by + select.length) % select.length);
      showUser();
    };
    select.addEventListener("change", showUser);
    document.getElementById("previous").addEventListener("click", () => move(-1));
    document.getElementById("next").addEventListener("click", () => move(1));
    document.querySelector(".pick").hidden = false;
    select.value = String(Math.max(0, content.users.users.findIndex((user) => Object.values(user.lists).some((own) => own.includes(user.target)))));
  };

  content.highlighted.forEach((row, color) => slots.set(row, color));
  drawUsers();
  drawKey();
  paint();
  drawCharts();
})();
