import { byId, element } from "./dom.js";

const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0: always the likeliest token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "the likeliest tokens up to this share" },
  { name: "top_k", label: "Top k", min: 0, step: 1, hint: "only the k likeliest tokens; 0: all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "at least this share of the likeliest one" },
  { name: "repetition_penalty", label: "Repetition penalty", min: 0.1, max: 2, step: 0.01, hint: "1: none" },
  { name: "max_tokens", label: "Longest answer", min: 1, step: 1, hint: "in tokens" },
  { name: "seed", label: "Seed", min: 0, max: 2 ** 32 - 1, step: 1, hint: "the same seed gives the same answer" },
];

/** The dialog with the system prompt and the sampling options. It changes the conversation that `current` gives, and
 * calls `changed` after that. */
export class Settings {
  constructor(current, changed) {
    [this.current, this.changed] = [current, changed];
    this.inputs = FIELDS.map((field) => this.input(field));
    byId("system").onchange = (event) => this.set((conversation) => (conversation.system = event.target.value));
    byId("open-settings").onclick = () => this.open();
    byId("close-settings").onclick = () => this.close();
    byId("clear-options").onclick = () => this.clear();
  }

  input({ label, hint, ...properties }) {
    const input = element("input", { type: "number", inputMode: "decimal", ...properties });
    input.onchange = () => input.reportValidity() && this.set(({ options }) => this.takeOption(options, input));
    input.setAttribute("aria-description", hint);
    byId("options").append(element("label", {}, label, input, element("small", {}, hint)));
    return input;
  }

  takeOption(options, input) {
    if (input.value === "") delete options[input.name];
    else options[input.name] = input.valueAsNumber;
  }

  set(change) {
    change(this.current());
    this.changed();
  }

  open() {
    const { system, options } = this.current();
    byId("system").value = system;
    this.inputs.forEach((input) => (input.value = options[input.name] ?? ""));
    byId("settings").showModal();
  }

  close() {
    if (this.inputs.every((input) => input.reportValidity())) byId("settings").close();
  }

  clear() {
    this.set((conversation) => Object.assign(conversation, { system: "", options: {} }));
    byId("settings").close();
    this.open();
  }
}
