"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th"), body = head.closest("table").tBodies[0];
    const column = head.cellIndex, down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const groups = [];
    for (const row of body.rows) {
      if (row.classList.contains("muted") && groups.length) groups[groups.length - 1].push(row);
      else groups.push([row]);
    }
    const key = (group) => {
      const cell = group[0].cells[column];
      return { number: parseFloat(cell.dataset.value), text: cell.textContent.trim() };
    };
    groups.sort((first, second) => {
      const a = key(first), b = key(second);
      if (!a.text || !b.text) return (a.text ? 0 : 1) - (b.text ? 0 : 1);
      const order = isNaN(a.number) || isNaN(b.number)
        ? a.text.localeCompare(b.text, "en", { numeric: true }) : a.number - b.number;
      return down ? -order : order;
    });
    for (const group of groups) body.append(...group);
  });
}
const links = new Map();
for (const link of document.querySelectorAll("nav a")) links.set(link.getAttribute("href").slice(1), link);
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (entry.isIntersecting) {
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }
}, { rootMargin: "0px 0px -80% 0px" });
for (const id of links.keys()) seen.observe(document.getElementById(id));
