/* Charts over time: lanes above each other on one time axis, drawn as SVG. All charts show the same
   window and share one cursor. */

const LEFT = 62, RIGHT = 8, LANE_GAP = 26, LANE_TOP = 18, AXIS_HEIGHT = 20, MOMENT_WIDTH = 62;
const TIME_STEPS = [15, 60, 180], MAX_TIME_TICKS = 6;

/* Values between two ticks of an axis: a power of two, or 1, 2 or 5 times a power of ten. */
function binaryStep(rough) {
  return 2 ** Math.ceil(Math.log2(rough));
}
function decimalStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 5, 10].find(factor => factor * power >= rough) * power;
}

/* How values of one kind are scaled and written. `least` is what an axis reaches at least, so that
   noise does not fill it. */
const SCALES = {
  bytes: { step: binaryStep, least: MIB, format: bytes },
  seconds: { step: decimalStep, least: 0.1, format: seconds },
  number: { step: decimalStep, least: 4, format: decimal },
};

function svgElement(tag, attributes = {}, ...children) {
  // The page names no other place, not even a namespace: the mark in the header has it.
  const made = document.createElementNS(document.querySelector("svg").namespaceURI, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function rounded(value) {
  return Math.round(value * 10) / 10;
}

/* The window that all charts show, and the observation under the cursor. */
class View {
  charts = [];
  observations = [];
  seconds = 60;
  cursor = null;

  show(observations, windowSeconds) {
    this.observations = observations;
    this.seconds = windowSeconds;
    if (!observations.includes(this.cursor)) this.cursor = null;
    this.charts.forEach(chart => chart.draw());
  }

  pointAt(observation) {
    this.cursor = observation ?? null;
    this.charts.forEach(chart => chart.drawCursor());
  }

  /* The observation whose figures are shown. */
  get shown() {
    return this.cursor ?? this.observations.at(-1);
  }

  get end() {
    return this.observations.at(-1).time;
  }

  nearest(time) {
    const distance = observation => Math.abs(observation.time - time);
    return this.observations.reduce((best, one) => distance(one) < distance(best) ? one : best);
  }

  /* For the keyboard: so many observations on, and off the cursor beyond the last. */
  move(steps) {
    const place = this.observations.indexOf(this.shown) + steps;
    this.pointAt(place < this.observations.length ? this.observations[Math.max(0, place)] : null);
  }
}

/* One chart in the figure of that id. Its lanes have a height, a scale and series; a series has a
   class for its colour, a label, a mark ("line", "bars", "stack" or "band") and a value for each
   observation. With `shares`, the legend gives each series' part of that value. */
class Chart {
  constructor(view, id, { lanes, shares }) {
    this.view = view;
    this.lanes = lanes;
    this.shares = shares;
    this.width = 0;
    this.series = lanes.flatMap(lane => lane.series.map(series => ({ ...series, lane })));
    this.height = lanes.reduce((sum, lane) => sum + lane.height + LANE_GAP, AXIS_HEIGHT - 6);
    this.marks = svgElement("g");
    this.pointer = svgElement("g");
    const title = byId(id).querySelector("h2").textContent;
    this.plot = svgElement("svg", {
      class: "plot", height: this.height, tabindex: 0, role: "slider", "aria-label": title,
    }, this.marks, this.pointer);
    this.legend = element("ul", { class: "legend" });
    byId(id).append(this.plot, this.legend);
    this.listen();
    view.charts.push(this);
  }

  listen() {
    new ResizeObserver(([entry]) => {
      this.width = entry.contentRect.width;
      this.draw();
    }).observe(this.plot);
    const point = event => {
      const x = event.clientX - this.plot.getBoundingClientRect().left;
      if (this.view.observations.length) this.view.pointAt(this.view.nearest(this.timeAt(x)));
    };
    this.plot.addEventListener("pointermove", point);
    this.plot.addEventListener("pointerdown", point);
    // A finger that is lifted leaves the cursor where it was, to be read.
    this.plot.addEventListener("pointerleave", event => {
      if (event.pointerType !== "touch") this.view.pointAt(null);
    });
    this.plot.addEventListener("blur", () => this.view.pointAt(null));
    this.plot.addEventListener("keydown", event => {
      const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -Infinity };
      if (event.key in steps) this.view.move(steps[event.key]);
      else if (["Escape", "End"].includes(event.key)) this.view.pointAt(null);
      else return;
      event.preventDefault();
    });
  }

  get plotWidth() {
    return Math.max(1, this.width - LEFT - RIGHT);
  }

  x(time) {
    const share = 1 - (this.view.end - time) / (this.view.seconds * 1000);
    return rounded(LEFT + this.plotWidth * Math.max(0, share));
  }

  timeAt(x) {
    return this.view.end - this.view.seconds * 1000 * (1 - (x - LEFT) / this.plotWidth);
  }

  draw() {
    if (!this.view.observations.length) return;
    // Until the browser has laid the plot out there is no width; the legend needs none.
    if (this.width) this.drawMarks();
    this.drawCursor();
  }

  drawMarks() {
    const drawn = [];
    let top = LANE_TOP;
    for (const lane of this.lanes) {
      drawn.push(...this.drawLane(lane, top));
      top += lane.height + LANE_GAP;
    }
    this.marks.replaceChildren(...drawn, ...this.drawTimes());
  }

  drawLane(lane, top) {
    const scale = SCALES[lane.scale];
    const step = scale.step(Math.max(scale.least, this.peak(lane)) / (lane.height > 100 ? 4 : 2));
    const ticks = Math.max(1, Math.ceil(Math.max(scale.least, this.peak(lane)) / step));
    const bottom = top + lane.height;
    const y = value => rounded(bottom - lane.height * value / (step * ticks));
    const drawn = lane.series.filter(series => series.mark === "band")
      .flatMap(series => this.drawBand(series, top, lane.height));
    for (let tick = 0; tick <= ticks; tick += 1) {
      const [level, label] = [y(step * tick), shortened(scale.format)(step * tick)];
      drawn.push(svgElement("line",
        { class: "grid", x1: LEFT, x2: LEFT + this.plotWidth, y1: level, y2: level }));
      drawn.push(svgElement("text", { class: "end", x: LEFT - 8, y: level + 4 }, label));
    }
    if (lane.label) {
      drawn.push(svgElement("text", { class: "lane", x: LEFT, y: top - 6 }, lane.label));
    }
    const floor = new Map();
    for (const series of lane.series) drawn.push(...this.drawSeries(series, y, floor));
    return drawn;
  }

  /* The highest value of a lane; what is stacked counts together. */
  peak(lane) {
    const drawn = lane.series.filter(series => series.mark !== "band");
    const [stacked, single] = [drawn.filter(({ mark }) => mark === "stack"),
      drawn.filter(({ mark }) => mark !== "stack")];
    return this.view.observations.reduce((peak, observation) => Math.max(
      peak,
      ...single.map(series => series.value(observation) ?? 0),
      stacked.reduce((sum, series) => sum + (series.value(observation) ?? 0), 0),
    ), 0);
  }

  drawSeries(series, y, floor) {
    const draw = { line: this.linePath, bars: this.barsPath, stack: this.stackPath }[series.mark];
    const path = draw?.call(this, series, y, floor);
    if (!path) return [];
    const name = { line: "line", bars: "bars", stack: "area" }[series.mark];
    return [svgElement("path", { class: `${name} ${series.name}`, d: path })];
  }

  linePath(series, y) {
    let [path, pen] = ["", "M"];
    for (const observation of this.view.observations) {
      const value = series.value(observation);
      if (observation.gap || value === null) pen = "M";
      if (value === null) continue;
      path += `${pen}${this.x(observation.time)} ${y(value)}`;
      pen = "L";
    }
    return path;
  }

  /* What happened between two observations is a bar from the one to the other. */
  barsPath(series, y) {
    let path = "";
    for (const observation of this.view.observations) {
      const value = series.value(observation);
      if (!value) continue;
      const right = this.x(observation.time);
      const left = Math.min(this.x(observation.since) + 0.5, right - 1.5);
      path += `M${left} ${y(0)}V${Math.min(y(value), y(0) - 1)}H${right}V${y(0)}Z`;
    }
    return path;
  }

  /* An area on what is stacked already; `floor` has its height at each observation. */
  stackPath(series, y, floor) {
    let [path, upper, lower] = ["", "", ""];
    const close = () => {
      if (upper) path += `M${upper.slice(1)}${lower}Z`;
      [upper, lower] = ["", ""];
    };
    for (const observation of this.view.observations) {
      const value = series.value(observation);
      if (observation.gap || value === null) close();
      if (value === null) continue;
      const [x, base] = [this.x(observation.time), floor.get(observation) ?? 0];
      floor.set(observation, base + value);
      upper += `L${x} ${y(base + value)}`;
      lower = `L${x} ${y(base)}${lower}`;
    }
    close();
    return path;
  }

  /* A ground that is as strong as the value, a share, was between two observations. */
  drawBand(series, top, height) {
    return this.view.observations
      .filter(observation => series.value(observation) && !observation.gap)
      .map(observation => {
        const x = this.x(observation.since);
        const width = rounded(this.x(observation.time) - x);
        const opacity = series.value(observation);
        const name = `band ${series.name}`;
        return svgElement("rect", { class: name, x, y: top, width, height, opacity });
      });
  }

  /* The time of day at the right edge, and how long before it the others are; where the chart is
     narrow, the one beside it gives way. */
  drawTimes() {
    const step = TIME_STEPS.find(step => this.view.seconds / step < MAX_TIME_TICKS);
    const y = this.height - 4;
    const right = LEFT + this.plotWidth;
    const drawn = [svgElement("text", { class: "end", x: right, y }, clock(this.view.end))];
    for (let ago = step; ago <= this.view.seconds; ago += step) {
      const x = this.x(this.view.end - ago * 1000);
      if (x > right - 1.5 * MOMENT_WIDTH) continue;
      const label = ago % 60 ? `−${ago} s` : `−${ago / 60} min`;
      const place = ago === this.view.seconds ? {} : { class: "middle" };
      drawn.push(svgElement("text", { x, y, ...place }, label));
    }
    return drawn;
  }

  drawCursor() {
    const { cursor, shown } = this.view;
    if (!shown) return;
    this.drawLegend(shown);
    this.plot.setAttribute("aria-valuenow", Math.round((shown.time - this.view.end) / 1000));
    this.plot.setAttribute("aria-valuemin", -this.view.seconds);
    this.plot.setAttribute("aria-valuemax", 0);
    this.plot.setAttribute("aria-valuetext", `${clock(shown.time)}: ${this.legend.textContent}`);
    if (!cursor) return this.pointer.replaceChildren();
    const x = this.x(cursor.time);
    const half = MOMENT_WIDTH / 2;
    const label = Math.min(Math.max(x, LEFT + half), LEFT + this.plotWidth - half);
    this.pointer.replaceChildren(
      svgElement("line", { class: "cursor", x1: x, x2: x, y1: LANE_TOP, y2: this.height - 18 }),
      svgElement("rect", {
        class: "tag", x: label - half, y: this.height - 16, width: MOMENT_WIDTH, height: 16, rx: 4,
      }),
      svgElement("text", { class: "middle moment", x: label, y: this.height - 4 },
        clock(cursor.time)),
    );
  }

  drawLegend(observation) {
    const whole = this.shares?.(observation) ?? null;
    const share = value => element("span", { class: "share" }, percent(value / whole));
    this.legend.replaceChildren(...this.series.map(series => {
      const value = series.value(observation);
      const format = series.format ?? SCALES[series.lane.scale].format;
      const item = element("li", { class: `${series.name} ${series.mark}` },
        element("span", {}, series.label),
        series.none && value === null ? series.none : figure(value, format));
      if (whole && value !== null) item.append(share(value));
      return item;
    }));
  }
}
