// A chart in SVG: axes, marks of groups, zoom, and a description of the nearest point.

const DASHES = ["", "7 4", "2 3", "8 3 2 3"];

function svg(name, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== "") element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function html(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const colourClass = (group) => `g${group % 7}`;
const dashOf = (group) => DASHES[Math.floor(group / 7) % DASHES.length];

/** The outline of a group's marker around a point. */
function markerPath(group, x, y, r = 5) {
  const shapes = [
    `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0`,
    `M${x},${y - r * 1.3}l${r * 1.3},${r * 1.3}l${-r * 1.3},${r * 1.3}l${-r * 1.3},${-r * 1.3}Z`,
    `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    `M${x},${y - r * 1.2}l${r * 1.2},${r * 2}h${-r * 2.4}Z`,
  ];
  return shapes[Math.floor(group / 7) % shapes.length];
}

/**
 * A chart that fills the width of its host.
 *
 * `draw` takes {x, y, marks}: an axis has `label`, `unit`, `isLog` and perhaps `isInteger`; a mark has `kind` (curve, seed, band,
 * point, rule, others, front), `group`, and `points` of [x, y] or [x, low, high]. A point has `xEnds`, `yEnds` and `isHollow`.
 */
class Chart {
  constructor(host, label, { isCompact = false, onZoom = () => {} } = {}) {
    this.host = host; this.label = label; this.isCompact = isCompact; this.onZoom = onZoom; this.zoom = null; this.spec = null;
    host.classList.add("chart");
    this.svg = svg("svg", { role: "img", "aria-label": label, tabindex: isCompact ? null : "0" });
    this.tip = html("div", { class: "tip", hidden: "" });
    host.append(this.svg, this.tip);
    if (!isCompact) this.addZoom();
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.leave());
    this.width = 0;
    new ResizeObserver(() => { if (this.spec && host.clientWidth && host.clientWidth !== this.width) this.draw(this.spec); }).observe(host);
  }

  addZoom() {
    const buttons = html("div", { class: "controls" });
    const actions = [["zoom in", () => this.scaleZoom(0.5)], ["zoom out", () => this.scaleZoom(2)], ["whole chart", () => this.setZoom(null)]];
    for (const [text, action] of actions) {
      const button = html("button", { type: "button" }, text);
      button.addEventListener("click", action);
      buttons.append(button);
    }
    buttons.append(html("span", { class: "faint" }, "Drag over a part of the chart to see it larger. Keys: + - 0 and arrows."));
    this.host.append(buttons);
    const keys = { "+": () => this.scaleZoom(0.5), "=": () => this.scaleZoom(0.5), "-": () => this.scaleZoom(2), 0: () => this.setZoom(null),
      ArrowLeft: () => this.pan(-0.2, 0), ArrowRight: () => this.pan(0.2, 0), ArrowUp: () => this.pan(0, 0.2), ArrowDown: () => this.pan(0, -0.2) };
    this.svg.addEventListener("keydown", (event) => {
      const action = keys[event.key];
      if (action && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); action(); }
    });
    this.svg.addEventListener("pointerdown", (event) => this.startDrag(event));
    this.svg.addEventListener("dblclick", () => this.setZoom(null));
  }

  setZoom(zoom) { this.zoom = zoom; this.onZoom(zoom); if (this.spec) this.draw(this.spec); }

  scaleZoom(factor) {
    const middle = (pair) => (pair[0] + pair[1]) / 2, { x, y } = this.ranges;
    const ends = (range, scale) => [range[0], range[1]].map((end) => scale.invert(middle(range) + (end - middle(range)) * factor));
    this.setZoom({ x: ends(x, this.sx), y: ends(y, this.sy) });
  }

  pan(dx, dy) {
    const shift = (range, scale, part) => range.map((end) => scale.invert(end + part * (range[1] - range[0])));
    this.setZoom({ x: shift(this.ranges.x, this.sx, dx), y: shift(this.ranges.y, this.sy, dy) });
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  startDrag(event) {
    if (event.button !== 0) return;
    const start = this.place(event), { x, y } = this.ranges, clamp = (value, [a, b]) => Math.min(Math.max(value, Math.min(a, b)), Math.max(a, b));
    const area = svg("rect", { class: "drag" }, this.svg);
    const box = (end) => [[start[0], end[0]].map((v) => clamp(v, x)).sort((a, b) => a - b), [start[1], end[1]].map((v) => clamp(v, y)).sort((a, b) => a - b)];
    const move = (later) => {
      const [[x0, x1], [y0, y1]] = box(this.place(later));
      for (const [key, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) area.setAttribute(key, value);
    };
    const stop = (later) => {
      this.svg.removeEventListener("pointermove", move);
      area.remove();
      if (later.type !== "pointerup") return;
      const [[x0, x1], [y0, y1]] = box(this.place(later));
      if (x1 - x0 < 6) return;
      const isFlat = y1 - y0 < 6;
      this.setZoom({ x: [this.sx.invert(x0), this.sx.invert(x1)], y: isFlat ? this.domains.y : [this.sy.invert(y1), this.sy.invert(y0)] });
    };
    this.svg.setPointerCapture(event.pointerId);
    this.svg.addEventListener("pointermove", move);
    for (const name of ["pointerup", "pointercancel"]) this.svg.addEventListener(name, stop, { once: true });
  }

  draw(spec) {
    this.spec = spec;
    const width = (this.width = this.host.clientWidth || 320), height = Math.round(Math.min(Math.max(width * (this.isCompact ? 0.62 : 0.5), this.isCompact ? 150 : 260), 460));
    const margin = { left: this.isCompact ? 44 : 62, right: 12, top: 8, bottom: this.isCompact ? 22 : 42 };
    this.svg.replaceChildren();
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.setAttribute("height", height);
    const range = { x: [margin.left, width - margin.right], y: [height - margin.bottom, margin.top] };
    const all = spec.marks.filter((mark) => mark.kind !== "front" && mark.kind !== "band");
    const values = (axis) => spec.domain?.[axis] || all.flatMap((mark) => [...mark.points, ...(mark.seeds || [])].map((point) => point[axis === "x" ? 0 : 1]).filter((value) => value !== null));
    const fits = (axis) => this.zoom && this.zoom[axis].every((end) => Number.isFinite(end) && (!spec[axis].isLog || end > 0));
    this.domains = { x: fits("x") ? this.zoom.x : domainOf(values("x"), spec.x.isLog), y: fits("y") ? this.zoom.y : domainOf(values("y"), spec.y.isLog) };
    this.ranges = range;
    this.sx = makeScale(this.domains.x, range.x, spec.x.isLog);
    this.sy = makeScale(this.domains.y, range.y, spec.y.isLog);
    this.drawAxes(spec, range, width, height);
    const id = `clip${Chart.count++}`, clip = svg("clipPath", { id }, svg("defs", {}, this.svg));
    svg("rect", { x: range.x[0], y: range.y[1], width: range.x[1] - range.x[0], height: range.y[0] - range.y[1] }, clip);
    this.plot = svg("g", { "clip-path": `url(#${id})` }, this.svg);
    this.targets = [];
    for (const mark of spec.marks) this.drawMark(mark, range);
    this.cross = svg("line", { class: "cross", y1: range.y[1], y2: range.y[0], visibility: "hidden" }, this.svg);
    if (!spec.marks.some((mark) => mark.points.length)) svg("text", { x: (range.x[0] + range.x[1]) / 2, y: height / 2, "text-anchor": "middle" }, this.svg, "no values to draw");
  }

  drawAxes(spec, range, width, height) {
    const grid = svg("g", {}, this.svg);
    for (const axis of ["x", "y"]) {
      const isX = axis === "x", scale = isX ? this.sx : this.sy, length = Math.abs(range[axis][1] - range[axis][0]);
      const largest = Math.max(...this.domains[axis].map(Math.abs)), [size, unit] = scaleUnit(largest, spec[axis].unit);
      let found = ticks(this.domains[axis].map((end) => end / size), Math.floor(length / (isX ? 80 : this.isCompact ? 26 : 45)), spec[axis].isLog);
      if (spec[axis].isInteger) found = found.filter(Number.isInteger);
      for (const tick of found) {
        const at = scale(tick * size);
        svg("line", isX ? { class: "grid", x1: at, x2: at, y1: range.y[0], y2: range.y[1] } : { class: "grid", x1: range.x[0], x2: range.x[1], y1: at, y2: at }, grid);
        svg("text", isX ? { x: at, y: range.y[0] + 15, "text-anchor": "middle" } : { x: range.x[0] - 6, y: at + 4, "text-anchor": "end" }, grid, numberText(tick, 6));
      }
      svg("line", isX ? { class: "axis", x1: range.x[0], x2: range.x[1], y1: range.y[0], y2: range.y[0] } : { class: "axis", x1: range.x[0], x2: range.x[0], y1: range.y[0], y2: range.y[1] }, grid);
      if (this.isCompact) continue;
      const text = spec[axis].label + (unit ? ` (${unit})` : ""), room = Math.floor((isX ? width : height) / 6.4);
      const short = text.length > room ? `${text.slice(0, room - 1)}\u2026` : text;
      const middle = (range[axis][0] + range[axis][1]) / 2;
      svg("text", isX ? { class: "name", x: middle, y: height - 6, "text-anchor": "middle" } : { class: "name", transform: `translate(13,${middle}) rotate(-90)`, "text-anchor": "middle" }, grid, short);
    }
  }

  drawMark(mark, range) {
    const { sx, sy } = this, isShown = (x, y) => (!this.spec.x.isLog || x > 0) && (!this.spec.y.isLog || y > 0);
    const group = svg("g", { class: mark.group === undefined ? "" : colourClass(mark.group), "data-group": mark.group ?? "" }, this.plot);
    const points = mark.kind === "band" ? mark.points : mark.points.filter(([x, y]) => y !== null && isShown(x, y));
    const path = (pairs) => pairs.map(([x, y], i) => `${i ? "L" : "M"}${sx(x).toFixed(1)},${sy(y).toFixed(1)}`).join("");
    const remember = ([x, y]) => this.targets.push({ x: sx(x), y: sy(y), mark, values: [x, y] });
    if (mark.kind === "band") {
      const floor = this.spec.y.isLog ? Math.min(...this.domains.y) : -Infinity, kept = points.filter(([x]) => !this.spec.x.isLog || x > 0);
      const up = kept.map(([x, , high]) => [x, Math.max(high, floor)]), down = kept.map(([x, low]) => [x, Math.max(low, floor)]).reverse();
      if (kept.length > 1) svg("path", { class: "band", d: `${path([...up, ...down])}Z` }, group);
    } else if (mark.kind === "point") {
      for (const point of points) this.drawPoint(mark, point, group);
      points.forEach(remember);
    } else if (mark.kind === "rule") {
      for (const [, y] of points) svg("line", { class: "curve", "stroke-dasharray": "6 4", x1: range.x[0], x2: range.x[1], y1: sy(y), y2: sy(y) }, group);
    } else if (points.length === 1) {
      svg("path", { class: mark.kind === "curve" ? "dot" : "small", d: markerPath(mark.group ?? 0, sx(points[0][0]), sy(points[0][1]), mark.kind === "curve" ? 4 : 2) }, group);
      if (mark.kind === "curve") remember(points[0]);
    } else if (points.length) {
      svg("path", { class: mark.kind, d: mark.kind === "front" ? this.stairs(points, mark.isRight) : path(points), "stroke-dasharray": mark.kind === "curve" ? dashOf(mark.group) : null }, group);
      if (mark.kind === "curve") points.forEach(remember);
    }
  }

  drawPoint(mark, [x, y], group) {
    const { sx, sy } = this, px = sx(x), py = sy(y), ends = (pair, axis) => pair.map((end) => (this.spec[axis].isLog && end <= 0 ? Math.min(...this.domains[axis]) : end));
    for (const seed of mark.seeds) svg("circle", { class: "small", cx: sx(seed[0]), cy: sy(seed[1]), r: 3 }, group);
    if (mark.xEnds) { const [a, b] = ends(mark.xEnds, "x"); svg("line", { class: "range", x1: sx(a), x2: sx(b), y1: py, y2: py }, group); }
    if (mark.yEnds) { const [a, b] = ends(mark.yEnds, "y"); svg("line", { class: "range", x1: px, x2: px, y1: sy(a), y2: sy(b) }, group); }
    svg("path", { class: mark.isHollow ? "dot hollow" : "dot", d: markerPath(mark.group, px, py) }, group);
  }

  /** Steps along the border of what the points dominate. */
  stairs(points, isRight) {
    const at = points.map(([x, y]) => [this.sx(x).toFixed(1), this.sy(y).toFixed(1)]);
    return at.map(([x, y], i) => (i === 0 ? `M${x},${y}` : isRight ? `H${x}V${y}` : `V${y}H${x}`)).join("");
  }

  hover(event) {
    if (!this.spec || event.buttons) return;
    const [px, py] = this.place(event);
    let best = null, distance = 45;
    for (const target of this.targets) {
      const away = Math.hypot((target.x - px) * (target.mark.kind === "curve" ? 1.5 : 1), target.y - py);
      if (away < distance && target.x >= this.ranges.x[0] - 1 && target.x <= this.ranges.x[1] + 1) { best = target; distance = away; }
    }
    if (!best) { this.leave(); return; }
    this.tip.textContent = best.mark.describe(best.values);
    this.tip.hidden = false;
    const left = Math.min(Math.max(best.x + 12, 0), Math.max(this.width - this.tip.offsetWidth - 4, 0));
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${Math.max(best.y - this.tip.offsetHeight - 12, 0)}px`;
    for (const [key, value] of Object.entries({ x1: best.x, x2: best.x, visibility: "visible" })) this.cross.setAttribute(key, value);
    highlight(best.mark.group);
  }

  leave() {
    this.tip.hidden = true;
    this.cross?.setAttribute("visibility", "hidden");
    highlight(null);
  }
}
Chart.count = 0;

/** Make all marks of the other groups faint; null ends it. */
function highlight(group) {
  if (highlight.group === group) return;
  highlight.group = group;
  for (const element of document.querySelectorAll("[data-group]:not([data-group=''])")) {
    const isOwn = element.dataset.group === String(group);
    element.classList.toggle("lit", group !== null && isOwn);
    if (element instanceof SVGElement) element.classList.toggle("dim", group !== null && !isOwn);
  }
}
highlight.group = null;
