import * as ort from "./ort.wasm.min.mjs";
import { Editor, Grid, parse } from "./grid.js";

const element = (id) => document.getElementById(id);
const facts = await (await fetch("./puzzles.json")).json();
const { height, width, blank, colors, examples, first } = facts;
const size = height * width;
const question = new Editor(element("question"), facts, forget);
const answer = new Grid(element("answer"), facts);
let session = null;
let shownExample = -1;

function forget() {
  answer.clear();
  element("result").textContent = "";
}

function load(cells) {
  question.show(cells.slice());
  forget();
}

async function solve(steps) {
  const cells = question.cells;
  const tokens = BigInt64Array.from(cells, (cell) => BigInt(cell + first));
  const started = performance.now();
  const outputs = await session.run({
    tokens: new ort.Tensor("int64", tokens, [1, size]),
    max_steps: new ort.Tensor("int64", BigInt64Array.from([BigInt(steps)]), []),
    early_halting: new ort.Tensor("bool", Uint8Array.from([1]), []),
  });
  const milliseconds = performance.now() - started;
  answer.show(Array.from(outputs.answer.data, (token) => Number(token) - first), height, width, cells);
  for (const [index, box] of answer.boxes.entries()) {
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", answer.name(answer.cells[index]));
  }
  const probability = 100 / (1 + Math.exp(-outputs.halt_logit.data[0]));
  const taken = Number(outputs.steps.data[0]);
  const changed = cells.filter((cell, index) => cell !== blank && answer.cells[index] !== cell).length;
  const warning = changed && !colors ? ` The answer changes ${changed} given cells.` : "";
  element("result").textContent =
    `Halt probability ${probability.toFixed(1)} %, ${taken} ${taken === 1 ? "step" : "steps"}, ` +
    `${milliseconds.toFixed(0)} ms.${warning}`;
}

element("title").textContent = `${facts.title} ${height} x ${width}`;
document.title = element("title").textContent;
for (const value of facts.editable) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = value === blank ? "clear" : facts.names[value];
  button.addEventListener("click", () => question.set(question.selected, value));
  element("symbols").append(button);
}
element("steps").addEventListener("input", () => (element("shown-steps").textContent = element("steps").value));
element("clear").addEventListener("click", () => load(new Array(size).fill(facts.empty)));
element("example").hidden = examples.length === 0;
element("example").addEventListener("click", () => {
  shownExample = (shownExample + 1) % examples.length;
  load(examples[shownExample]);
});
element("text").addEventListener("input", () => {
  const values = parse(element("text").value, facts);
  element("text-error").textContent = values ? "" : `Give ${size} cells of ${facts.vocabulary.join(" ")}.`;
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
load(new Array(size).fill(facts.empty));
if (examples.length) element("example").click();

ort.env.wasm.numThreads = 1; // more need headers that static servers do not send
ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
try {
  session = await ort.InferenceSession.create("./model.onnx");
  element("status").textContent = "";
  element("solve").disabled = false;
} catch (error) {
  element("status").textContent = `The model cannot be loaded: ${error.message}`;
}
