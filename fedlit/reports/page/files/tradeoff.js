// The trade-off of two columns, with the Pareto front of the groups' means.

/** The mean of a group's runs in a column with its interval, or null. */
function columnEstimate(group, column) {
  const pairs = data.runs.filter((run) => run.group === group).map((run) => [run.seed, run.columns[column] ?? null]).filter(([, value]) => value !== null);
  if (!pairs.length) return null;
  return { ...meanInterval(pairs.map(([, value]) => value), data.quantiles), seeds: new Map(pairs) };
}

function makeTradeOff(host) {
  const controls = html("div", { class: "controls" }), area = html("div"), note = html("p", { class: "faint" });
  const options = data.columns.map((column) => [column.name, `${column.name} (${column.description})`]);
  const [x0, y0] = data.plots[0] || ["bytes", data.metric];
  const again = () => { chart.zoom = null; draw(); };
  const [xLabel, x] = makeSelect("x", "x", options, x0, again), [yLabel, y] = makeSelect("y", "y", options, y0, again);
  const [xLogLabel, xLog] = makeCheckbox("tradeXLog", "logarithmic x", true, again), [yLogLabel, yLog] = makeCheckbox("tradeYLog", "logarithmic y", false, again);
  controls.append(xLabel, yLabel, xLogLabel, yLogLabel);
  host.append(controls, area, note);
  const chart = new Chart(area, "trade-off of two columns", { onZoom: (zoom) => { state.zooms.tradeOff = zoom; saveState(); } });
  chart.zoom = state.zooms.tradeOff || null;

  function draw() {
    const [cx, cy] = [x, y].map((select) => data.columns.find((column) => column.name === select.value));
    const points = data.groups.map((_, group) => ({ group, x: columnEstimate(group, cx.name), y: columnEstimate(group, cy.name) })).filter(({ group }) => isVisible(group));
    const complete = points.filter((point) => point.x && point.y), isKnown = cx.mode !== null && cy.mode !== null;
    const front = isKnown ? paretoFront(complete.map((point) => [point.x.mean, point.y.mean]), [cx.mode === "max", cy.mode === "max"]) : [];
    const describe = (point) => ([px, py]) => `${data.groups[point.group].label}: ${cy.name} ${textOf(point.y, cy)}` + (point.x ? `, ${cx.name} ${textOf(point.x, cx)}` : `, no ${cx.name}`);
    const marks = complete.map((point, i) => ({
      kind: "point", group: point.group, points: [[point.x.mean, point.y.mean]], describe: describe(point), isHollow: isKnown && !front.includes(i),
      xEnds: ends(point.x, cx), yEnds: ends(point.y, cy),
      seeds: point.x.n > 1 ? [...point.x.seeds].filter(([seed]) => point.y.seeds.has(seed)).map(([seed, value]) => [value, point.y.seeds.get(seed)]) : [],
    }));
    const rules = points.filter((point) => point.y && !point.x).map((point) => ({ kind: "rule", group: point.group, points: [[complete[0]?.x.mean ?? 1, point.y.mean]], describe: describe(point) }));
    const corners = front.map((i) => [complete[i].x.mean, complete[i].y.mean]).sort((a, b) => a[0] - b[0] || a[1] - b[1]);
    const isPositive = (axis) => complete.every((point) => point[axis].mean > 0);
    const label = (column) => `${column.name}, ${column.description}`;
    chart.draw({
      x: { label: label(cx), unit: cx.unit, isLog: xLog.checked && isPositive("x") }, y: { label: label(cy), unit: cy.unit, isLog: yLog.checked && isPositive("y") },
      marks: [...(corners.length > 1 ? [{ kind: "front", points: corners, isRight: cx.mode === "min" }] : []), ...rules, ...marks],
    });
    const unknown = [cx, cy].filter((column) => column.mode === null).map((column) => column.name);
    const better = [cx, cy].map((column) => `${column.mode === "max" ? "larger" : "smaller"} values of ${column.name}`).join(" and ");
    const texts = unknown.length
      ? [`There is no front: it is unknown which values of ${unknown.join(" and ")} are better.`]
      : [`Filled: no other group has a better mean. Better are ${better}.`];
    if (rules.length) texts.push(`A dashed line is a group without ${cx.name}.`);
    note.textContent = texts.join(" ");
  }
  const ends = (estimate, column) => (estimate.half === null ? null : [Math.max(estimate.mean - estimate.half, column.low ?? -Infinity), Math.min(estimate.mean + estimate.half, column.high ?? Infinity)]);
  const textOf = (estimate, column) => {
    const [size, unit] = scaleUnit(estimate.mean, column.unit), half = estimate.half === null ? "" : ` \u00b1 ${numberText(estimate.half / size, 2)}`;
    return `${numberText(estimate.mean / size)}${half}${unit ? ` ${unit}` : ""}`;
  };
  redraws.push(draw);
}
