// Keeps an open page up to date. Everything that came from a tenant is put in as text, never as HTML.

const body = document.body;
const GROUPS = ["awake", "frozen", "asleep", "sick", "disabled"];
const SVG = "http://www.w3.org/2000/svg";
const LINES_MAX = 2000;
const POINTS_MAX = 90;
const POINTS_LEAST = 15;
const grouped = new Intl.NumberFormat("en").format;

function ago(since) {
  const seconds = Math.max(0, Date.now() / 1000 - since);
  for (const [name, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)}${name} ago`;
  }
  return `${Math.floor(seconds)}s ago`;
}

function refreshTimes() {
  for (const each of document.querySelectorAll("time[data-since]")) {
    each.textContent = ago(Number(each.dataset.since));
  }
}

function showLink(on) {
  const link = document.querySelector("[data-link]");
  if (!link) return;
  link.classList.toggle("on", on);
  link.querySelector("[data-link-text]").textContent = on ? "live" : "reconnecting";
}

// Tenants

function showTenant(change) {
  for (const row of document.querySelectorAll("[data-tenant]")) {
    if (row.dataset.tenant !== change.tenant) continue;
    const chip = row.querySelector("[data-state]");
    chip.className = `chip ${change.group}`;
    const sick = change.health && change.health !== "healthy";
    chip.querySelector("[data-state-text]").textContent = change.state + (sick ? ` · ${change.health}` : "");
    row.querySelector("[data-reason]").textContent = change.reason;
    const weight = row.querySelector("[data-weight]");
    if (weight && change.weight !== null) weight.textContent = change.weight;
    const time = row.querySelector("[data-when] time");
    if (time && change.since) {
      time.dataset.since = change.since;
      time.textContent = ago(change.since);
    }
    row.classList.remove("fresh");
    void row.offsetWidth;
    row.classList.add("fresh");
  }
  const list = document.querySelector("[data-events] ol");
  if (list && !["starting", "queued", "stopping", "draining", "thawing", "freezing", "arming"].includes(change.state)) {
    list.prepend(eventOf(change));
    while (list.children.length > 12) list.lastElementChild.remove();
  }
}

function eventOf(change) {
  const item = document.createElement("li");
  const when = document.createElement("span");
  when.className = "when";
  const time = document.createElement("time");
  time.dataset.since = Date.now() / 1000;
  time.textContent = "0s ago";
  when.append(time);
  const what = document.createElement("span");
  what.className = "what";
  if (!body.dataset.pageTenant) {
    const link = document.createElement("a");
    link.href = `/tenants/${change.tenant}`;
    link.textContent = change.tenant;
    what.append(link, " ");
  }
  const chip = document.createElement("span");
  chip.className = `chip ${change.group}`;
  const dot = document.createElement("span");
  dot.className = "dot";
  dot.setAttribute("aria-hidden", "true");
  chip.append(dot, change.state);
  what.append(chip);
  if (change.reason) {
    const why = document.createElement("span");
    why.className = "why";
    why.textContent = ` ${change.reason}`;
    what.append(why);
  }
  item.append(when, what);
  return item;
}

function showCounts({ groups }) {
  let total = 0;
  for (const group of GROUPS) {
    total += groups[group];
    const number = document.querySelector(`[data-count="${group}"]`);
    if (number) number.textContent = grouped(groups[group]);
  }
  const sum = document.querySelector("[data-total]");
  if (sum) sum.textContent = grouped(total);
  const bar = document.querySelector("[data-bar]");
  if (!bar || !total) return;
  let x = 0;
  bar.replaceChildren(...GROUPS.filter((group) => groups[group]).map((group) => {
    const rect = document.createElementNS(SVG, "rect");
    const width = (100 * groups[group]) / total;
    rect.setAttribute("class", group);
    rect.setAttribute("x", x);
    rect.setAttribute("width", width);
    rect.setAttribute("height", 3);
    x += width;
    return rect;
  }));
}

// Sparklines

const points = { cpu: [], memory: [], requests: [] };
let previous = null;

function bytes(count) {
  for (const unit of ["B", "KiB", "MiB"]) {
    if (count < 1024) return `${count.toFixed(unit === "B" || count >= 100 ? 0 : 1)} ${unit}`;
    count /= 1024;
  }
  return `${count.toFixed(1)} GiB`;
}

function showUsage(usage) {
  if (previous && usage.time > previous.time) {
    const span = usage.time - previous.time;
    const rate = Math.max(0, usage.requests - previous.requests) / span;
    draw("requests", rate, `${rate < 10 ? rate.toFixed(1) : rate.toFixed(0)} /s`);
    const counted = usage.cpu_usec !== null && previous.cpu_usec !== null;
    const cpu = counted ? Math.max(0, usage.cpu_usec - previous.cpu_usec) / span / 1e4 : 0;
    draw("cpu", cpu, counted ? `${cpu.toFixed(1)} %` : "none");
  }
  if (usage.memory_bytes === null) {
    document.querySelector('[data-spark="memory"] [data-value]').textContent = "not counted";
  } else {
    draw("memory", usage.memory_bytes, bytes(usage.memory_bytes));
  }
  previous = usage;
}

function draw(key, value, text) {
  const figure = document.querySelector(`[data-spark="${key}"]`);
  if (!figure) return;
  figure.querySelector("[data-value]").textContent = text;
  const all = points[key];
  all.push(value);
  if (all.length > POINTS_MAX) all.shift();
  const top = Math.max(...all, 1e-9);
  const step = 120 / (Math.max(all.length, POINTS_LEAST) - 1);
  const start = 120 - (all.length - 1) * step;
  const path = all.map((each, i) => `${(start + i * step).toFixed(1)},${(31 - (29 * each) / top).toFixed(1)}`).join(" ");
  figure.querySelector(".line").setAttribute("points", path);
  figure.querySelector(".area").setAttribute("points", `${start.toFixed(1)},32 ${path} 120,32`);
}

// Logs

const log = document.querySelector("[data-log]");
const filter = document.querySelector("[data-log-filter]");
const follow = document.querySelector("[data-log-follow]");
const URGENT = new Set(["emerg", "alert", "crit", "err"]);
let queued = [];

function matches(text) {
  return !filter.value || text.toLowerCase().includes(filter.value.toLowerCase());
}

// Escape sequences and other controls are made visible, so that a line looks like what the app wrote.
function visible(text) {
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, (c) => {
    const code = c.charCodeAt(0);
    return code < 32 ? String.fromCharCode(0x2400 + code) : "\ufffd";
  });
}

function lineOf(entry) {
  const line = document.createElement("div");
  const time = document.createElement("time");
  const at = new Date(entry.timestamp * 1000);
  time.dateTime = at.toISOString();
  time.textContent = at.toISOString().slice(11, 19);
  time.title = at.toISOString();
  const text = document.createElement("span");
  text.textContent = visible(entry.message);
  if (URGENT.has(entry.level)) text.className = "urgent";
  line.append(time, text);
  line.hidden = !matches(entry.message);
  return line;
}

// Many lines at once are drawn in one go.
function showLine(entry) {
  if (!queued.length) requestAnimationFrame(drawLines);
  queued.push(entry);
  if (queued.length > LINES_MAX) queued.shift();
}

function drawLines() {
  const lines = queued.map(lineOf);
  queued = [];
  log.querySelector(".empty")?.remove();
  log.append(...lines);
  while (log.children.length > LINES_MAX) log.firstElementChild.remove();
  if (follow.checked) log.scrollTop = log.scrollHeight;
}

function emptyLog() {
  const line = document.createElement("div");
  line.className = "empty";
  line.textContent = "No line yet.";
  log.replaceChildren(line);
}

if (log) {
  emptyLog();
  filter.addEventListener("input", () => {
    for (const line of log.children) line.hidden = !matches(line.textContent);
  });
  log.addEventListener("wheel", () => {
    follow.checked = log.scrollTop + log.clientHeight >= log.scrollHeight - 4;
  });
}

// Questions before what cannot be taken back at once

const dialog = document.querySelector("[data-dialog]");

for (const form of document.querySelectorAll("form[method=post]")) {
  form.addEventListener("submit", (event) => {
    const button = form.querySelector("button");
    if (!form.dataset.ask || form.dataset.sure) {
      button.setAttribute("aria-busy", "true");
      return;
    }
    event.preventDefault();
    dialog.querySelector("[data-question]").textContent = form.dataset.ask;
    dialog.querySelector("[data-yes]").textContent = button.textContent;
    dialog.returnValue = "no";
    dialog.addEventListener("close", () => {
      if (dialog.returnValue !== "yes") return;
      form.dataset.sure = "yes";
      form.requestSubmit();
    }, { once: true });
    dialog.showModal();
  });
}

// Search as one types

const search = document.querySelector("[data-search]");

async function find() {
  const target = `/tenants?${new URLSearchParams(new FormData(search))}`;
  const answer = await fetch(target, { headers: { Accept: "text/html" } });
  if (!answer.ok || answer.redirected) return location.assign(target);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.querySelector("#results").replaceWith(page.querySelector("#results"));
  history.replaceState(null, "", target);
}

if (search) {
  let timer = 0;
  search.querySelector("button").hidden = true;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(find, 150);
  });
  search.addEventListener("submit", (event) => {
    event.preventDefault();
    find();
  });
}

if (body.dataset.live) {
  const source = new EventSource(body.dataset.live);
  const on = (name, show) => source.addEventListener(name, (event) => show(JSON.parse(event.data)));
  source.addEventListener("open", () => {
    showLink(true);
    if (log) emptyLog();
    for (const all of Object.values(points)) all.length = 0;
    previous = null;
  });
  source.addEventListener("error", () => showLink(false));
  on("tenant", showTenant);
  on("counts", showCounts);
  on("usage", showUsage);
  on("log", showLine);
  setInterval(refreshTimes, 5000);
} else {
  document.querySelector("[data-link]")?.remove();
}
