/** A model with its settings, and the frames of its trace. */

import { Grid } from "./grid.js";
import { Settings } from "./settings.js";

const STATES = {
  pending: "waiting", running: "running", halted: "halted early", valid: "obeys the rules",
  stopped: "stopped by another", done: "all steps done",
};
const percent = (value) => `${(100 * value).toFixed(1)}\u00a0%`;
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
const sizeOf = (rows) => `${rows.length} x ${rows[0]?.length ?? 0}`;

export class Panel {
  constructor(name, fields, onModel) {
    const root = document.getElementById("panel").content.cloneNode(true).firstElementChild;
    this.name = name;
    this.root = root;
    this.parts = Object.fromEntries([...root.querySelectorAll("[data-of]")].map((part) => [part.dataset.of, part]));
    root.setAttribute("aria-label", `Model ${name}`);
    root.querySelector("h3").textContent = `Model ${name}`;
    root.querySelector(".scroll").setAttribute("aria-label", `Votes and samples of model ${name}`);
    this.settings = new Settings(this.parts.settings, fields, name);
    this.parts.model.addEventListener("change", () => onModel(this));
    this.reset();
  }

  /** count: the number of panels; a single one needs no name. */
  rename(count) {
    this.parts.name.textContent = count > 1 ? `Model ${this.name}` : "Model";
  }

  remove() {
    this.root.remove();
    this.parts.choice.remove();
  }

  get model() {
    return this.parts.model.value;
  }

  /** Offer these models, grouped as the server sorts them; keep the chosen one if it is among them. */
  offer(models, chosen = this.model) {
    const options = models.map(({ name, title, arch, problem }) => {
      const option = new Option(problem ? `${name}: ${problem}` : `${name} (${title}, ${arch})`, name);
      option.disabled = Boolean(problem);
      return option;
    });
    this.parts.model.replaceChildren(...options);
    if (models.some((each) => each.name === chosen && !each.problem)) this.parts.model.value = chosen;
  }

  /** Draw answers in the way of these puzzles. */
  setFacts(facts) {
    this.facts = facts;
    this.answer = new Grid(this.parts.answer, facts);
    this.moved = new Grid(this.parts.moved, { ...facts, colors: null, symbols: [], dots: [] });
    this.reset();
  }

  reset() {
    Object.assign(this, { frames: [], start: null, end: null, failed: "" });
    this.parts.frame.textContent = "";
    this.parts.result.textContent = "";
    this.parts.votes.hidden = true;
    this.parts.chart.replaceChildren();
    this.parts.map.hidden = false;
    this.answer?.clear();
    this.moved?.clear();
    for (const part of [this.parts.answer, this.parts.moved]) part.setAttribute("aria-label", "No trace");
  }

  /** Add a line of the trace. */
  add(line) {
    if (line.error) this.failed = line.error;
    else if (line.end) this.end = line.end;
    else if (line.question) this.start = line;
    else this.frames.push(line);
    if (line.error || line.end) this.parts.result.textContent = this.outcome();
  }

  /** Show the frame with this number, or the last one. */
  show(number) {
    const index = Math.min(number, this.frames.length - 1), frame = this.frames[index];
    if (!frame) return;
    const height = frame.answer.length, width = frame.answer[0]?.length ?? 0;
    const question = this.start.question;
    const isSame = question.length === height && question[0].length === width;
    this.answer.show(frame.answer.flat(), height, width, isSame ? question.flat() : null);
    const before = index ? this.frames[index - 1].answer : null;
    const changed = before ? this.#differences(frame.answer, before) : new Set();
    const wrong = this.start.solution ? this.#differences(frame.answer, this.start.solution) : new Set();
    this.answer.boxes.forEach((box, cell) => {
      box.classList.toggle("changed", changed.has(cell));
      box.classList.toggle("wrong", wrong.has(cell));
    });
    this.parts.answer.setAttribute("aria-label", `Answer, ${this.#describe(frame.answer)}`);
    this.#showMoved(frame.moved);
    this.#showChart(index);
    this.#showSamples(frame.samples);
    this.parts.frame.textContent = this.describe(index, before ? changed.size : null);
  }

  /** A frame in words. */
  describe(number, changed = null) {
    const index = Math.min(number, this.frames.length - 1), frame = this.frames[index];
    if (!frame) return this.failed;
    const words = [`Step ${frame.step} of ${this.start.max_steps}, round ${frame.round}, pass ${frame.pass}: `];
    words.push(`halt probability ${percent(frame.halt_probability)}`);
    if (changed !== null) words.push(`, ${plural(changed, "cell")} changed`);
    const solution = this.start.solution;
    if (solution) {
      const total = solution.length * solution[0].length, [size, right] = [frame.answer, solution].map(sizeOf);
      words.push(`, ${total - this.#differences(solution, frame.answer).size} of ${total} cells correct`);
      if (size !== right) words.push(`, ${size} instead of ${right}`);
    }
    return `${words.join("")}.`;
  }

  /** The answer in words. */
  outcome() {
    if (this.failed) return this.failed;
    if (!this.end) return "";
    const { answered, solved, valid, confidence, votes, num_votes, halt_probability, passes } = this.end;
    const last = this.frames[this.frames.length - 1];
    const words = [];
    if (!answered) words.push(`Left unanswered: the confidence ${percent(confidence)} is too low`);
    else if (solved) words.push("Solved");
    else if (valid) words.push(solved === false ? "Valid, but not the known solution" : "Valid");
    else words.push(valid === false ? "Not solved: breaks a rule or a clue" : solved === false ? "Not solved" : "No rules to check");
    if (answered) words.push(`confidence ${percent(confidence)}`);
    words.push(`halt probability ${percent(halt_probability)}`);
    if (num_votes > 1) words.push(`${votes} of ${plural(num_votes, "vote")}`);
    words.push(`${plural(last.step, "step")}, ${plural(passes, "forward pass", "forward passes")}`);
    return `${words.join("; ")}.`;
  }

  /** Cells of `grid` that `other` does not have. */
  #differences(grid, other) {
    const width = grid[0]?.length ?? 0, found = new Set();
    grid.forEach((row, y) => row.forEach((cell, x) => cell !== other[y]?.[x] && found.add(y * width + x)));
    return found;
  }

  #describe(rows) {
    const size = sizeOf(rows);
    if (rows.length * (rows[0]?.length ?? 0) > 100) return size;
    return `${size}: ${rows.map((row, y) => `row ${y + 1}: ${row.map((cell) => this.answer.name(cell)).join(" ")}`).join("; ")}`;
  }

  /** The movement on a logarithmic scale: none for a relative change of a thousandth, full for a change of 1. */
  #showMoved(moved) {
    this.parts.map.hidden = moved === null;
    if (moved === null) return;
    const values = moved.flat(), width = moved[0].length;
    this.moved.show(new Array(values.length).fill(null), moved.length, width);
    this.moved.boxes.forEach((box, index) => {
      const share = Math.min(Math.max(1 + Math.log10(Math.max(values[index], 1e-9)) / 3, 0), 1);
      box.style.background = `color-mix(in srgb, var(--accent) ${Math.round(100 * share)}%, var(--cell))`;
    });
    const most = values.indexOf(Math.max(...values));
    const place = `row ${Math.floor(most / width) + 1}, column ${(most % width) + 1}`;
    this.parts.moved.setAttribute("aria-label", `Movement of the latents: most, ${values[most].toFixed(3)}, at ${place}`);
  }

  #showChart(index) {
    const svg = this.parts.chart, last = Math.max(this.frames.length - 1, 1);
    const points = this.frames.map((frame, number) => `${(100 * number) / last},${(20 * (1 - frame.halt_probability)).toFixed(2)}`);
    const [line, mark] = ["polyline", "line"].map((name) => document.createElementNS(svg.namespaceURI, name));
    line.setAttribute("points", points.join(" "));
    const x = (100 * index) / last;
    for (const [key, value] of Object.entries({ x1: x, x2: x, y1: 0, y2: 20 })) mark.setAttribute(key, value);
    svg.replaceChildren(line, mark);
    svg.setAttribute("aria-label", `Halt probability, now ${percent(this.frames[index].halt_probability)}`);
  }

  #showSamples(samples) {
    this.parts.votes.hidden = samples.length === 0;
    const rows = samples.map(([name, letter, probability, state, votes, shown]) => {
      const row = document.createElement("tr");
      row.classList.toggle("shown", shown);
      const states = `${STATES[state]}${votes ? ", votes" : ""}${shown ? ", shown" : ""}`;
      for (const text of [name, letter, letter && percent(probability), states]) row.insertCell().textContent = text;
      return row;
    });
    this.parts.votes.querySelector("tbody").replaceChildren(...rows);
  }
}
