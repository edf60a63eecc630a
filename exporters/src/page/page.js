/* The charts that there are, polling, and what the visitor chooses. */

const PERIOD_MS = 1000;
const THEMES = ["auto", "light", "dark"];

/* What the visitor chose, kept for the next visit where the browser allows it. */
const choices = {
  get: name => { try { return localStorage.getItem(name) } catch { return null } },
  set: (name, value) => { try { localStorage.setItem(name, value) } catch { /* for now, then */ } },
};

const line = (name, label, value, more = {}) => ({ name, label, value, mark: "line", ...more });
const bars = (name, label, value, more = {}) => ({ name, label, value, mark: "bars", ...more });
const part = ([key, name, label]) =>
  ({ name, label, mark: "stack", value: observation => observation.parts?.[key] ?? null });

const past = new ObservationHistory();
const view = new View();

new Chart(view, "memory", {
  lanes: [{
    height: 250,
    scale: "bytes",
    series: [
      bars("purged", "purged since the look before", observation => observation.purgedBytes),
      line("live", "live", observation => observation.live),
      line("rss", "RSS", observation => observation.rss),
      {
        name: "busy", label: "gate busy, part of its ticks", mark: "band", format: percent,
        value: observation => observation.busyShare,
      },
    ],
  }],
});
new Chart(view, "breakdown", {
  shares: observation => observation.rss,
  lanes: [{
    height: 270,
    scale: "bytes",
    series: [
      ...PARTS.map(part),
      {
        name: "sum", label: "sum of the parts", mark: "total",
        value: observation => total(observation.parts),
      },
      line("rss", "RSS, as the kernel has it", observation => observation.rss),
    ],
  }],
});
new Chart(view, "ledger", {
  lanes: [
    {
      label: "Pending", height: 105, scale: "bytes",
      series: [line("dirty", "pending", observation => observation.pending)],
    },
    {
      label: "Age of the oldest", height: 80, scale: "seconds",
      series: [line("age", "age", observation => observation.age)],
    },
  ],
});
new Chart(view, "calls", {
  lanes: [
    {
      label: "Pages purged each second", height: 53, scale: "number",
      series: [bars("purged", "pages/s", observation => observation.pagesRate)],
    },
    {
      label: "Calls each second", height: 53, scale: "number",
      series: [bars("rate", "calls/s", observation => observation.callsRate)],
    },
    {
      label: "Pages per call", height: 53, scale: "number",
      series: [
        bars("purged", "pages per call", one => one.pagesPerCall, { none: "no call" }),
      ],
    },
  ],
});

const classTable = new ClassTable();
const arenaMap = new ArenaMap();

const poller = {
  timer: null,
  paused: false,
  latest: null,
  lostSince: null,
};

function showSnapshot() {
  if (!poller.latest) return;
  view.show(past.within(view.seconds), view.seconds);
  const grown = past.growthWithin(view.seconds);
  showHeadline(poller.latest, past.latest, grown);
  classTable.show(poller.latest);
  showHistograms(poller.latest);
  showRest(poller.latest, grown);
}

/* Only where it is another: what is set is read aloud. */
function setText(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

function showStatus() {
  const lost = poller.lostSince !== null;
  const state = lost ? "lost" : poller.paused ? "paused" : poller.latest ? "live" : "connecting";
  const text = lost ? `disconnected since ${clock(poller.lostSince)}` : state;
  setText("status", text);
  byId("status").dataset.state = state;
  document.body.classList.toggle("lost", lost);
  byId("lost").hidden = !lost;
  if (lost) {
    setText("lost", `Disconnected since ${clock(poller.lostSince)}: the service does ` +
      `not answer. ${past.latest ? `The figures are of ${clock(past.latest.time)}. ` : ""}` +
      `${poller.paused ? "" : "Trying again each second."}`);
  }
}

async function poll() {
  clearTimeout(poller.timer);
  if (document.hidden || poller.paused) return;
  const snapshot = await fetchJson("snapshot.json").catch(() => null);
  clearTimeout(poller.timer);
  poller.timer = setTimeout(poll, PERIOD_MS);
  if (snapshot) {
    past.add(snapshot, Date.now(), poller.lostSince !== null);
    poller.latest = snapshot;
    poller.lostSince = null;
    showSnapshot();
  } else {
    poller.lostSince ??= Date.now();
  }
  showStatus();
}

function setWindow(windowSeconds) {
  view.seconds = windowSeconds;
  choices.set("window", windowSeconds);
  showSnapshot();
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  choices.set("theme", theme);
}

function setPaused(paused) {
  poller.paused = paused;
  byId("pause").setAttribute("aria-pressed", paused);
  arenaMap.pause(paused);
  showStatus();
  poll();
}

function begin() {
  byId("windows").addEventListener("change", event => setWindow(Number(event.target.value)));
  const kept = byId("windows").querySelector(`[value="${Number(choices.get("window"))}"]`);
  if (kept) {
    kept.checked = true;
    view.seconds = Number(kept.value);
  }
  setTheme(THEMES.find(theme => theme === choices.get("theme")) ?? THEMES[0]);
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    setTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  });
  byId("pause").addEventListener("click", () => setPaused(!poller.paused));
  document.addEventListener("visibilitychange", poll);
  showStatus();
  poll();
}

begin();
