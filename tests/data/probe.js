"use strict";
// Looks at every framed page once it has loaded, and leaves what it finds as JSON in a <pre>.
function luminance(colour) {
  const parts = colour.match(/[\d.]+/g).slice(0, 3).map((one) => Number(one) / 255);
  const [red, green, blue] = parts.map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function behind(element, view) {
  for (let one = element; one; one = one.parentElement) {
    const colour = view.getComputedStyle(one).backgroundColor;
    if (!/, 0\)$|transparent/.test(colour)) return colour;
  }
  return "rgb(255, 255, 255)";
}

function faintest(page, view) {
  let least = { contrast: 21, text: "" };
  for (const element of page.querySelectorAll("p, li, td, th, caption, h1, h2, h3, figcaption, code, a, .unit, .range")) {
    if (!element.textContent.trim()) continue;
    const [one, other] = [view.getComputedStyle(element).color, behind(element, view)].map(luminance);
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < least.contrast) least = { contrast, text: element.textContent.trim().slice(0, 40) };
  }
  return least;
}

function order(table) {
  return [...table.tBodies[0].rows].map((row) => row.textContent).join("\n");
}

function isSortable(table) {
  const values = (index) => new Set([...table.tBodies[0].rows].map((row) => row.cells[index].textContent));
  return [...table.tHead.rows[0].cells].every((head, index) => {
    const button = head.querySelector("button");
    if (!button) return false;
    button.click();
    const [up, first] = [head.getAttribute("aria-sort"), order(table)];
    button.click();
    const [down, second] = [head.getAttribute("aria-sort"), order(table)];
    return up === "ascending" && down === "descending" && (values(index).size < 2 || first !== second);
  });
}

function probe(frame) {
  const view = frame.contentWindow, page = frame.contentDocument, root = page.documentElement;
  const least = faintest(page, view), tables = [...page.querySelectorAll("table")];
  return {
    title: page.title,
    requests: view.performance.getEntriesByType("resource").map((one) => one.name),
    overflow: root.scrollWidth - root.clientWidth,
    isDark: luminance(behind(page.body, view)) < 0.2,
    contrast: least.contrast,
    faintest: least.text,
    cut: tables.filter((one) => one.getBoundingClientRect().right > root.clientWidth + 1).map((one) => one.caption.textContent),
    unsorted: tables.filter((one) => !isSortable(one)).map((one) => one.caption.textContent),
  };
}

window.addEventListener("load", () => {
  const found = {};
  for (const frame of document.querySelectorAll("iframe")) found[frame.id] = probe(frame);
  const shown = document.createElement("pre");
  shown.id = "found";
  shown.textContent = JSON.stringify(found);
  document.body.append(shown);
});
