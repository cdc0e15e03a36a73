/** The puzzle: typed, drawn, pasted, generated, or a test puzzle of a dataset. */

import { get, post } from "./api.js";
import { Editor, Grid } from "./grid.js";

const element = (id) => document.getElementById(id);
const range = (count) => Array.from({ length: count }, (_, index) => index);

export class Puzzle {
  /** attempt: runs a function and shows its error. changed: called after another puzzle is shown. */
  constructor(attempt, changed) {
    Object.assign(this, { attempt, changed, facts: null, brush: null, place: null, seed: 0, tests: null });
    element("generate").addEventListener("click", () => this.attempt(() => this.generate()));
    element("clear").addEventListener("click", () => this.clear());
    element("paste").addEventListener("click", () => this.attempt(() => this.#ask({ text: element("text").value })));
    element("tests").addEventListener("submit", (event) => {
      event.preventDefault();
      this.attempt(() => this.#showTest());
    });
    element("dataset").addEventListener("change", () => this.attempt(() => this.#listTests()));
    element("task").addEventListener("change", () => this.#boundPairs());
    element("shape").addEventListener("submit", (event) => event.preventDefault());
    element("shape").addEventListener("change", () => this.#resize());
    element("drawing").addEventListener("change", () => this.#showBrush());
    this.#drawByPointer();
  }

  /** What the server solves: cells, or the place of a test puzzle that has not been changed. */
  get request() {
    return this.place ?? this.rows;
  }

  get rows() {
    const { cells, width, height } = this.editor;
    return range(height).map((row) => cells.slice(row * width, (row + 1) * width));
  }

  /** Show the puzzles of a model. A puzzle of the same kind stays. */
  async setModel(name, facts, isSame) {
    Object.assign(this, { model: name, facts });
    if (isSame) {
      await this.#listDatasets();
      return;
    }
    this.brush = null;
    const area = element("question");
    if (facts.is_editable) this.editor = new Editor(area, facts, () => this.#edited());
    else this.editor = new Grid(area, facts);
    area.setAttribute("role", facts.is_editable ? "group" : "img");
    area.setAttribute("aria-label", "Question");
    element("generate").hidden = !facts.can_generate;
    element("clear").hidden = !facts.is_editable;
    element("editing").hidden = !facts.is_editable;
    element("shape").hidden = facts.fills_canvas || !facts.is_editable;
    element("drawing").checked = facts.colors !== null && facts.fills_canvas;
    element("rows-label").hidden = facts.height === 1;
    element("rows").max = facts.height;
    element("columns").max = facts.width;
    this.#makeSymbols();
    await this.#listDatasets();
    this.clear();
    if (facts.can_generate) await this.generate();
    else if (Object.keys(facts.datasets).length) await this.#showTest();
    else if (!facts.is_editable) element("note").textContent = "The dataset of this model is not below the folders named at start.";
  }

  clear() {
    const { height, width } = this.editor;
    this.#show(new Array((height || this.facts.height) * (width || this.facts.width)).fill(this.facts.empty));
  }

  async generate() {
    await this.#ask({ seed: this.seed++ });
  }

  #show(cells, height = this.editor.height || this.facts.height, width = this.editor.width || this.facts.width) {
    this.editor.show(cells, height, width);
    this.place = null;
    element("rows").value = height;
    element("columns").value = width;
    element("note").textContent = "";
    element("demonstrations").hidden = true;
    this.changed();
  }

  async #ask(source) {
    const { question, note, demonstrations } = await post("ui/puzzle", { model: this.model, ...source });
    this.#show(question.flat(), question.length, question[0].length);
    this.place = source.place ?? null;
    element("note").textContent = note ? `The puzzle ${note}.` : "";
    this.#showDemonstrations(demonstrations);
  }

  #edited() {
    this.place = null;
    element("note").textContent = "";
    this.changed();
  }

  #resize() {
    const [height, width] = ["rows", "columns"].map((id) => {
      const input = element(id);
      return Math.min(Math.max(Math.round(Number(input.value)) || 1, 1), Number(input.max));
    });
    const old = this.rows;
    const cells = range(height).flatMap((row) => range(width).map((column) => old[row]?.[column] ?? this.facts.empty));
    this.#show(cells, height, width);
  }

  async #listDatasets() {
    const names = Object.keys(this.facts.datasets);
    element("tests").hidden = names.length === 0;
    element("dataset").replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.length) await this.#listTests();
  }

  async #listTests() {
    this.tests = await get("ui/tests", { model: this.model, dataset: element("dataset").value });
    const { count, tasks } = this.tests;
    for (const [id, shown] of [["index-label", !tasks.length], ["task-label", tasks.length], ["pair-label", tasks.length]]) {
      element(id).hidden = !shown;
    }
    element("index").max = count - 1;
    element("task").replaceChildren(...tasks.map(([name], number) => new Option(name, number)));
    this.#boundPairs();
  }

  #boundPairs() {
    const task = this.tests.tasks[Number(element("task").value)];
    element("pair").max = task ? task[1] : 1;
    element("pair").value = 1;
  }

  async #showTest() {
    const isTask = this.tests.tasks.length > 0;
    const place = { dataset: element("dataset").value, index: Number(element(isTask ? "task" : "index").value) };
    if (isTask) place.pair = Number(element("pair").value) - 1;
    await this.#ask({ place });
  }

  #showDemonstrations(pairs) {
    element("demonstrations").hidden = pairs.length === 0;
    element("pairs").replaceChildren(
      ...pairs.map((pair, number) => {
        const row = document.createElement("div");
        row.className = "pair";
        pair.forEach((rows, side) => {
          const figure = document.createElement("figure"), caption = document.createElement("figcaption");
          const grid = document.createElement("div");
          caption.textContent = `${side ? "Output" : "Input"} ${number + 1}`;
          grid.className = "grid";
          grid.setAttribute("role", "img");
          grid.setAttribute("aria-label", `${caption.textContent}, ${rows.length} x ${rows[0].length}`);
          figure.append(caption, grid);
          row.append(figure);
          new Grid(grid, this.facts).show(rows.flat(), rows.length, rows[0].length);
        });
        return row;
      }),
    );
  }

  #makeSymbols() {
    const { editable, blank, names, colors, symbols } = this.facts;
    const buttons = editable.map((value) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.value = value;
      if (colors && value !== blank) {
        const swatch = document.createElement("span");
        swatch.className = "swatch";
        swatch.style.background = colors[value] ?? "";
        button.append(swatch);
      }
      button.append(value === blank ? "clear" : names[value].trim() || symbols[value] || `value ${value}`);
      button.addEventListener("click", () => this.#choose(value));
      return button;
    });
    element("symbols").replaceChildren(...buttons);
    this.#showBrush();
  }

  /** The chosen symbol is that of the next clicks, or of the selected cell. */
  #choose(value) {
    if (element("drawing").checked) {
      this.brush = value;
      this.#showBrush();
    } else this.editor.set(this.editor.selected, value);
  }

  #showBrush() {
    const isDrawing = element("drawing").checked;
    if (this.brush === null) this.brush = this.facts.editable[0];
    element("question").classList.toggle("drawing", isDrawing);
    for (const button of element("symbols").children) {
      if (isDrawing) button.setAttribute("aria-pressed", String(Number(button.dataset.value) === this.brush));
      else button.removeAttribute("aria-pressed");
    }
  }

  /** Set the chosen symbol by clicks, by Enter or Space on a cell, and by dragging. */
  #drawByPointer() {
    const grid = element("question");
    const draw = (target) => {
      const index = this.editor ? this.editor.boxes.indexOf(target?.closest("button")) : -1;
      if (index < 0 || !element("drawing").checked || !this.facts.is_editable) return;
      if (this.editor.cells[index] !== this.brush) this.editor.set(index, this.brush);
    };
    grid.addEventListener("click", (event) => draw(event.target));
    grid.addEventListener("pointermove", (event) => {
      if (event.buttons & 1) draw(document.elementFromPoint(event.clientX, event.clientY));
    });
    grid.addEventListener("pointerdown", (event) => draw(event.target));
  }
}
