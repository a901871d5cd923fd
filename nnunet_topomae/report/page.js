"use strict";

// Numbers by size, text by the reader's alphabet; what is not a number stays last.
function compare(a, b, sign) {
  const [x, y] = [a, b].map((cell) => ("number" in cell.dataset ? Number(cell.dataset.number) : null));
  if (x === null || y === null) return sign * a.textContent.localeCompare(b.textContent, undefined, { numeric: true });
  if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
  return sign * (x - y);
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const order = heads[column].getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
  heads.forEach((head, n) => (n === column ? head.setAttribute("aria-sort", order) : head.removeAttribute("aria-sort")));
  const sign = order === "ascending" ? 1 : -1;
  table.tBodies[0].append(...[...table.tBodies[0].rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
}

document.querySelectorAll("table").forEach((table) => {
  table.querySelectorAll("thead button").forEach((button, column) => button.addEventListener("click", () => sortBy(table, column)));
});
