// The start of the page.

const data = JSON.parse(document.getElementById("data").textContent);

function start() {
  const root = document.documentElement, filter = document.getElementById("filter"), theme = document.getElementById("theme");
  if (state.choices.theme) root.dataset.theme = state.choices.theme;
  theme.addEventListener("click", () => {
    const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = state.choices.theme = isDark ? "light" : "dark";
    saveState();
  });
  for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
  filter.value = state.filter;
  filter.addEventListener("input", () => { state.filter = filter.value; update(); });
  makeLegend(document.getElementById("legend"));
  makeCurves(document.getElementById("curves-chart"));
  makeTradeOff(document.getElementById("trade-off-chart"));
  for (const [id, rows, label, zero] of data.ranges) makeRanges(document.getElementById(id), rows, label, zero);
  for (const partition of data.partitions) drawPartition(document.getElementById(partition.id), partition);
  redraws.push(() => {
    filterRows(state.filter);
    document.getElementById("count").textContent = `${shownGroups().length} of ${data.groups.length} groups shown`;
  });
  for (const row of document.querySelectorAll("tr[data-group]")) {
    row.addEventListener("pointerenter", () => highlight(Number(row.dataset.group)));
    row.addEventListener("pointerleave", () => highlight(null));
  }
  window.addEventListener("pagehide", saveState);
  for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;
  update();
  if (state.scroll && !location.hash) window.scrollTo(0, state.scroll);
}

start();
