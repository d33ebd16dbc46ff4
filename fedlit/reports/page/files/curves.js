// Learning curves: the mean over seeds with its interval, over rounds or costs.

const SMALL_MULTIPLES = 12;

/** A run's values of a metric, one for each kept round; a constant is stored once. */
function valuesOf(run, metric) {
  const stored = run.curves[metric];
  if (stored === undefined) return [];
  return Array.isArray(stored) ? stored : run.axes.rounds.map(() => stored);
}

/** The points [x, y] of a run, without rounds that lack one of both. */
function runPoints(run, metric, axis) {
  const x = run.axes[axis] || [], y = valuesOf(run, metric);
  return y.flatMap((value, i) => (value === null || x[i] === null || x[i] === undefined ? [] : [[x[i], value]]));
}

/**
 * The mean of a group's runs with its interval, and each seed's points.
 *
 * The mean is where all seeds have a value: in common rounds, or in the range of costs that all of them cover.
 */
function groupBand(group, metric, axis) {
  const lines = data.runs.filter((run) => run.group === group).map((run) => runPoints(run, metric, axis));
  if (!lines.length || lines.some((line) => !line.length)) return { x: [], mean: [], half: [], seeds: lines };
  const sets = lines.map((line) => new Set(line.map(([x]) => x)));
  const low = Math.max(...lines.map((line) => line[0][0])), high = Math.min(...lines.map((line) => line.at(-1)[0]));
  let x = [...new Set(lines.flatMap((line) => line.map(([value]) => value)))].sort((a, b) => a - b);
  x = x.filter((value) => value >= low && value <= high && (axis !== "rounds" || sets.every((set) => set.has(value))));
  const columns = lines.map((line) => { const xs = line.map((p) => p[0]), ys = line.map((p) => p[1]); return x.map((value) => interpolate(value, xs, ys)); });
  const estimates = x.map((_, i) => meanInterval(columns.map((column) => column[i]), data.quantiles));
  return { x, mean: estimates.map((one) => one.mean), half: estimates.map((one) => one.half), seeds: lines };
}

function makeCurves(host) {
  const controls = html("div", { class: "controls" }), area = html("div"), panels = html("div", { class: "panels" });
  const draw = () => drawCurves();
  const [metricLabel, metric] = makeSelect("metric", "metric", data.metrics.map((name) => [name, name]), data.metric, () => { chart.zoom = null; draw(); });
  const [axisLabel, axis] = makeSelect("axis", "over", Object.entries(data.axes).map(([name, one]) => [name, one.label]), "rounds", () => { chart.zoom = null; draw(); });
  const views = [["one", "one chart"], ["panels", "a panel for each group"]];
  const [viewLabel, view] = makeSelect("view", "as", views, data.groups.length >= SMALL_MULTIPLES ? "panels" : "one", draw);
  const [xLogLabel, xLog] = makeCheckbox("curvesXLog", "logarithmic x", false, draw);
  const [yLogLabel, yLog] = makeCheckbox("curvesYLog", "logarithmic y", false, draw);
  controls.append(metricLabel, axisLabel, viewLabel, xLogLabel, yLogLabel);
  host.append(controls, area, panels);
  const chart = new Chart(area, "learning curves", { onZoom: (zoom) => { state.zooms.curves = zoom; saveState(); } });
  chart.zoom = state.zooms.curves || null;

  function marksOf(group, band, isFaint) {
    const describe = ([x, y]) => {
      const i = band.x.indexOf(x), half = band.half[i];
      const interval = half === null || half === undefined ? "" : ` \u00b1 ${numberText(half, 2)}`;
      return `${data.groups[group].label}: ${numberText(y)}${interval} at ${data.axes[axis.value].label} ${valueText(x, data.axes[axis.value].unit)}`;
    };
    const limits = data.limits[metric.value] || [null, null], clamp = (value) => Math.min(Math.max(value, limits[0] ?? -Infinity), limits[1] ?? Infinity);
    const mean = band.x.map((x, i) => [x, band.mean[i]]);
    if (isFaint) return [{ kind: "others", points: mean, describe }];
    const marks = [];
    if (band.seeds.length >= data.minBandSeeds) marks.push({ kind: "band", group, points: band.x.map((x, i) => [x, clamp(band.mean[i] - band.half[i]), clamp(band.mean[i] + band.half[i])]) });
    else if (band.seeds.length > 1) for (const points of band.seeds) marks.push({ kind: "seed", group, points });
    return [...marks, { kind: "curve", group, points: mean, describe }];
  }

  function drawCurves() {
    const groups = shownGroups(), bands = new Map(groups.map((group) => [group, groupBand(group, metric.value, axis.value)]));
    const axes = { x: { ...data.axes[axis.value], isLog: xLog.checked, isInteger: axis.value === "rounds" }, y: { label: metric.value, unit: data.units[metric.value] || "", isLog: yLog.checked } };
    const isOne = view.value === "one";
    area.hidden = !isOne; panels.hidden = isOne;
    panels.replaceChildren();
    if (isOne) {
      const marks = groups.flatMap((group) => marksOf(group, bands.get(group), false));
      chart.draw({ ...axes, marks: [...marks.filter((mark) => mark.kind !== "curve"), ...marks.filter((mark) => mark.kind === "curve")] });
      return;
    }
    const values = [...bands.values()], domain = { x: values.flatMap((band) => band.x), y: values.flatMap((band) => band.mean) };
    for (const group of groups) {
      const box = html("div"), figure = html("figure", {}, html("figcaption", { "data-group": group }, data.groups[group].label), box);
      panels.append(figure);
      const others = groups.filter((other) => other !== group).flatMap((other) => marksOf(other, bands.get(other), true));
      new Chart(box, `${metric.value} of ${data.groups[group].label}`, { isCompact: true }).draw({ ...axes, domain, marks: [...others, ...marksOf(group, bands.get(group), false)] });
    }
  }
  redraws.push(drawCurves);
}
