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

// The first codes of a Semantic ID, and all that are shared, which are bold; the pointer shows the rest.
const SHOWN_CODES = 6;

function codes(item, shared) {
  const all = item.codes || [], shown = all.slice(0, SHOWN_CODES), cell = make("span", "", "codes");
  shown.forEach((code, level) => {
    if (level) cell.append("-");
    cell.append(level < shared ? make("b", code) : String(code));
  });
  if (all.length > shown.length) {
    cell.append(shared > shown.length ? `… (${all.length} codes, the first ${shared} shared)` : `… (${all.length} codes)`);
    cell.title = all.join("-");
  }
  return cell;
}

// Long titles are cut; the pointer shows the rest.
const SHOWN_TITLE = 90;

function titleOf(item) {
  const letters = Array.from(item.title), shown = make("span", letters.length > SHOWN_TITLE ? letters.slice(0, SHOWN_TITLE - 1).join("") + "…" : item.title, "title");
  if (letters.length > SHOWN_TITLE) shown.title = item.title;
  return shown;
}

// Plain text within a sentence, where a control character of bidirectional text would turn what stands around it.
function undirected(text) { return text.replace(/[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, ""); }

function button(text, label, act) {
  const made = make("button", text);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

function described(item, shared, tags) {
  const text = document.createElement("span");
  if (item.title) text.append(titleOf(item), " ");
  text.append(make("span", item.item_id, "id"));
  [...(item.cold ? ["cold: no training interaction"] : []), ...tags].forEach((tag) => text.append(make("span", ` · ${tag}`, "tag")));
  if (item.codes) text.append(codes(item, shared));
  return text;
}

async function search() {
  const text = element("search").value, number = ++searches;
  element("matches").textContent = "";
  if (!text.trim()) { element("found").replaceChildren(); return; }
  try {
    const found = await ask("items?search=" + encodeURIComponent(text));
    if (number !== searches) return;
    const cut = found.matches > found.items.length ? `, the ${found.items.length} most popular ones are shown` : "";
    element("matches").textContent = found.matches ? `${found.matches.toLocaleString("en")} ${found.matches === 1 ? "item matches" : "items match"}${cut}` : "No title has all of these words.";
    element("found").replaceChildren(...found.items.map((item) => {
      const line = document.createElement("li");
      line.append(button("Add", `Add ${item.title || item.item_id}`, () => { add(item); }), described(item, 0, []));
      return line;
    }));
  } catch (error) { fail(error); }
}

function add(item) {
  if (history_.length >= maxHistory) { fail(new Error(`A history has at most ${maxHistory} items.`)); return; }
  history_.push(item);
  showHistory();
}

function remove(place) {
  history_.splice(place, 1);
  showHistory();
  const left = element("history").querySelectorAll("button"); // the keyboard stays at this place
  (left[Math.min(place, left.length - 1)] || element("search")).focus();
}

function showHistory() {
  element("empty").textContent = history_.length ? `${history_.length} ${history_.length === 1 ? "item" : "items"}` : "Empty. Add items from the search above.";
  element("history").replaceChildren(...history_.map((item, place) => {
    const line = document.createElement("li");
    line.append(button("Remove", `Remove ${item.title || item.item_id}`, () => { remove(place); }), described(item, 0, []));
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
  element("waiting").hidden = ids.length > 0;
  if (!ids.length) { element("lists").replaceChildren(); element("about-codes").hidden = element("about-other").hidden = true; element("lists").setAttribute("aria-busy", "false"); return; }
  element("lists").setAttribute("aria-busy", "true");
  try {
    const found = await ask("recommend", posted({ history: ids, n: Number(element("n").value), exclude_seen: element("exclude").checked }));
    if (number !== requests) return;
    element("lists").replaceChildren(...found.lists.map((list) => table(list, found.lists.filter((other) => other !== list))));
    element("about-codes").hidden = !found.lists.some((list) => list.items.some((item) => item.codes));
    element("about-other").hidden = found.lists.length !== 2;
  } catch (error) { if (number === requests) { fail(error); element("lists").replaceChildren(); } }
  if (number === requests) element("lists").setAttribute("aria-busy", "false");
}

function head(text, kind) {
  const made = make("th", text, kind);
  made.scope = "col";
  return made;
}

// A list of a row. Beside one other list it has the place of each item in that one.
function table(list, others) {
  const box = document.createElement("div"), made = document.createElement("table"), heads = document.createElement("tr");
  const other = others.length === 1 ? new Map(others[0].items.map((item) => [item.item_id, item.position])) : null;
  const history = new Set(history_.map((item) => item.item_id)), title = `${list.row}, seed ${list.seed}`;
  heads.append(head("#", "number"), head("Item"), head("Score", "number"), ...(other ? [head("Other list", "number")] : []));
  made.append(heads, ...list.items.map((item) => {
    const row = document.createElement("tr"), about = document.createElement("td");
    about.append(described(item, item.shared_prefix || 0, history.has(item.item_id) ? ["in the history"] : []));
    row.append(make("td", item.position, "number"), about, make("td", item.score.toPrecision(4), "number"));
    if (other) row.append(make("td", other.get(item.item_id) ?? "–", "number"));
    return row;
  }));
  made.setAttribute("aria-label", title);
  box.append(make("h3", title), made);
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
    element("about").textContent = about.rows.map((row) => `${row.row}: ${row.policy}, seed ${row.seed}, ${row.items.toLocaleString("en")} items`).join("; ");
    element("n").max = about.max_n;
    element("n").value = Math.min(10, about.max_n);
    element("exclude").checked = about.rows[0].exclude_seen;
    maxHistory = about.max_history;
    const link = new URLSearchParams(location.hash.slice(1)), linked = link.getAll("history");
    element("search").value = link.get("search") || "";
    if (element("search").value) search();
    const notes = restore(link, about.max_n);
    if (linked.length) {
      const taken = linked.slice(-maxHistory);
      if (taken.length < linked.length) notes.push(`The history of the link has ${linked.length} items; these are the newest ${taken.length}, as many as a history can have.`);
      const found = await ask("items", posted({ ids: taken }));
      history_.push(...found.items);
      if (found.unknown.length) notes.push(`The history of the link is shown without the items that are not known here: ${undirected(found.unknown.join(", "))}.`);
    }
    element("linked").textContent = notes.join(" ");
    if (linked.length) showHistory();
  } catch (error) { fail(error); }
}

element("search").addEventListener("input", search);
element("n").addEventListener("change", recommend);
element("exclude").addEventListener("change", recommend);
start();
