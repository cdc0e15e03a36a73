import * as ort from "./ort.wasm.min.mjs";

const element = (id) => document.getElementById(id);
const settings = await (await fetch("./puzzles.json")).json();
const { height, width, symbols, colors, boxes, blank, examples, first } = settings;
const size = height * width;
const empty = blank ?? 0;
let cells = new Array(size).fill(empty);
let selected = 0;
let session = null;
let shownExample = -1;

/** Draw cells; a symbol without text is known by its color. */
function paint(target, value) {
  target.textContent = value === blank ? "" : (symbols[value] ?? "?");
  target.style.background = colors && value !== blank ? (colors[value] ?? "") : "";
}

function name(value) {
  return value === blank ? "blank" : (settings.names[value] ?? "unknown");
}

/** The class of a cell at the edge of a box. */
function edges(index) {
  if (!boxes) return [];
  const [row, column] = [Math.floor(index / width), index % width];
  const right = (column + 1) % boxes[1] === 0 && column + 1 < width;
  const bottom = (row + 1) % boxes[0] === 0 && row + 1 < height;
  return [right && "right", bottom && "bottom"].filter(Boolean);
}

function makeGrid(grid, tag) {
  grid.style.gridTemplateColumns = `repeat(${width}, 1fr)`;
  grid.style.setProperty("--letter", `${18 / width}rem`);
  for (let index = 0; index < size; index++) {
    const cell = document.createElement(tag);
    cell.classList.add(...edges(index));
    grid.append(cell);
  }
}

function show() {
  [...element("question").children].forEach((cell, index) => {
    paint(cell, cells[index]);
    const place = `row ${Math.floor(index / width) + 1}, column ${(index % width) + 1}`;
    cell.setAttribute("aria-label", `${place}: ${name(cells[index])}`);
    cell.setAttribute("aria-pressed", String(index === selected));
    cell.tabIndex = index === selected ? 0 : -1;
  });
}

function forget() {
  for (const cell of element("answer").children) {
    cell.textContent = "";
    cell.style.background = "";
    cell.classList.remove("given");
  }
  element("result").textContent = "";
}

function set(index, value) {
  cells[index] = value;
  forget();
  show();
}

function select(index) {
  selected = index;
  show();
  element("question").children[index].focus();
}

function move(key) {
  const [row, column] = [Math.floor(selected / width), selected % width];
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[key];
  const next = [Math.min(Math.max(row + step[0], 0), height - 1), Math.min(Math.max(column + step[1], 0), width - 1)];
  select(next[0] * width + next[1]);
}

function load(values) {
  cells = values.slice();
  forget();
  show();
}

/** Cells of a text in the symbols of the puzzle; null if it is something else. */
function parse(text) {
  const characters = Array.from(symbols.includes(" ") ? text.replace(/[\r\n]/g, "") : text.replace(/\s/g, ""));
  const values = characters.map((character) => {
    const value = settings.names.indexOf(character);
    return value >= 0 ? value : blank !== null && ".0_".includes(character) ? blank : -1;
  });
  return values.length === size && values.every((value) => value >= 0) ? values : null;
}

async function solve(steps) {
  const tokens = BigInt64Array.from(cells, (cell) => BigInt(cell + first));
  const started = performance.now();
  const outputs = await session.run({
    tokens: new ort.Tensor("int64", tokens, [1, size]),
    max_steps: new ort.Tensor("int64", BigInt64Array.from([BigInt(steps)]), []),
    early_halting: new ort.Tensor("bool", Uint8Array.from([1]), []),
  });
  const milliseconds = performance.now() - started;
  const answer = Array.from(outputs.answer.data, (token) => Number(token) - first);
  [...element("answer").children].forEach((cell, index) => {
    paint(cell, answer[index]);
    cell.classList.toggle("given", !colors && cells[index] !== blank);
    cell.setAttribute("role", "img");
    cell.setAttribute("aria-label", name(answer[index]));
  });
  const probability = 100 / (1 + Math.exp(-outputs.halt_logit.data[0]));
  const taken = Number(outputs.steps.data[0]);
  const changed = cells.filter((cell, index) => cell !== blank && answer[index] !== cell).length;
  const warning = changed && !colors ? ` The answer changes ${changed} given cells.` : "";
  element("result").textContent =
    `Halt probability ${probability.toFixed(1)} %, ${taken} ${taken === 1 ? "step" : "steps"}, ` +
    `${milliseconds.toFixed(0)} ms.${warning}`;
}

element("title").textContent = `${settings.title} ${height} x ${width}`;
document.title = element("title").textContent;
makeGrid(element("question"), "button");
makeGrid(element("answer"), "div");
[...element("question").children].forEach((cell, index) => {
  cell.type = "button";
  cell.addEventListener("click", () => select(index));
});
element("question").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key.startsWith("Arrow")) move(event.key);
  else if (["Delete", "Backspace"].includes(event.key)) set(selected, empty);
  else if (settings.names.includes(event.key)) set(selected, settings.names.indexOf(event.key));
  else return;
  event.preventDefault();
});
settings.names.forEach((label, value) => {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = value === blank ? "clear" : label.trim() || "free";
  button.addEventListener("click", () => set(selected, value));
  element("symbols").append(button);
});
element("steps").addEventListener("input", () => (element("shown-steps").textContent = element("steps").value));
element("clear").addEventListener("click", () => load(new Array(size).fill(empty)));
element("example").hidden = examples.length === 0;
element("example").addEventListener("click", () => {
  shownExample = (shownExample + 1) % examples.length;
  load(examples[shownExample]);
});
element("text").addEventListener("input", () => {
  const values = parse(element("text").value);
  element("text-error").textContent = values ? "" : `Give ${size} cells of ${settings.names.join(" ")}.`;
  if (values) load(values);
});
element("controls").addEventListener("submit", async (event) => {
  event.preventDefault();
  element("solve").disabled = true;
  try {
    await solve(Number(element("steps").value));
  } catch (error) {
    element("result").textContent = `The model cannot be run: ${error.message}`;
  }
  element("solve").disabled = false;
});
if (examples.length) element("example").click();
show();

ort.env.wasm.numThreads = 1; // more need headers that static servers do not send
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
try {
  session = await ort.InferenceSession.create("./model.onnx");
  element("status").textContent = "";
  element("solve").disabled = false;
} catch (error) {
  element("status").textContent = `The model cannot be loaded: ${error.message}`;
}
