"use strict";
// Tables are sorted by a click (or Enter) on a heading: columns of numbers by data-v, others as text; a second click turns the order.
function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const sign = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach((head, k) => head.setAttribute("aria-sort", k !== column ? "none" : sign > 0 ? "ascending" : "descending"));
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.cells[column]]);
  const numeric = rows.some(([, cell]) => cell.dataset.v !== undefined);
  const key = (cell) => (numeric ? Number(cell.dataset.v ?? NaN) : cell.textContent.trim());
  const order = ([, a], [, b]) => {
    const [x, y] = [key(a), key(b)];
    if (!numeric) return sign * x.localeCompare(y, "en", { numeric: true });
    if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // no value: last both ways
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  };
  table.tBodies[0].append(...rows.sort(order).map(([row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    head.tabIndex = 0;
    head.setAttribute("aria-sort", "none");
    head.addEventListener("click", () => sortBy(table, column));
    head.addEventListener("keydown", (event) => {
      if (event.key === "Enter") sortBy(table, column);
    });
  });
}

// What is folded is printed too.
const opened = [];
window.addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details:not([open])")) {
    fold.open = true;
    opened.push(fold);
  }
});
window.addEventListener("afterprint", () => {
  for (const fold of opened.splice(0)) fold.open = false;
});
