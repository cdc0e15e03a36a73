/** Puzzles on a page: pictures of grids, and an editor. `facts` are those of `page_facts` in trm/exporting/puzzles.py. */

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const BLANKS = ".0_";

/** Cells of a text in the symbols of the puzzle; null if it is something else. */
export function parse(text, facts) {
  const { vocabulary, blank } = facts;
  const characters = Array.from(vocabulary.includes(" ") ? text.replace(/[\r\n]/g, "") : text.replace(/\s/g, ""));
  const values = characters.map((character) => {
    const value = vocabulary.indexOf(character);
    return value >= 0 ? value : blank !== null && BLANKS.includes(character) ? blank : -1;
  });
  return values.length === facts.height * facts.width && values.every((value) => value >= 0) ? values : null;
}

/** A picture of a grid in `element`. */
export class Grid {
  constructor(element, facts, tag = "div") {
    Object.assign(this, { element, facts, tag, cells: [], height: 0, width: 0 });
    element.classList.toggle("colored", facts.colors !== null);
    element.onclick = element.onkeydown = null; // those of an editor in this place
  }

  /** Draw cells, row by row. `question`: its given cells are marked. */
  show(cells, height = this.facts.height, width = this.facts.width, question = null) {
    if (height !== this.height || width !== this.width) this.#build(height, width);
    this.cells = cells;
    const { blank, colors } = this.facts;
    this.boxes.forEach((box, index) => {
      this.#paint(box, cells[index]);
      box.classList.toggle("given", question !== null && colors === null && question[index] !== blank);
    });
  }

  clear() {
    this.show(new Array(this.facts.height * this.facts.width).fill(null));
  }

  name(value) {
    return value === null || value === this.facts.blank ? "blank" : (this.facts.names[value] ?? "unknown");
  }

  get boxes() {
    return [...this.element.children];
  }

  #build(height, width) {
    Object.assign(this, { height, width });
    this.element.classList.toggle("fine", Math.max(height, width) > 15);
    this.element.style.gridTemplateColumns = `repeat(${width}, 1fr)`;
    this.element.style.setProperty("--most", `${Math.min(26, 4.5 * width, (26 * width) / height)}rem`);
    const longest = Math.max(...this.facts.symbols.map((symbol) => symbol.length), 1);
    this.element.style.setProperty("--letter", `${55 / width / Math.max(0.7 * longest, 1)}cqi`);
    const boxes = [];
    for (let index = 0; index < height * width; index++) {
      const box = document.createElement(this.tag);
      if (this.tag === "button") box.type = "button";
      box.classList.add(...this.#edges(index));
      boxes.push(box);
    }
    this.element.replaceChildren(...boxes);
  }

  /** The classes of a cell at the edge of a box. */
  #edges(index) {
    if (!this.facts.boxes) return [];
    const [rows, columns] = this.facts.boxes;
    const [row, column] = [Math.floor(index / this.width), index % this.width];
    const right = (column + 1) % columns === 0 && column + 1 < this.width;
    const bottom = (row + 1) % rows === 0 && row + 1 < this.height;
    return [right && "right", bottom && "bottom"].filter(Boolean);
  }

  #paint(box, value) {
    const { blank, symbols, colors, dots } = this.facts;
    const shown = value !== null && value !== blank;
    const text = !shown ? "" : dots.includes(value) ? "•" : (symbols[value] ?? "?");
    if (box.textContent !== text) box.textContent = text;
    box.classList.toggle("dot", shown && dots.includes(value));
    box.style.background = colors && shown ? (colors[value] ?? "") : "";
  }
}

/** A grid whose cells are chosen by arrow keys or the pointer, and set by keys. `edited` is called after a change. */
export class Editor extends Grid {
  constructor(element, facts, edited) {
    super(element, facts, "button");
    Object.assign(this, { edited, selected: 0 });
    element.onclick = (event) => this.#clicked(event);
    element.onkeydown = (event) => this.#typed(event);
  }

  show(cells, height, width) {
    super.show(cells, height, width);
    if (this.selected >= cells.length) this.selected = 0;
    this.boxes.forEach((box, index) => this.#describe(box, index));
  }

  /** Give the cell a value; the caller has checked that questions have it. */
  set(index, value) {
    const cells = this.cells.slice();
    cells[index] = value;
    this.show(cells, this.height, this.width);
    this.edited();
  }

  select(index) {
    const before = this.selected;
    this.selected = index;
    for (const each of [before, index]) this.#describe(this.boxes[each], each);
    this.boxes[index].focus();
  }

  #describe(box, index) {
    const place = `row ${Math.floor(index / this.width) + 1}, column ${(index % this.width) + 1}`;
    box.setAttribute("aria-label", `${place}: ${this.name(this.cells[index])}`);
    box.setAttribute("aria-pressed", String(index === this.selected));
    box.tabIndex = index === this.selected ? 0 : -1;
  }

  #clicked(event) {
    const index = this.boxes.indexOf(event.target.closest("button"));
    if (index >= 0) this.select(index);
  }

  #typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { vocabulary, editable, empty, blank } = this.facts;
    const value = vocabulary.indexOf(event.key);
    if (event.key in ARROWS) this.#move(ARROWS[event.key]);
    else if (["Delete", "Backspace"].includes(event.key)) this.set(this.selected, empty);
    else if (editable.includes(value)) this.set(this.selected, value);
    else if (blank !== null && BLANKS.includes(event.key) && editable.includes(blank)) this.set(this.selected, blank);
    else return;
    event.preventDefault();
  }

  #move([down, right]) {
    const row = Math.floor(this.selected / this.width) + down, column = (this.selected % this.width) + right;
    if (row < 0 || row >= this.height || column < 0 || column >= this.width) return;
    this.select(row * this.width + column);
  }
}
