import * as kept from "./conversations.js";
import { button, byId, element, saveFile } from "./dom.js";

/** The list of conversations. `actions` has open(conversation), fresh(), renamed(conversation, title) and
 * removed(conversation). */
export class Side {
  constructor(actions) {
    this.actions = actions;
    byId("new").onclick = () => (this.fold(), actions.fresh());
    byId("menu").onclick = () => this.fold(byId("menu").getAttribute("aria-expanded") === "false");
    document.querySelector("main").onclick = (event) => event.target.id === "menu" || this.fold();
    byId("export-all").onclick = () => saveFile("elm-mlx-conversations.json", kept.all());
  }

  /** Shows or hides the list where the screen is too narrow for both. */
  fold(isOpen = false) {
    byId("menu").setAttribute("aria-expanded", String(isOpen));
    document.body.classList.toggle("with-side", isOpen);
    if (isOpen) byId("new").focus();
  }

  show(current) {
    const items = kept.all().map((conversation) => this.item(conversation, conversation.id === current.id));
    byId("list").replaceChildren(...items);
  }

  item(conversation, isCurrent) {
    const open = button(conversation.title, () => (this.fold(), this.actions.open(conversation)), { className: "title" });
    if (!isCurrent) return element("li", {}, open);
    open.setAttribute("aria-current", "true");
    const item = element("li", {}, open, element("p", { className: "actions" },
      button("Rename", () => open.replaceWith(this.renamer(conversation))),
      button("Export", () => saveFile(`elm-mlx-${conversation.id}.json`, kept.kept(conversation.id))),
      button("Delete", () => this.actions.removed(conversation))));
    return item;
  }

  renamer(conversation) {
    const input = element("input", { value: conversation.title, maxLength: 100, "aria-label": "New title" });
    const end = () => this.actions.renamed(conversation, input.value.trim() || conversation.title);
    input.onblur = end;
    input.onkeydown = (event) => {
      if (event.key === "Escape") input.value = "";
      if (event.key === "Enter" || event.key === "Escape") event.stopPropagation(), input.blur();
    };
    queueMicrotask(() => input.select());
    return input;
  }
}
