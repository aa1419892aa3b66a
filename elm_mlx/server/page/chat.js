import { figures } from "./answer.js";
import { branch, siblings } from "./conversations.js";
import { button, byId, element } from "./dom.js";
import { Markdown } from "./markdown.js";

/** One answer on the page: reasoning, text, calls, an error, figures. `update` adds what is new. */
class AnswerView {
  constructor(answer) {
    this.answer = answer;
    this.reasoning = element("p");
    this.fold = element("details", { hidden: true }, element("summary", {}, "Reasoning"), this.reasoning);
    this.text = element("div", { className: "text" });
    this.calls = element("div");
    this.figures = element("span", { className: "quiet" });
    this.node = element("div", {}, this.fold, this.text, this.calls);
    this.markdown = new Markdown(this.text);
    [this.shown, this.reasoned, this.isDue] = [0, 0, false];
  }

  /** Shows the answer at the next frame, however often it changes before. */
  later(after) {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => (this.isDue = false, this.update(), after()));
  }

  update() {
    const { content, reasoning, calls } = this.answer;
    if (content.length > this.shown) this.markdown.add(content.slice(this.shown));
    if (reasoning.length > this.reasoned) this.reasoning.append(reasoning.slice(this.reasoned));
    [this.shown, this.reasoned] = [content.length, reasoning.length];
    this.fold.hidden = !reasoning;
    this.calls.replaceChildren(
      ...calls.map((call) => element("pre", { className: "call" }, `Calls ${call.name}(${call.arguments})`)),
    );
    this.figures.textContent = figures(this.answer);
  }

  end() {
    this.update();
    this.markdown.end();
  }
}

/** An error's sentence, and the way to try again. */
export function errorBox(sentence, again) {
  return element("div", { className: "error", role: "group", "aria-label": "Error" },
    element("p", {}, sentence), button("Try again", again));
}

/** The messages of the branch that is shown. `actions` has edit(node, text), again(node) and show(node). */
export class ChatView {
  constructor(actions) {
    this.actions = actions;
    this.isAtEnd = true;
    const scroll = byId("scroll");
    scroll.addEventListener("scroll", () => {
      this.isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
    }, { passive: true });
  }

  /** Shows a conversation anew. The view of the answer with the id `running` stays open, and is returned. */
  show(conversation, running = null) {
    let open = null;
    const items = branch(conversation).map((node) => {
      if (node.role === "user") return this.question(conversation, node);
      const view = new AnswerView(node);
      node.id === running ? (open = view).update() : view.end();
      return this.answer(conversation, node, view, node.id === running);
    });
    byId("turns").replaceChildren(...(items.length ? items : [this.welcome()]));
    this.isAtEnd = true;
    this.follow();
    return open;
  }

  /** The answer of `view` is complete: what can be done with it appears. */
  end(conversation, view) {
    view.end();
    view.item.replaceWith(this.answer(conversation, view.answer, view, false));
    this.follow();
  }

  welcome() {
    return element("li", { className: "welcome" }, element("h2", {}, "What would you like to know?"),
      element("p", { className: "quiet" }, "The model runs on the machine of this server. Nothing goes anywhere else."));
  }

  /** Keeps the end in sight, unless the reader has scrolled away. */
  follow() {
    if (this.isAtEnd) byId("scroll").scrollTop = byId("scroll").scrollHeight;
  }

  question(conversation, node) {
    const text = element("p", { className: "bubble" }, node.content);
    const edit = button("Edit", () => item.replaceChildren(this.editor(node, () => this.actions.show(node))));
    const bar = element("p", { className: "actions" }, edit, ...this.versions(conversation, node));
    const item = element("li", { className: "user", "aria-label": "You" }, text, bar);
    return item;
  }

  answer(conversation, node, view, isRunning) {
    const bar = element("p", { className: "actions" });
    if (!isRunning && navigator.clipboard) bar.append(button("Copy", () => navigator.clipboard.writeText(node.content)));
    if (!isRunning) bar.append(button("Regenerate", () => this.actions.again(node)));
    bar.append(...this.versions(conversation, node), view.figures);
    const error = node.error ? [errorBox(node.error, () => this.actions.again(node))] : [];
    const label = `Answer of ${node.model}`;
    const properties = { className: "assistant", "aria-label": label, "aria-busy": String(isRunning) };
    return (view.item = element("li", properties, view.node, ...error, bar));
  }

  /** Ways to the other versions of a message: those that were edited, or asked for again. */
  versions(conversation, node) {
    const all = siblings(conversation, node);
    if (all.length < 2) return [];
    const at = all.indexOf(node);
    const to = (label, name, other) =>
      button(label, () => this.actions.show(other), { "aria-label": name, disabled: !other });
    const place = element("span", { className: "quiet" }, `${at + 1} of ${all.length}`);
    return [to("‹", "Earlier version", all[at - 1]), place, to("›", "Later version", all[at + 1])];
  }

  editor(node, cancel) {
    const text = element("textarea", { value: node.content, rows: Math.min(node.content.split("\n").length + 1, 12) });
    text.setAttribute("aria-label", "Your message, changed");
    const send = () => text.value.trim() && this.actions.edit(node, text.value);
    text.onkeydown = (event) => {
      if (event.key === "Escape") event.stopPropagation(), cancel();
      if (isSend(event)) event.preventDefault(), send();
    };
    queueMicrotask(() => text.focus());
    return element("div", { className: "editor" }, text,
      element("p", { className: "actions" }, button("Cancel", cancel), button("Send", send, { className: "main" })));
  }
}

const isTouched = matchMedia("(pointer: coarse)"); // there Enter is for new lines, as its key says

/** Whether a key sends what was typed: Enter, but not with Shift, nor while an input method composes a character. */
export function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !isTouched.matches;
}
