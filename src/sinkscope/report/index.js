"use strict";
(() => {
  // A table that sorts by a click on a heading and shows the rows that every field lets through.
  const MOST = 24; // different values that a choice offers
  for (const index of document.querySelectorAll(".index")) {
    const body = index.querySelector("tbody");
    const rows = [...body.rows];
    const heads = [...index.querySelectorAll("th")];
    const key = (row, i) => row.cells[i].dataset.key;
    const number = heads.map((head) => head.classList.contains("number"));
    const tests = [];
    const told = document.createElement("output");
    const filter = () => {
      let shown = 0;
      for (const row of rows) {
        row.hidden = !tests.every((test) => test(row));
        shown += row.hidden ? 0 : 1;
      }
      told.textContent = shown + " of " + rows.length + " rows";
    };
    const field = (title, control, event) => {
      const label = document.createElement("label");
      label.className = "choice";
      label.append(title + " ", control);
      control.setAttribute("aria-label", title);
      control.addEventListener(event, filter);
      index.querySelector(".choices").append(label);
    };
    const search = document.createElement("input");
    search.type = "search";
    tests.push((row) => {
      const text = row.textContent.toLowerCase();
      return search.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
    });
    field("Search", search, "input");
    heads.forEach((head, i) => {
      const values = [...new Set(rows.map((row) => key(row, i)))];
      if ("choice" in head.dataset && values.length > 1 && values.length <= MOST) {
        const select = document.createElement("select");
        select.append(new Option("all", "*"));
        for (const value of values) {
          const cell = rows.find((row) => key(row, i) === value).cells[i];
          select.append(new Option(cell.textContent, "=" + value));
        }
        tests.push((row) => select.value === "*" || select.value === "=" + key(row, i));
        field(head.textContent, select, "change");
      }
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const order = (a, b) => {
          const [one, other] = [key(a, i), key(b, i)];
          if (!one || !other) return (one ? 0 : 1) - (other ? 0 : 1); // without a value: last
          const way = number[i] ? one - other : one.localeCompare(other);
          return down ? -way : way;
        };
        body.append(...[...rows].sort(order));
      });
    });
    index.querySelector(".choices").append(told);
    filter();
  }
})();
