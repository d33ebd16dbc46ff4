// The state of the page: choices that survive a reload of the page, and who is drawn again after a change.

const STORE = `fedlit ${location.pathname}`;

function loadState() {
  try { return JSON.parse(sessionStorage.getItem(STORE)) || {}; } catch { return {}; }
}

const state = { filter: "", hidden: [], choices: {}, zooms: {}, ...loadState() };
const redraws = [];

function saveState() {
  try { sessionStorage.setItem(STORE, JSON.stringify({ ...state, scroll: window.scrollY })); } catch { /* a page in a frame has no store */ }
}

/** Draw everything again that depends on the shown groups. */
function update() {
  saveState();
  for (const redraw of redraws) redraw();
}

const isVisible = (group) => matchesFilter(data.groups[group].label, state.filter) && !state.hidden.includes(data.groups[group].label);
const shownGroups = () => data.groups.map((_, i) => i).filter(isVisible);

/** A labelled drop-down list whose choice is kept under `key`. */
function makeSelect(key, label, options, first, redraw) {
  const select = html("select", { id: `choice-${key}` });
  for (const [value, text] of options) select.append(html("option", { value }, text));
  const wanted = state.choices[key] ?? first;
  select.value = options.some(([value]) => value === wanted) ? wanted : options[0]?.[0];
  select.addEventListener("change", () => { state.choices[key] = select.value; saveState(); redraw(); });
  return [html("label", {}, `${label} `, select), select];
}

function makeCheckbox(key, label, first, redraw) {
  const box = html("input", { type: "checkbox", id: `choice-${key}` });
  box.checked = state.choices[key] ?? first;
  box.addEventListener("change", () => { state.choices[key] = box.checked; saveState(); redraw(); });
  return [html("label", {}, box, label), box];
}

/** A list of buttons that switch groups on and off. */
function makeLegend(host) {
  const list = html("ul", { class: "legend", "aria-label": "groups; a button shows or hides one" });
  const buttons = data.groups.map((group, i) => {
    const sample = svg("svg", { width: 34, height: 14, "aria-hidden": "true", class: colourClass(i) });
    svg("path", { class: "curve", d: "M1,7H33", "stroke-dasharray": dashOf(i) }, sample);
    svg("path", { class: "dot", d: markerPath(i, 17, 7, 4) }, sample);
    const button = html("button", { type: "button", "data-group": i }, sample, group.label);
    button.addEventListener("click", () => {
      const isHidden = state.hidden.includes(group.label);
      state.hidden = isHidden ? state.hidden.filter((label) => label !== group.label) : [...state.hidden, group.label];
      update();
    });
    for (const name of ["pointerenter", "focus"]) button.addEventListener(name, () => highlight(i));
    for (const name of ["pointerleave", "blur"]) button.addEventListener(name, () => highlight(null));
    const item = html("li", {}, button);
    list.append(item);
    return [item, button];
  });
  const all = html("button", { type: "button" }, "show all"), none = html("button", { type: "button" }, "hide all");
  all.addEventListener("click", () => { state.hidden = []; update(); });
  none.addEventListener("click", () => { state.hidden = data.groups.map((group) => group.label); update(); });
  host.append(list, html("div", { class: "controls" }, all, none));
  redraws.push(() => buttons.forEach(([item, button], i) => {
    item.hidden = !matchesFilter(data.groups[i].label, state.filter);
    button.setAttribute("aria-pressed", String(!state.hidden.includes(data.groups[i].label)));
  }));
}
