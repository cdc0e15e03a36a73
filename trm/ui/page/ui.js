/** The page of `trm ui`: one puzzle, one or two models, and a timeline of their forward passes. */

import { get, postLines } from "./api.js";
import { Panel } from "./panel.js";
import { Puzzle } from "./puzzle.js";

const element = (id) => document.getElementById(id);
const INTERVAL = 120; // milliseconds of a frame
let models = [], panels = [], fields = [];
let running = null; // the AbortController of the traces
let player = 0; // the timer of the animation
let loading = 0; // requests

/** Run a function; show its error. */
async function attempt(action) {
  element("error").textContent = "";
  try {
    await action();
  } catch (error) {
    if (error.name !== "AbortError") element("error").textContent = error.message;
  }
}

/** As `attempt`, for what has to be loaded before puzzles can be solved. */
async function load(action) {
  loading += 1;
  showBusy();
  await attempt(action);
  loading -= 1;
  showBusy();
}

function showBusy() {
  element("busy").textContent = loading ? "Loading …" : "";
  element("solve").disabled = loading > 0 || running !== null;
  element("stop").disabled = running === null;
}

const puzzle = new Puzzle(load, () => {
  running?.abort();
  pause();
  panels.forEach((panel) => panel.reset());
  showTime();
});

const find = (name) => models.find((model) => model.name === name);

async function chooseModel(panel) {
  const name = panel.model, facts = await get("ui/model", { name });
  if (panel.model !== name) return; // another one has been chosen since
  if (panel === panels[0]) {
    const isSame = Boolean(puzzle.facts) && find(panel.model).puzzles === puzzle.kind;
    puzzle.kind = find(panel.model).puzzles;
    element("title").textContent = `${facts.title} ${facts.height} x ${facts.width}`;
    panels.forEach((each) => each.setFacts(facts));
    await puzzle.setModel(panel.model, facts, isSame);
    offerSecond();
  } else {
    panel.setFacts(facts);
  }
  showTime();
}

/** The second panel has the models that solve the same puzzles. */
function offerSecond() {
  panels[1]?.offer(models.filter((model) => model.puzzles === puzzle.kind), panels[1].model || panels[0].model);
}

function addPanel(name) {
  const panel = new Panel(name, fields, (changed) => load(() => chooseModel(changed)));
  panels.push(panel);
  element("models").insertBefore(panel.parts.choice, element("busy"));
  element("panels").append(panel.root);
  return panel;
}

function compare() {
  if (element("compare").checked) {
    const panel = addPanel("B");
    offerSecond();
    panel.setFacts(puzzle.facts);
  } else panels.pop().remove();
  panels.forEach((panel) => panel.rename(panels.length));
  showTime();
}

async function solve() {
  running?.abort();
  pause();
  const control = (running = new AbortController());
  showBusy();
  panels.forEach((panel) => panel.reset());
  element("time").value = 0;
  await Promise.all(panels.map((panel) => traceOf(panel, control)));
  if (running !== control) return;
  running = null;
  showBusy();
  announce(panels.map((panel) => `${named(panel)}${panel.outcome()}`).join(" "));
}

async function traceOf(panel, control) {
  const body = { model: panel.model, puzzle: puzzle.request, every_pass: element("every-pass").checked, ...panel.settings.values() };
  let drawn = 0;
  try {
    for await (const line of postLines("ui/trace", body, control.signal)) {
      const time = element("time"), isAtEnd = Number(time.value) >= Number(time.max);
      panel.add(line);
      time.max = Math.max(length() - 1, 0);
      if (isAtEnd) time.value = time.max;
      if (performance.now() - drawn > INTERVAL / 2 || line.end) {
        drawn = performance.now();
        showTime();
      }
    }
  } catch (error) {
    if (running !== control && error.name === "AbortError" && !panel.frames.length) return;
    panel.add({ error: error.name === "AbortError" ? "Stopped." : error.message });
  }
  showTime();
}

const length = () => Math.max(0, ...panels.map((panel) => panel.frames.length));
const named = (panel) => (panels.length > 1 ? `${panel.name}: ` : "");

function showTime() {
  const count = length(), time = element("time");
  time.max = Math.max(count - 1, 0);
  const number = Number(time.value);
  for (const id of ["play", "back", "forward", "time"]) element(id).disabled = count === 0;
  const longest = panels.find((panel) => panel.frames.length === count);
  const frame = longest?.frames[number];
  const words = frame ? `Frame ${number + 1} of ${count}: step ${frame.step}, round ${frame.round}, pass ${frame.pass}` : "No trace";
  element("place").textContent = words;
  time.setAttribute("aria-valuetext", words);
  panels.forEach((panel) => panel.show(number));
}

/** Tell screen readers, but not during an animation. */
function announce(text = panels.map((panel) => named(panel) + panel.describe(Number(element("time").value))).join(" ")) {
  element("announcement").textContent = text;
}

function pause() {
  clearInterval(player);
  player = 0;
  element("play").textContent = "Play";
}

function play() {
  if (player) {
    pause();
    announce();
    return;
  }
  const time = element("time");
  if (Number(time.value) >= Number(time.max)) time.value = 0;
  element("play").textContent = "Pause";
  player = setInterval(() => {
    time.value = Number(time.value) + 1;
    showTime();
    if (Number(time.value) >= Number(time.max) && !running) {
      pause();
      announce();
    }
  }, INTERVAL);
}

/** Go to the end of the next or previous step. */
function step(direction) {
  pause();
  const time = element("time"), frames = panels.find((panel) => panel.frames.length === length()).frames;
  let number = Number(time.value) + direction;
  while (frames[number] && !frames[number].ends_step) number += direction;
  time.value = Math.min(Math.max(number, 0), frames.length - 1);
  showTime();
  announce();
}

element("solve").addEventListener("click", () => attempt(solve));
element("stop").addEventListener("click", () => running?.abort());
element("compare").addEventListener("change", compare);
element("play").addEventListener("click", play);
element("back").addEventListener("click", () => step(-1));
element("forward").addEventListener("click", () => step(1));
element("time").addEventListener("input", () => {
  pause();
  showTime();
});
element("time").addEventListener("change", () => announce());

await load(async () => {
  ({ models, settings: fields } = await get("ui/models"));
  const panel = addPanel("A");
  panel.rename(1);
  panel.offer(models);
  await chooseModel(panel);
});
document.documentElement.dataset.ready = "true";
