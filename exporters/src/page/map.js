/* The arena: one cell for each segment, and the pages of the one that was chosen. It asks only
   while it can be seen, and less often than the charts. */

const MAP_PERIOD_MS = 3000;
const SEGMENTS_SHOWN = 1024;
const PAGES_PER_SEGMENT = 512, PAGES_PER_CHUNK = 16;

/* What fills a segment's cell, from its bottom: the map's name for it, and its colour. */
const FILLINGS = [
  ["span_resident", "--span"],
  ["large_resident", "--large"],
  ["dirty", "--dirty"],
  ["unexplained", "--unattributed"],
];

/* The letters of a segment's pages, as classes. */
const PAGE_KINDS = {
  s: "span",
  o: "span hollow",
  L: "large",
  l: "large hollow",
  d: "dirty",
  ".": "clean",
  "?": "unattributed",
};

function filling(segment) {
  let filled = 0;
  const bands = FILLINGS.map(([name, colour]) => {
    const from = filled;
    filled += 100 * segment[name] / PAGES_PER_SEGMENT;
    return `var(${colour}) ${from}% ${filled}%`;
  });
  return `linear-gradient(to top, ${bands.join(", ")}, var(--raised) ${filled}%)`;
}

function inWords(segment) {
  const words = [
    [segment.span_resident, "span"],
    [segment.large_resident, "large"],
    [segment.dirty, "dirty"],
    [segment.unexplained, "unexplained"],
    [segment.span_other + segment.large_other, "not resident"],
    [segment.clean, "clean"],
  ];
  return words.filter(([pages]) => pages).map(([pages, word]) => `${pages} ${word}`).join(", ");
}

function chunkCell(pages, chunk) {
  const used = chunk && chunk.blocks - chunk.free;
  const name = chunk ? `${count(chunk.block_bytes)} B` : /[Ll]/.test(pages) ? "large" : "free";
  const title = chunk
    ? `${used} of ${chunk.blocks} blocks of ${chunk.block_bytes} B are in use`
    : `${PAGES_PER_CHUNK} pages outside spans`;
  const grid = element("div", { class: "pages" },
    ...Array.from(pages, page => element("i", { class: PAGE_KINDS[page] ?? "" })));
  return element("li", { title },
    element("p", {}, element("span", {}, name),
      element("span", {}, chunk ? percent(used / chunk.blocks) : "")),
    grid);
}

class ArenaMap {
  first = 0;
  total = 0;
  chosen = null;
  visible = false;
  paused = false;
  refused = false;

  constructor() {
    this.cells = byId("segments");
    this.cells.addEventListener("click", event => {
      const cell = event.target.closest("button");
      if (cell) this.choose(this.numberOf(cell));
    });
    this.cells.addEventListener("keydown", event => this.walk(event));
    byId("segment-close").addEventListener("click", () => this.close());
    byId("map-back").addEventListener("click", () => this.turn(-SEGMENTS_SHOWN));
    byId("map-on").addEventListener("click", () => this.turn(SEGMENTS_SHOWN));
    new IntersectionObserver(entries => {
      // A page that was busy hears of all that was meanwhile; the last is what is so now.
      this.visible = entries.at(-1).isIntersecting;
      this.poll();
    }).observe(byId("map"));
    document.addEventListener("visibilitychange", () => this.poll());
  }

  numberOf(cell) {
    return this.first + Array.prototype.indexOf.call(this.cells.children, cell);
  }

  pause(paused) {
    this.paused = paused;
    this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    if (!this.visible || document.hidden || this.paused || this.refused) return;
    await this.refresh();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.poll(), MAP_PERIOD_MS);
  }

  async refresh() {
    const asked = this.first;
    try {
      const map = await fetchJson(`map.json?first=${asked}&count=${SEGMENTS_SHOWN}`);
      if (this.first === asked) this.showAll(map);
    } catch (error) {
      // When nobody answers at all, the header says so, and the map stays as it was.
      this.refused = error instanceof Refused;
      if (this.refused) byId("map-about").textContent = "absent: no map is served here";
      return;
    }
    if (this.chosen !== null) await this.refreshChosen();
  }

  showAll(map) {
    byId("map").querySelector(".key").hidden = false;
    this.total = map.total;
    // The arena of another process may be smaller; then the next answer is of its beginning.
    if (this.first >= this.total) this.first = 0;
    while (this.cells.children.length > map.segments.length) this.cells.lastChild.remove();
    while (this.cells.children.length < map.segments.length) {
      this.cells.append(element("button", { type: "button", tabindex: -1 }));
    }
    map.segments.forEach((segment, place) => {
      const cell = this.cells.children[place];
      const number = map.first + place;
      cell.style.background = filling(segment);
      cell.title = `Segment ${number}: ${inWords(segment)}`;
      cell.setAttribute("aria-label", cell.title);
      cell.setAttribute("aria-expanded", number === this.chosen);
    });
    const inTabOrder = this.cells.querySelector("[tabindex='0']");
    if (!inTabOrder) this.cells.firstChild?.setAttribute("tabindex", 0);
    this.showRange(map);
  }

  showRange(map) {
    const last = map.first + map.segments.length;
    const range = last - map.first < map.total
      ? `Segments ${count(map.first)} to ${count(last - 1)} of ${count(map.total)}, each of`
      : `${count(map.total)} segments of`;
    byId("map-about").textContent =
      `${range} ${shortened(bytes)(map.segment_bytes)}, filled by their resident pages. ` +
      "Choose one to look into it.";
    document.querySelector(".pager").hidden = map.total <= SEGMENTS_SHOWN;
    byId("map-back").disabled = map.first === 0;
    byId("map-on").disabled = last >= map.total;
  }

  turn(by) {
    this.first = Math.max(0, Math.min(this.first + by, this.total - 1));
    this.close();
    this.refresh();
  }

  /* Arrow keys walk over the cells; one of them at a time is in the order of the tab key. */
  walk(event) {
    const columns = getComputedStyle(this.cells).gridTemplateColumns.split(" ").length;
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
    if (event.key === "Escape") this.close();
    if (!(event.key in steps)) return;
    event.preventDefault();
    const place = Array.prototype.indexOf.call(this.cells.children, event.target);
    this.focusCell(this.cells.children[place + steps[event.key]]);
  }

  focusCell(cell) {
    if (!cell) return;
    this.cells.querySelector("[tabindex='0']")?.setAttribute("tabindex", -1);
    cell.setAttribute("tabindex", 0);
    cell.focus();
  }

  mark() {
    Array.from(this.cells.children).forEach((cell, place) =>
      cell.setAttribute("aria-expanded", this.first + place === this.chosen));
  }

  async choose(number) {
    if (number === this.chosen) return this.close();
    this.chosen = number;
    this.mark();
    this.focusCell(this.cells.children[number - this.first]);
    await this.refreshChosen();
  }

  close() {
    this.chosen = null;
    this.mark();
    byId("segment").hidden = true;
  }

  async refreshChosen() {
    const asked = this.chosen;
    try {
      const segment = await fetchJson(`map.json?segment=${asked}`);
      if (this.chosen === asked) this.showChosen(segment);
    } catch (error) {
      // The arena of the process that came after may not reach as far.
      if (error instanceof Refused) this.close();
    }
  }

  showChosen(segment) {
    byId("segment-title").textContent = `Segment ${segment.segment} at ${segment.address}`;
    const spans = segment.chunks.filter(chunk => chunk).length;
    const resident = Array.from(segment.pages).filter(page => "sLd?".includes(page)).length;
    byId("segment-about").textContent =
      `${resident} of ${segment.pages.length} pages resident; ${spans} of ` +
      `${segment.chunks.length} chunks are spans. A square is a page of 4 KiB.`;
    byId("chunks").replaceChildren(...segment.chunks.map((chunk, place) => chunkCell(
      segment.pages.slice(place * PAGES_PER_CHUNK, (place + 1) * PAGES_PER_CHUNK), chunk)));
    byId("segment").hidden = false;
  }
}
