// Ranges of groups, one below the other: differences from the baseline, spread over clients; and pictures of partitions.

/** Draw rows of {group, label, low, middle, high, dots}, each with its label above. */
function drawRanges(host, rows, label, zero = null) {
  const width = host.clientWidth || 320, step = 38, height = rows.length * step + 28, margin = 12;
  const picture = svg("svg", { role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}`, height });
  host.replaceChildren(picture);
  const values = rows.flatMap((row) => [row.low, row.middle, row.high, ...row.dots].filter((value) => value !== null));
  const domain = domainOf(zero === null ? values : [...values, zero], false), scale = makeScale(domain, [margin, width - margin], false);
  for (const tick of ticks(domain, Math.floor(width / 90), false)) {
    svg("line", { class: "grid", x1: scale(tick), x2: scale(tick), y1: 0, y2: height - 22 }, picture);
    const at = scale(tick), anchor = at < 30 ? "start" : at > width - 30 ? "end" : "middle";
    svg("text", { x: at, y: height - 8, "text-anchor": anchor }, picture, numberText(tick, 6));
  }
  if (zero !== null) svg("line", { class: "zero", x1: scale(zero), x2: scale(zero), y1: 0, y2: height - 22 }, picture);
  rows.forEach((row, i) => {
    const group = svg("g", { class: colourClass(row.group), "data-group": row.group }, picture), y = i * step + 26, room = Math.floor((width - 2 * margin) / 6.2);
    const texts = `${row.label}: ${row.text}`;
    svg("text", { class: "name", x: margin, y: y - 10 }, group, texts.length > room ? `${texts.slice(0, room - 1)}\u2026` : texts);
    svg("title", {}, group, texts);
    if (row.low !== null) svg("line", { class: "range", x1: scale(row.low), x2: scale(row.high), y1: y, y2: y }, group);
    for (const dot of row.dots) svg("circle", { class: "small", cx: scale(dot), cy: y, r: 3 }, group);
    svg("path", { class: "dot", d: markerPath(row.group, scale(row.middle), y, 4) }, group);
  });
}

/** Draw rows again when the shown groups or the width change. */
function makeRanges(host, rows, label, zero) {
  const draw = () => drawRanges(host, rows.filter((row) => isVisible(row.group)), label, zero);
  host.classList.add("chart");
  let width = 0;
  new ResizeObserver(() => { if (host.clientWidth && host.clientWidth !== width) { width = host.clientWidth; draw(); } }).observe(host);
  redraws.push(draw);
}

const LEVELS = 8;

/** Draw a partition: a column for each client, a row for each class, darker for more samples. */
function drawPartition(host, partition) {
  const columns = partition.counts.length, rows = partition.classes.length, cell = 14, left = 34;
  const width = left + Math.max(columns, 8) * cell, height = rows * cell + 20;
  const picture = svg("svg", { class: "natural", role: "img", "aria-label": partition.title, viewBox: `0 0 ${width} ${height}`, width, height });
  const largest = Math.max(...partition.counts.flat(), 1), paths = Array.from({ length: LEVELS }, () => "");
  partition.counts.forEach((counts, i) => counts.forEach((count, j) => {
    if (count > 0) paths[Math.min(Math.floor((count / largest) * LEVELS), LEVELS - 1)] += `M${left + i * cell},${j * cell}h${cell - 1}v${cell - 1}h${1 - cell}Z`;
  }));
  paths.forEach((d, level) => { if (d) svg("path", { class: "heat", d, "fill-opacity": (level + 1) / LEVELS }, picture); });
  partition.classes.forEach((name, j) => { if (rows <= 12 || j % Math.ceil(rows / 12) === 0) svg("text", { x: left - 4, y: j * cell + 11, "text-anchor": "end" }, picture, name.length > 5 ? `${name.slice(0, 4)}\u2026` : name); });
  svg("text", { x: left, y: rows * cell + 14 }, picture, `${columns} clients`);
  host.prepend(picture);
}
