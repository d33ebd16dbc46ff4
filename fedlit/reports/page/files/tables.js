// Tables: sorting by a column, and the filter over the groups.

/** Sort a table's rows by a column; cells without a number are last. */
function sortRows(table, column, direction) {
  const value = (row) => {
    const cell = row.cells[column], text = cell?.dataset.value;
    return text === undefined ? cell?.textContent ?? "" : text === "" ? null : Number(text);
  };
  const compare = (a, b) => {
    const [p, q] = [value(a), value(b)];
    if (p === null || q === null) return p === q ? 0 : p === null ? 1 : -1;
    return (typeof p === "number" && typeof q === "number" ? p - q : String(p).localeCompare(String(q), "en", { numeric: true })) * direction;
  };
  const body = table.tBodies[0];
  body.append(...[...body.rows].sort(compare));
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    const button = html("button", { type: "button", title: "sort" }, header.textContent);
    header.replaceChildren(button);
    button.addEventListener("click", () => {
      const isAscending = header.getAttribute("aria-sort") !== "ascending";
      for (const other of headers) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
      sortRows(table, column, isAscending ? 1 : -1);
    });
  });
}

/** True if a text has all words of the filter, whatever their case. */
function matchesFilter(text, filter) {
  const lower = text.toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => lower.includes(word));
}

/** Hide the rows that the filter does not match. */
function filterRows(filter) {
  for (const row of document.querySelectorAll("table.filtered tbody tr")) {
    row.hidden = !matchesFilter(row.dataset.text || row.textContent, filter);
  }
}
