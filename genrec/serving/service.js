"use strict";
const element = (id) => document.getElementById(id);
const history_ = [];
let maxHistory = 500, searches = 0, requests = 0;

function make(tag, text, kind) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

async function ask(path, options) {
  const answer = await fetch(path, options);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

function fail(error) { element("error").textContent = error.message; }

function codes(item, shared) {
  const cell = make("span", "", "codes");
  (item.codes || []).forEach((code, level) => {
    if (level) cell.append("-");
    cell.append(level < shared ? make("b", code) : String(code));
  });
  return cell;
}

function button(text, label, act) {
  const made = make("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function described(item) {
  return `${item.title ? `${item.title} (${item.item_id})` : item.item_id}${item.cold ? ", cold" : ""} `;
}

async function search() {
  const text = element("search").value, number = ++searches;
  element("matches").textContent = "";
  if (!text.trim()) { element("found").replaceChildren(); return; }
  try {
    const found = await ask("items?search=" + encodeURIComponent(text));
    if (number !== searches) return;
    element("matches").textContent = `${found.matches} items match` + (found.matches > found.items.length ? `, the ${found.items.length} most popular ones are shown` : "");
    element("found").replaceChildren(...found.items.map((item) => {
      const line = document.createElement("li");
      line.append(button("Add", `Add ${item.title || item.item_id}`, () => { add(item); }), described(item), codes(item, 0));
      return line;
    }));
  } catch (error) { fail(error); }
}

function add(item) {
  if (history_.length >= maxHistory) { fail(new Error(`A history has at most ${maxHistory} items.`)); return; }
  history_.push(item);
  showHistory();
}

function showHistory() {
  element("empty").hidden = history_.length > 0;
  element("history").replaceChildren(...history_.map((item, place) => {
    const line = document.createElement("li");
    line.append(button("Remove", `Remove ${item.title || item.item_id}`, () => { history_.splice(place, 1); showHistory(); }), described(item), codes(item, 0));
    return line;
  }));
  recommend();
}

function posted(content) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) };
}

function keepInAddress(ids) {
  const link = new URLSearchParams(ids.map((id) => ["history", id]));
  link.append("n", element("n").value);
  link.append("exclude_seen", element("exclude").checked);
  history.replaceState(null, "", "#" + link);
}

async function recommend() {
  const number = ++requests;
  element("error").textContent = "";
  const ids = history_.map((item) => item.item_id);
  keepInAddress(ids);
  if (!ids.length) { element("lists").replaceChildren(); return; }
  try {
    const found = await ask("recommend", posted({ history: ids, n: Number(element("n").value), exclude_seen: element("exclude").checked }));
    if (number === requests) element("lists").replaceChildren(...found.lists.map(table));
  } catch (error) { if (number === requests) fail(error); }
}

function table(list) {
  const box = document.createElement("div"), made = document.createElement("table"), head = document.createElement("tr");
  head.append(make("th", "#", "number"), make("th", "item"), make("th", "Semantic ID"), make("th", "score", "number"));
  made.append(head, ...list.items.map((item) => {
    const row = document.createElement("tr"), ids = document.createElement("td");
    ids.append(codes(item, item.shared_prefix || 0));
    row.append(make("td", item.position, "number"), make("td", described(item)), ids, make("td", item.score.toPrecision(4), "number"));
    return row;
  }));
  box.append(make("h3", `${list.row}, seed ${list.seed}`), made);
  return box;
}

function restore(link, most) {
  const n = link.get("n"), exclude = link.get("exclude_seen");
  if (exclude !== null) element("exclude").checked = exclude === "true";
  if (n === null) return [];
  if (!/^[0-9]+$/.test(n) || Number(n) < 1 || Number(n) > most) return [`The link asks for lists of ${n} items; they have 1 to ${most}.`];
  element("n").value = n;
  return [];
}

async function start() {
  try {
    const about = await ask("rows");
    element("about").textContent = about.rows.map((row) => `${row.row}: ${row.policy}, seed ${row.seed}, ${row.items.toLocaleString()} items`).join("; ");
    element("n").max = about.max_n;
    element("n").value = Math.min(10, about.max_n);
    element("exclude").checked = about.rows[0].exclude_seen;
    maxHistory = about.max_history;
    const link = new URLSearchParams(location.hash.slice(1)), linked = link.getAll("history");
    element("search").value = link.get("search") || "";
    if (element("search").value) search();
    const notes = restore(link, about.max_n);
    if (linked.length) {
      const found = await ask("items", posted({ ids: linked }));
      history_.push(...found.items);
      if (found.unknown.length) notes.push(`The history of the link is shown without the items that are not known here: ${found.unknown.join(", ")}.`);
    }
    element("linked").textContent = notes.join(" ");
    if (linked.length) showHistory();
  } catch (error) { fail(error); }
}

element("search").addEventListener("input", search);
element("n").addEventListener("change", recommend);
element("exclude").addEventListener("change", recommend);
start();
