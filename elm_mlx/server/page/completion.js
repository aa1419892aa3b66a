import { figures } from "./answer.js";
import { errorBox } from "./chat.js";
import { byId } from "./dom.js";

/** The pane in which a model writes on from the end of a text. `actions` has go() and changed(text). */
export class CompletionView {
  constructor(actions) {
    this.actions = actions;
    this.text = byId("text");
    this.before = null; // the text as it was before the model's last part
    this.text.oninput = () => this.typed();
    this.text.onkeydown = (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.preventDefault(), actions.go();
    };
    byId("go-on").onclick = () => actions.go();
    byId("take-back").onclick = () => this.takeBack();
    byId("again").onclick = () => this.again();
  }

  show(conversation) {
    this.text.value = conversation.text ?? "";
    this.before = null;
    byId("figures").textContent = "";
    byId("completion-error").replaceChildren();
    this.setRunning(false);
  }

  typed() {
    this.before = null;
    this.setRunning(false);
    this.actions.changed(this.text.value);
  }

  takeBack() {
    this.text.value = this.before;
    this.typed();
    this.text.focus();
  }

  again() {
    this.takeBack();
    this.actions.go();
  }

  begin() {
    this.before = this.text.value;
    byId("completion-error").replaceChildren();
    this.setRunning(true);
  }

  add(text, answer) {
    const isAtEnd = this.text.scrollHeight - this.text.scrollTop - this.text.clientHeight < 60;
    const end = this.text.value.length;
    this.text.setRangeText(text, end, end, "end");
    byId("figures").textContent = figures(answer);
    if (isAtEnd) this.text.scrollTop = this.text.scrollHeight;
  }

  end(answer) {
    this.setRunning(false);
    byId("figures").textContent = figures(answer);
    this.actions.changed(this.text.value);
    if (answer.error) byId("completion-error").replaceChildren(errorBox(answer.error, () => this.again()));
  }

  setRunning(isRunning) {
    byId("go-on").textContent = isRunning ? "Stop" : "Write on";
    this.text.readOnly = isRunning;
    for (const id of ["take-back", "again"]) byId(id).disabled = isRunning || this.before === null;
  }
}
