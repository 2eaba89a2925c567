"use strict";

// The number that a cell starts with; a dash is less than every number.
const number = (text) => {
  const found = parseFloat(text.replace("−", "-").replace("<", "").replaceAll(",", ""));
  return Number.isNaN(found) ? -Number.MAX_VALUE : found;
};
const compareNumbers = (one, other) => number(one) - number(other);
const compareTexts = new Intl.Collator("en", { numeric: true }).compare;

const sort = (table, header) => {
  const place = header.cellIndex;
  const rows = [...table.tBodies[0].rows];
  const numeric = header.classList.contains("number");
  const before = header.getAttribute("aria-sort");
  const down = before ? before === "ascending" : numeric;
  for (const one of table.tHead.rows[0].cells) one.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const compare = numeric ? compareNumbers : compareTexts;
  const keyed = rows.map((row) => [row.cells[place].textContent.trim(), row]);
  keyed.sort((one, other) => (down ? -1 : 1) * compare(one[0], other[0]));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
};

for (const table of document.querySelectorAll("table.sortable")) {
  for (const header of table.querySelectorAll("thead th:not(.recording)")) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(table, header));
    header.append(button);
  }
}

const form = document.querySelector(".filters");
if (form) {
  const rows = [...document.querySelectorAll(".errors tbody tr")];
  const shown = document.getElementById("shown");
  const filter = () => {
    let count = 0;
    for (const row of rows) {
      row.hidden = [...form.querySelectorAll("select")].some(
        (one) => one.value && one.value !== row.dataset[one.name],
      );
      count += !row.hidden;
    }
    shown.textContent = count.toLocaleString("en");
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  for (const link of document.querySelectorAll("a[data-pair]")) {
    link.addEventListener("click", () => {
      form.reset();
      form.elements.pair.value = link.dataset.pair;
      filter();
    });
  }
}

// One recording plays at a time; a line over its waveform shows where.
const player = new Audio();
let playing = null;
let frame = 0;

const stop = () => {
  player.pause();
  cancelAnimationFrame(frame);
  if (!playing) return;
  playing.textContent = "▶";
  playing.setAttribute("aria-label", playing.dataset.label);
  playing.parentElement.querySelector("i").style.display = "none";
  playing = null;
};

const follow = () => {
  const line = playing.parentElement.querySelector("i");
  const share = player.currentTime / Number(playing.dataset.seconds);
  line.style.display = "block";
  line.style.left = `${100 * Math.min(share, 1)}%`;
  frame = requestAnimationFrame(follow);
};

const play = (button, from) => {
  if (playing !== button) {
    stop();
    player.src = button.dataset.audio;
  }
  playing = button;
  player.currentTime = from;
  cancelAnimationFrame(frame);
  follow();
  player.play().catch((error) => {
    if (error.name === "AbortError") return;
    stop();
    button.textContent = "✕";
    button.title = "This recording cannot be played";
  });
  button.textContent = "■";
  button.setAttribute("aria-label", "Stop");
};

player.addEventListener("ended", stop);
for (const button of document.querySelectorAll("button.play")) {
  button.hidden = false;
  button.dataset.label = button.getAttribute("aria-label");
  button.addEventListener("click", () => (playing === button ? stop() : play(button, 0)));
  const picture = button.parentElement.querySelector(".picture");
  picture.addEventListener("click", (event) => {
    const { left, width } = picture.getBoundingClientRect();
    play(button, (Number(button.dataset.seconds) * (event.clientX - left)) / width);
  });
}
