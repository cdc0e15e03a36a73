/** The form of the settings, built from the fields that the server lists. */

export class Settings {
  /** prefix: start of the ids, different for each form. */
  constructor(element, fields, prefix) {
    this.inputs = new Map();
    const seed = { name: "seed", type: "integer", minimum: 0, default: 0, description: "Seed of the augmentations and the noise." };
    for (const field of [...fields, seed]) element.append(this.#row(field, `${prefix}-${field.name}`));
  }

  /** The changed settings and the seed. An empty field has the default of the server. */
  values() {
    const settings = {};
    let seed = 0;
    for (const [name, { input, field }] of this.inputs) {
      const text = input.value.trim();
      if (field.type !== "boolean" && text === "") continue;
      const value = field.type === "boolean" ? input.checked : field.enum ? text : Number(text);
      if (name === "seed") seed = value;
      else settings[name] = value;
    }
    return { settings, seed };
  }

  #row(field, id) {
    const row = document.createElement("div"), label = document.createElement("label");
    const note = document.createElement("p"), input = this.#input(field);
    row.className = "setting";
    label.htmlFor = input.id = id;
    label.textContent = field.name;
    note.className = "note";
    note.id = `${id}-note`;
    note.textContent = field.description;
    input.setAttribute("aria-describedby", note.id);
    row.append(label, input, note);
    this.inputs.set(field.name, { input, field });
    return row;
  }

  #input(field) {
    if (field.enum) {
      const select = document.createElement("select");
      for (const value of field.enum) select.append(new Option(value, value, value === field.default, value === field.default));
      return select;
    }
    const input = document.createElement("input");
    if (field.type === "boolean") {
      input.type = "checkbox";
      input.checked = field.default;
      return input;
    }
    input.type = "number";
    if (field.minimum !== undefined) input.min = field.minimum;
    if (field.maximum !== undefined) input.max = field.maximum;
    input.step = field.type === "integer" ? 1 : "any";
    input.value = field.default;
    return input;
  }
}
