"use strict";

const page = JSON.parse(document.getElementById("puzzles").textContent);
const looks = page.looks;
const SIDE = 10; // units of a cell

/** A packed grid [height, width, characters] as cells. */
function unpack([height, width, text]) {
  const cells = Array.from(text, (character) => character.codePointAt(0) - looks.first);
  return { height, width, cells };
}

/** The answer after each step; one that changes little is packed as place, cell, place, cell, … */
function unpackSteps(packed) {
  const grids = [];
  for (const step of packed) {
    if (step.length > 1) {
      grids.push(unpack(step));
      continue;
    }
    const before = grids[grids.length - 1];
    const cells = before.cells.slice();
    for (let at = 0; at < step[0].length; at += 2) cells[step[0][at]] = step[0][at + 1];
    grids.push({ height: before.height, width: before.width, cells });
  }
  return grids;
}

/** The value of `grid` at a row and a column, undefined outside. */
function at(grid, row, column) {
  const inside = row < grid.height && column < grid.width;
  return inside ? grid.cells[row * grid.width + column] : undefined;
}

function same(one, other) {
  return one.height === other.height && one.width === other.width && one.cells.every((cell, i) => cell === other.cells[i]);
}

/** How many cells of `right` the answer has. */
function countRight(answer, right) {
  let count = 0;
  for (let row = 0; row < right.height; row++) {
    for (let column = 0; column < right.width; column++) {
      count += at(answer, row, column) === at(right, row, column);
    }
  }
  return count;
}

function add(svg, name, attributes, text) {
  const element = document.createElementNS(svg.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  svg.append(element);
}

/** Draw a grid; with the `right` answer wrong cells are marked, with the `question` given ones. */
function draw(svg, grid, question, right) {
  const { height, width } = grid;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `-1 -1 ${Math.max(width, 1) * SIDE + 2} ${Math.max(height, 1) * SIDE + 2}`);
  svg.style.setProperty("--width", Math.max(width, 1));
  if (!grid.cells.length) {
    add(svg, "text", { x: 5, y: 5, class: "symbol" }, "∅");
    return;
  }
  const paths = new Map(); // class and colour -> path
  const put = (name, d) => paths.set(name, (paths.get(name) || "") + d);
  const dots = [], symbols = [];
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const cell = at(grid, row, column);
      const x = column * SIDE, y = row * SIDE;
      const square = `M${x} ${y}h${SIDE}v${SIDE}h-${SIDE}z`;
      const [colour, symbol] = looks.cells[cell] || ["var(--cell)", "?"]; // a model may answer with padding
      const wrong = right && cell !== at(right, row, column);
      const isBlank = question && at(question, row, column) === looks.blank;
      const isGiven = question && looks.blank >= 0 && !isBlank;
      let name = `fill:${colour}`;
      if (!looks.coloured && isGiven) name = "cell given";
      else if (!looks.coloured && right) name = wrong ? "cell wrong" : "cell right";
      put(name, square);
      if (wrong) {
        const frame = `M${x + 0.6} ${y + 0.6}h${SIDE - 1.2}v${SIDE - 1.2}h-${SIDE - 1.2}z`;
        put("halo", frame);
        put("frame", frame);
        put("corner", `M${x + 5.9} ${y + 9.6}l3.7 -3.7v3.7z`);
      }
      if (looks.dots.includes(cell)) dots.push([x + SIDE / 2, y + SIDE / 2]);
      else if (symbol && cell !== looks.blank) symbols.push([x + SIDE / 2, y + SIDE / 2, symbol, isGiven]);
    }
  }
  const behind = [...paths].filter(([name]) => name.startsWith("fill:") || name.startsWith("cell"));
  for (const [name, d] of behind) add(svg, "path", name.startsWith("fill:") ? { d, style: name } : { d, class: name });
  let rules = "";
  for (let row = 0; row <= height; row++) rules += `M0 ${row * SIDE}h${width * SIDE}`;
  for (let column = 0; column <= width; column++) rules += `M${column * SIDE} 0v${height * SIDE}`;
  add(svg, "path", { d: rules, class: looks.coloured ? "rules fine" : "rules" });
  for (const [x, y] of dots) add(svg, "circle", { cx: x, cy: y, r: 2.3, class: "dot" });
  for (const [x, y, symbol, isGiven] of symbols) {
    const size = Math.min(6.8, 13 / symbol.length);
    add(svg, "text", { x, y, class: isGiven ? "symbol given" : "symbol", "font-size": size }, symbol);
  }
  for (const name of ["halo", "frame", "corner"]) {
    if (paths.has(name) && (name !== "halo" || looks.coloured)) add(svg, "path", { d: paths.get(name), class: name });
  }
  const [boxHeight, boxWidth] = looks.boxes;
  if (boxHeight) {
    let boxes = "";
    for (let row = 0; row <= height; row += boxHeight) boxes += `M0 ${row * SIDE}h${width * SIDE}`;
    for (let column = 0; column <= width; column += boxWidth) boxes += `M${column * SIDE} 0v${height * SIDE}`;
    add(svg, "path", { d: boxes, class: "boxes" });
  }
}

/** Draw the share of right cells after each step, and where training would have halted. */
function drawSteps(svg, grids, right, halts, step) {
  const total = right ? right.cells.length : 1;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${grids.length} 13`);
  grids.forEach((grid, i) => {
    const done = right && same(grid, right);
    const share = done ? 1 : right ? Math.min(countRight(grid, right) / total, 0.95) : 1;
    const height = Math.max(10 * share, 0.4);
    const kind = (done ? "full" : "part") + (i + 1 === step ? " now" : "");
    add(svg, "rect", { x: i + 0.12, y: 10 - height, width: 0.76, height, class: kind });
  });
  if (halts) add(svg, "rect", { x: halts - 0.88, y: 11, width: 0.76, height: 2, class: "halt" });
}

/** What can be said of the answer after a step. */
function describe(puzzle, grids, right, step) {
  const grid = grids[step - 1], logit = puzzle.logits[step - 1];
  const words = [];
  if (grids.length > 1) words.push(`Step ${step} of ${grids.length}:`);
  if (right) {
    const size = grid.height === right.height && grid.width === right.width ? "" :
      `, ${grid.height} x ${grid.width} instead of ${right.height} x ${right.width}`;
    words.push(`${countRight(grid, right)} of ${right.cells.length} cells right${size},`);
  }
  if (step > 1) {
    const before = grids[step - 2];
    const moved = before.height !== grid.height || before.width !== grid.width ? "another size" :
      `${grid.cells.filter((cell, i) => cell !== before.cells[i]).length} changed`;
    words.push(`${moved},`);
  }
  const sure = Math.round(100 / (1 + Math.exp(-logit)));
  words.push(`halt\u00a0logit\u00a0${logit >= 0 ? "+" : "−"}${Math.abs(logit).toFixed(2)} (${sure}\u00a0% sure).`);
  const first = right && grids.length > 1 ? grids.findIndex((each) => same(each, right)) + 1 : 0;
  if (right && grids.length > 1) words.push(first ? `First right after step ${first}.` : "Never right.");
  return words.join(" ");
}

/** One size of cell for all grids of a puzzle, and columns wide enough for it. */
function setScale(article, grids) {
  const width = Math.max(...grids.map((grid) => grid.width)), height = Math.max(...grids.map((grid) => grid.height));
  const span = Math.max(width, height, 1);
  const isLong = width > 2.5 * height && width > 6;
  const column = isLong ? 99 : span > 12 ? 9.8 : Math.min(Math.max(5.4, 1.05 * span), 8.2);
  article.style.setProperty("--span", span);
  article.style.setProperty("--column", `${column}rem`);
}

function show(article, puzzle) {
  const question = unpack(puzzle.question), right = puzzle.right ? unpack(puzzle.right) : null;
  const grids = unpackSteps(puzzle.steps);
  setScale(article, [question, ...grids, ...(right ? [right] : []), ...puzzle.attempts.map(unpack)]);
  const find = (name) => article.querySelector(`[data-grid="${name}"]`);
  const given = looks.blank >= 0 ? question : null;
  draw(find("question"), question, given, null);
  if (right) draw(find("right"), right, given, null);
  const demos = article.querySelector(".demos");
  if (demos) setScale(demos, puzzle.demos.flat().map(unpack));
  for (const svg of article.querySelectorAll('[data-grid="demo"]')) {
    draw(svg, unpack(puzzle.demos[svg.dataset.number][svg.dataset.side]), null, null);
  }
  for (const svg of article.querySelectorAll('[data-grid="attempt"]')) {
    draw(svg, unpack(puzzle.attempts[svg.dataset.number]), null, right);
  }
  const slider = article.querySelector("input"), said = article.querySelector(".said");
  const turn = () => {
    const step = slider ? Number(slider.value) : grids.length;
    draw(find("answer"), grids[step - 1], given, right);
    said.textContent = describe(puzzle, grids, right, step);
    if (!slider) return;
    article.querySelector(".after").textContent = `after step ${step}`;
    slider.setAttribute("aria-valuetext", `step ${step} of ${grids.length}`);
    drawSteps(article.querySelector(".steps"), grids, right, puzzle.halts, step);
  };
  if (slider) {
    slider.value = grids.length; // a browser may remember another
    slider.addEventListener("input", turn);
  }
  turn();
}

for (const name of ["gallery", "mistakes"]) {
  page[name].forEach((puzzle, i) => show(document.getElementById(`${name}-${i}`), puzzle));
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
