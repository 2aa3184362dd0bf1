"use strict";
// Every head of a table becomes a button that sorts by its column: upwards, then downwards.
function valueOf(row, index) {
  const cell = row.cells[index];
  const stated = cell.dataset.value ?? cell.textContent.trim();
  const number = stated === "inf" ? Infinity : stated === "" ? NaN : Number(stated);
  return Number.isNaN(number) ? stated : number;
}

function compare(one, other) {
  const areNumbers = typeof one === "number" && typeof other === "number";
  if (areNumbers) return one < other ? -1 : one > other ? 1 : 0;
  return String(one).localeCompare(String(other), "en", { numeric: true });
}

function sortBy(table, head, index) {
  const isUp = head.getAttribute("aria-sort") !== "ascending";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", isUp ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => (isUp ? 1 : -1) * compare(valueOf(one, index), valueOf(other, index)));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    const name = head.querySelector(".name");
    const button = document.createElement("button");
    button.type = "button";
    name.replaceWith(button);
    button.append(name);
    button.addEventListener("click", () => sortBy(table, head, index));
  });
}
