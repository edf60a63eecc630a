/* Polls the service and shows what it says. */

const PERIOD_MS = 1000, TIMEOUT_MS = 5000;
const THEMES = ["auto", "light", "dark"];

/* It answered, and not with what was asked for. */
class Refused extends Error {}

async function fetchJson(path) {
  const response = await fetch(path, { signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!response.ok) throw new Refused(`${path}: ${response.status}`);
  return response.json();
}

/* What the visitor chose, kept for the next visit where the browser allows it. */
const choices = {
  get: name => { try { return localStorage.getItem(name) } catch { return null } },
  set: (name, value) => { try { localStorage.setItem(name, value) } catch { /* for now, then */ } },
};

const line = (name, label, value, more = {}) => ({ name, label, value, mark: "line", ...more });
const bars = (name, label, value, more = {}) => ({ name, label, value, mark: "bars", ...more });
const part = ([key, name, label]) =>
  ({ name, label, mark: "stack", value: sample => sample.parts?.[key] ?? null });

const past = new SampleHistory();
const view = new View();

new Chart(view, "memory", {
  lanes: [{
    height: 250,
    scale: "bytes",
    series: [
      bars("purged", "purged since the sample before", sample => sample.purgedBytes),
      line("live", "live", sample => sample.live),
      line("rss", "RSS", sample => sample.rss),
      {
        name: "busy", label: "gate busy, part of its ticks", mark: "band", format: percent,
        value: sample => sample.busyShare,
      },
    ],
  }],
});
new Chart(view, "breakdown", {
  shares: sample => sample.rss,
  lanes: [{
    height: 270,
    scale: "bytes",
    series: [
      ...PARTS.map(part),
      {
        name: "sum", label: "sum of the parts", mark: "total",
        value: sample => total(sample.parts),
      },
      line("rss", "RSS, as the kernel has it", sample => sample.rss),
    ],
  }],
});
new Chart(view, "ledger", {
  lanes: [
    {
      label: "Pending", height: 105, scale: "bytes",
      series: [line("dirty", "pending", sample => sample.pending)],
    },
    {
      label: "Age of the oldest", height: 80, scale: "seconds",
      series: [line("age", "age", sample => sample.age)],
    },
  ],
});
new Chart(view, "calls", {
  lanes: [
    {
      label: "Pages purged each second", height: 53, scale: "number",
      series: [bars("purged", "pages/s", sample => sample.pagesRate)],
    },
    {
      label: "Calls each second", height: 53, scale: "number",
      series: [bars("rate", "calls/s", sample => sample.callsRate)],
    },
    {
      label: "Pages per call", height: 53, scale: "number",
      series: [
        bars("purged", "pages per call", sample => sample.pagesPerCall, { none: "no call" }),
      ],
    },
  ],
});

function showHeadline(snapshot, sample) {
  const { purgedPages, calls, purgedBytes } = sample.counts;
  const grown = past.growthWithin(view.seconds);
  show("rss", figure(sample.rss, bytes));
  show("rss-more", "peak ", figure(snapshot.rss_peak_bytes, bytes));
  show("live", figure(sample.live, bytes));
  show("live-more", figure(ratio(sample.live, sample.rss), percent), " of RSS");
  show("purged", figure(purgedBytes, bytes));
  show("purged-more", figure(purgedPages, count), " pages");
  show("per-call", calls === 0 ? "no call yet" : figure(ratio(purgedPages, calls), decimal));
  show("per-call-more", figure(calls, count), " calls");
  show("gate", figure(snapshot.gate_state, state => state ? "busy" : "idle"));
  show("gate-more", ...(grown.ticks === 0
    ? ["no tick in this time"]
    : [figure(ratio(grown.busyTicks, grown.ticks), percent), " of ticks busy"]));
  show("drop", figure(snapshot.release_dropped_total, count));
  show("drop-more", "of ", figure(total(snapshot.release_enqueued_total), count), " ranges");
}

/* Classes as rows; what a class is measured by, under the column's name. */
function classRows(snapshot) {
  const [live, span] = [snapshot.size_class_live_bytes ?? {}, snapshot.size_class_span_bytes ?? {}];
  return Object.keys(span).map(block => ({
    block: Number(block),
    live: live[block] ?? 0,
    span: span[block],
    occupancy: span[block] ? (live[block] ?? 0) / span[block] : 0,
  }));
}

class ClassTable {
  column = "span";
  descending = true;
  rows = [];

  constructor() {
    this.table = byId("classes");
    this.table.querySelectorAll("thead button").forEach(button =>
      button.addEventListener("click", () => this.sortBy(button.dataset.column)));
  }

  sortBy(column) {
    this.descending = column !== this.column || !this.descending;
    this.column = column;
    this.draw();
  }

  show(snapshot) {
    this.rows = classRows(snapshot);
    this.draw();
  }

  draw() {
    const order = this.descending ? -1 : 1;
    this.rows.sort((a, b) => order * (a[this.column] - b[this.column]) || a.block - b.block);
    this.table.querySelectorAll("thead button").forEach(button => {
      const head = button.parentElement;
      if (button.dataset.column !== this.column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", this.descending ? "descending" : "ascending");
    });
    const sum = column => this.rows.reduce((sum, row) => sum + row[column], 0);
    const [live, span] = [sum("live"), sum("span")];
    const all = { live, span, occupancy: span ? live / span : 0 };
    this.table.tBodies[0].replaceChildren(...this.rows.map(row => this.row(row)));
    this.table.tFoot.replaceChildren(this.rows.length
      ? this.row(all)
      : element("tr", {}, element("td", { colspan: 4 }, figure(null))));
  }

  row({ block, live, span, occupancy }) {
    const bar = element("b");
    bar.style.width = `${occupancy * 100}%`;
    const meter = element("div", { class: "meter" },
      element("i", {}, bar), figure(occupancy, percent));
    const name = block === undefined ? "all" : figure(block, value => `${count(value)} B`);
    const cells = [name, figure(live, bytes), figure(span, bytes), meter];
    return element("tr", {}, ...cells.map(cell => element("td", {}, cell)));
  }
}

/* Cumulative buckets as one count each, without the empty ones at both ends. */
function bucketCounts(histogram) {
  const counts = histogram.buckets.map(([edge, upTo], place) =>
    ({ edge, count: upTo - (place ? histogram.buckets[place - 1][1] : 0) }));
  const filled = counts.map(bucket => bucket.count > 0);
  return counts.slice(Math.max(0, filled.indexOf(true)), filled.lastIndexOf(true) + 1);
}

function showHistogram(id, histogram, format, about) {
  const [words, list] = [byId(id).querySelector(".about"), byId(id).querySelector("ol")];
  if (!histogram) {
    words.replaceChildren(figure(null));
    return list.replaceChildren();
  }
  words.replaceChildren(...about(histogram));
  const buckets = bucketCounts(histogram);
  const most = Math.max(...buckets.map(bucket => bucket.count));
  const last = histogram.buckets.at(-2)?.[0] ?? 0;
  list.replaceChildren(...buckets.map(({ edge, count: number }) => {
    const bar = element("b");
    bar.style.width = `${100 * number / most}%`;
    const label = edge === null ? `> ${format(last)}` : `≤ ${format(edge)}`;
    return element("li", { class: number ? "" : "none" },
      element("span", {}, label), element("i", {}, bar), figure(number, count));
  }));
}

function showHistograms(snapshot) {
  const mean = (histogram, words, format) =>
    histogram.count ? [words, figure(ratio(histogram.sum, histogram.count), format)] : [];
  const duration = histogram => [
    figure(histogram.count, count), " purges took ", figure(histogram.sum, seconds),
    ...mean(histogram, "; one takes ", seconds),
  ];
  const batch = histogram => [
    figure(histogram.count, count), " purges gave back ", figure(histogram.sum, count), " pages",
    ...mean(histogram, "; one gives ", decimal),
  ];
  showHistogram("purge-duration", snapshot.purge_duration_seconds, shortened(seconds), duration);
  showHistogram("purge-batch", snapshot.purge_batch_pages, count, batch);
}

/* The line that the allocator prints when the program ends. */
function summaryText(snapshot) {
  const value = number => number ?? ABSENT;
  return `[slackwater] enq=${value(total(snapshot.release_enqueued_total))} ` +
    `coalesce=${value(snapshot.release_coalesced_total)} ` +
    `purged_pages=${value(total(snapshot.release_purged_pages_total))} ` +
    `madvise_calls=${value(snapshot.release_madvise_calls_total)}\n` +
    `  idle_ticks=${value(snapshot.epoch_ticks_total?.idle)} ` +
    `busy_ticks=${value(snapshot.epoch_ticks_total?.busy)} ` +
    `drop=${value(snapshot.release_dropped_total)}`;
}

/* Why pages came to be purged, by the label of release_purged_pages_total. */
const REASONS = [
  ["small_page_retire", "small spans"],
  ["sub4k_run_retire", "spans of 2 to 4 KiB"],
  ["medium_run_reclaim", "spans up to 32 KiB"],
  ["large_free", "large runs"],
  ["span_interior", "inside spans in use"],
];

/* Figures without a place of their own: name, value, format. */
const ALSO = [
  ["Live, never touched", snapshot => snapshot.untouched_bytes, bytes],
  ["Backed by huge pages", snapshot => snapshot.huge_backed_bytes, bytes],
  ["Arena in use", snapshot => snapshot.mapped_bytes, bytes],
  ["Threads with a cache", snapshot => snapshot.threads, count],
  ["Pages reused before their purge", snapshot => snapshot.release_reused_pages_total, count],
  ["Pages used again after it", snapshot => snapshot.release_refault_pages_total, count],
  ["Caches taken over", snapshot => snapshot.takeovers_total?.taken, count],
  ["Purges refused", snapshot => snapshot.release_errors_total, count],
  ["Control group’s memory", snapshot => snapshot.cgroup_current_bytes, bytes],
  ["Control group’s limit", snapshot => snapshot.cgroup_limit_bytes, bytes],
  ["Stalled for memory", snapshot => snapshot.cgroup_pressure_seconds_total, seconds],
  ["Allocations", snapshot => total(snapshot.allocations_total), count],
];

function showList(id, rows) {
  byId(id).replaceChildren(...rows.map(([name, value, format]) =>
    element("div", {}, element("dt", {}, name), element("dd", {}, figure(value, format)))));
}

function showRest(snapshot) {
  byId("summary").textContent = summaryText(snapshot);
  showList("reasons", REASONS.map(([reason, name]) =>
    [name, snapshot.release_purged_pages_total?.[reason], count]));
  showList("also", ALSO.map(([name, read, format]) => [name, read(snapshot), format]));
  const version = Object.keys(snapshot.build_info ?? {})[0];
  const grown = past.growthWithin(view.seconds);
  const core = ratio(grown.observerSeconds, grown.elapsed);
  show("about", `Slackwater ${version ?? ABSENT} · figures `,
    figure(snapshot.snapshot_age_seconds, seconds), " old · observing took ",
    figure(snapshot.observer_cpu_seconds_total, seconds), " of CPU",
    ...(core === null ? [] : [", now ", figure(core, percent), " of a core"]));
}

const classTable = new ClassTable();
const arenaMap = new ArenaMap();

/* Polling. */

const poller = {
  timer: null,
  paused: false,
  latest: null,
  lostSince: null,
};

function showSnapshot() {
  if (!poller.latest) return;
  view.show(past.within(view.seconds), view.seconds);
  showHeadline(poller.latest, past.latest);
  classTable.show(poller.latest);
  showHistograms(poller.latest);
  showRest(poller.latest);
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
  const snapshot = await fetchJson("/snapshot.json").catch(() => null);
  clearTimeout(poller.timer);
  poller.timer = setTimeout(poll, PERIOD_MS);
  if (snapshot) {
    past.add(snapshot, Date.now());
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
