/* Numbers as text, and figures as elements. An unknown figure is absent, never 0. */

const ABSENT = "absent";
const MIB = 1024 * 1024;
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const TIME_UNITS = [[1e-6, "ns", 1e9], [1e-3, "µs", 1e6], [1, "ms", 1e3], [120, "s", 1]];
const THIN_SPACE = "\u202f";

/* Three digits, whatever their unit: 0.98, 12.3, 640. */
function digits(value) {
  const places = value >= 99.95 || value === 0 ? 0 : value >= 9.995 ? 1 : 2;
  return value.toFixed(places);
}

function bytes(value) {
  let unit = 0;
  while (value >= 999.5 && unit < BYTE_UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit ? digits(value) : value.toFixed(0)} ${BYTE_UNITS[unit]}`;
}

/* Whole numbers, in groups of three. */
function count(value) {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, THIN_SPACE);
}

/* Numbers that need not be whole. */
function decimal(value) {
  return value < 99.95 && !Number.isInteger(value) ? digits(value) : count(value);
}

function seconds(value) {
  if (value === 0) return "0 s";
  const unit = TIME_UNITS.find(([below]) => value < below * 0.9995);
  return unit ? `${digits(value * unit[2])} ${unit[1]}` : `${digits(value / 60)} min`;
}

function percent(share) {
  const value = share * 100;
  if (value > 0 && value < 0.05) return "< 0.1 %";
  return `${value >= 9.95 || value === 0 ? value.toFixed(0) : value.toFixed(1)} %`;
}

function clock(time) {
  return new Date(time).toLocaleTimeString([], { hourCycle: "h23" });
}

/* An axis label: no zeros behind the point. */
function shortened(format) {
  return value => format(value).replace(/(\.\d*?)0+(?=\s|$)/, "$1").replace(/\.(?=\s|$)/, "");
}

function byId(id) {
  return document.getElementById(id);
}

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* The exact value goes with the text, for those who point at it and for programs. */
function figure(value, format) {
  if ((value ?? null) === null) return element("span", { class: "absent" }, ABSENT);
  return element("data", { value, title: String(value) }, format(value));
}

/* Puts figures, and words between them, into an element. */
function show(id, ...parts) {
  byId(id).replaceChildren(...parts);
}
