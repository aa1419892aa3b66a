import { emptyAnswer, figures, fill, tokensInContext } from "./answer.js";
import { ChatView, isSend } from "./chat.js";
import { CompletionView } from "./completion.js";
import * as kept from "./conversations.js";
import { byId, notify, number, say } from "./dom.js";
import { keepKey, models } from "./server.js";
import { Settings } from "./settings.js";
import { Side } from "./side.js";

const KEYS = {
  chat: "Enter sends · Shift+Enter: a new line · Esc stops · ↑ edits your last message · / goes to the message",
  completion: "Ctrl+Enter writes on · Esc stops",
};

/** The messages that the server gets. An answer that never came leaves two questions, which become one: templates want
 * turns that alternate. */
function messagesOf(conversation) {
  const messages = conversation.system.trim() ? [{ role: "system", content: conversation.system }] : [];
  for (const { role, content } of kept.branch(conversation)) {
    if (role === "assistant" && !content) continue;
    if (role === "user" && messages.at(-1)?.role === "user") messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role, content });
  }
  return messages;
}

/** The page: the conversation that is shown, and the request that runs, if one does. */
class App {
  constructor() {
    this.conversation = kept.lastShown() ?? kept.newConversation();
    this.running = null; // an AbortController
    [this.timer, this.pending] = [null, null]; // of the conversation that is to be kept soon
    this.deleted = new Set(); // ids: an answer that still ends must not bring its conversation back
    this.models = [];
    this.chat = new ChatView({
      edit: (node, text) => this.ask(node.parent, text),
      again: (node) => this.again(node),
      show: (node) => this.showBranch(node),
    });
    this.completion = new CompletionView({ go: () => this.goOn(), changed: (text) => this.textChanged(text) });
    this.settings = new Settings(() => this.conversation, () => this.keep(this.conversation));
    this.side = new Side({
      open: (conversation) => conversation.id === this.conversation.id || this.open(conversation),
      fresh: () => this.open(kept.newConversation(this.conversation)),
      renamed: (conversation, title) => this.rename(conversation, title),
      removed: (conversation) => this.remove(conversation),
    });
  }

  async start() {
    this.listen();
    this.open(this.conversation);
    await this.loadModels();
  }

  async loadModels() {
    try {
      this.models = await models();
    } catch (error) {
      if (error.status === 401) return this.askKey(error, () => this.loadModels());
      return notify(error.message, "Try again", () => this.loadModels());
    }
    byId("model").replaceChildren(...this.models.map(({ id }) => new Option(id, id)));
    this.chooseModel(this.conversation.model ?? localStorage.getItem("elm-mlx.model"));
  }

  get model() {
    return this.models.find(({ id }) => id === byId("model").value);
  }

  /** Chooses a model by its id, the first one if there is none of that id. A conversation that has not begun is asked as
   * the model wants to be. */
  chooseModel(id) {
    if (this.models.some((model) => model.id === id)) byId("model").value = id;
    if (!kept.isEmpty(this.conversation)) return this.showContext();
    this.setMode(this.model?.has_chat_template === false ? "completion" : "chat");
  }

  setMode(mode) {
    this.conversation.mode = mode;
    for (const radio of document.getElementsByName("mode")) radio.checked = radio.value === mode;
    byId("chat").hidden = mode !== "chat";
    byId("completion").hidden = mode === "chat";
    byId("keys").textContent = KEYS[mode];
    this.showContext();
  }

  open(conversation) {
    this.stop();
    this.keepNow();
    this.conversation = conversation;
    kept.remember(conversation.id);
    this.chat.show(conversation);
    this.completion.show(conversation);
    this.setMode(conversation.mode ?? "chat");
    this.chooseModel(conversation.model ?? byId("model").value);
    this.side.show(conversation);
    this.focus();
  }

  focus() {
    byId(this.conversation.mode === "chat" ? "question" : "text").focus();
  }

  keep(conversation) {
    if (kept.isEmpty(conversation) || this.deleted.has(conversation.id)) return;
    conversation.changed = Date.now();
    try {
      const dropped = kept.keep(conversation);
      if (dropped.length) notify(`To make room, this browser has forgotten: ${dropped.join(", ")}`);
    } catch {
      notify("This browser cannot keep this conversation. Export or delete some, then go on.");
    }
    this.side.show(this.conversation);
  }

  rename(conversation, title) {
    const { changed } = conversation;
    const shown = conversation.id === this.conversation.id ? this.conversation : conversation;
    shown.title = title;
    this.keep(Object.assign(shown, { changed }));
  }

  remove(conversation) {
    kept.remove(conversation.id);
    this.deleted.add(conversation.id);
    this.open(kept.newConversation(conversation));
    notify(`“${conversation.title}” is deleted.`, "Undo", () => {
      this.deleted.delete(conversation.id);
      this.keep(conversation);
      this.open(conversation);
    });
  }

  /** Asks a question after the node with the id `parent`. */
  ask(parent, text) {
    if (this.running) return;
    this.conversation.title ||= text.trim().slice(0, 60);
    const question = kept.addNode(this.conversation, parent, { role: "user", content: text });
    return this.answer(question.id);
  }

  send() {
    const text = byId("question").value;
    if (this.running || !text.trim()) return;
    byId("question").value = "";
    this.resize();
    this.ask(this.conversation.head, text);
  }

  /** Asks once more for an answer. What failed without a word is not worth keeping. */
  again(node) {
    if (this.running) return;
    const { conversation } = this;
    if (node.error && !node.content) conversation.nodes = conversation.nodes.filter((other) => other !== node);
    conversation.head = node.parent;
    return this.answer(node.parent);
  }

  showBranch(node) {
    if (this.running) return;
    kept.showBranch(this.conversation, node);
    this.keep(this.conversation);
    this.chat.show(this.conversation);
    this.showContext();
  }

  async answer(question) {
    const { conversation } = this;
    const body = { messages: messagesOf(conversation), ...this.wishes() };
    const answer = kept.addNode(conversation, question, emptyAnswer(body.model));
    const view = this.chat.show(conversation, answer.id);
    const changed = () => view.later(() => this.chat.follow());
    const error = await this.run(answer, "v1/chat/completions", body, changed);
    if (conversation === this.conversation) this.chat.end(conversation, view);
    if (error?.status === 401) this.askKey(error, () => this.again(answer));
    else if (error) await this.offerCompletion();
  }

  /** After an error: where the model, now that it is loaded, says that it has no chat template, the other pane helps. */
  async offerCompletion() {
    this.models = await models().catch(() => this.models);
    if (this.model?.has_chat_template !== false) return;
    const open = () => (this.setMode("completion"), this.focus());
    notify(`${this.model.id} has no chat template. It can write on from a text.`, "Open the completion pane", open);
  }

  async goOn() {
    if (this.running) return this.stop();
    const { conversation, completion } = this;
    if (!byId("text").value) return;
    const answer = emptyAnswer(byId("model").value);
    const body = { prompt: byId("text").value, ...this.wishes() };
    completion.begin();
    const changed = (text) => conversation === this.conversation && completion.add(text, answer);
    const error = await this.run(answer, "v1/completions", body, changed);
    if (conversation === this.conversation) completion.end(answer);
    if (error?.status === 401) this.askKey(error, () => completion.again());
  }

  textChanged(text) {
    this.conversation.text = text;
    this.conversation.title ||= text.trim().slice(0, 60);
    this.keepSoon(this.conversation);
  }

  /** What all requests have: the model, and those options that somebody has chosen. */
  wishes() {
    this.conversation.model = byId("model").value;
    return { model: this.conversation.model, ...this.conversation.options };
  }

  /** Runs one request to its end, by itself or by Stop. Returns the error, if there was one. */
  async run(answer, path, body, changed) {
    const { conversation } = this;
    const running = (this.running = new AbortController());
    this.showRunning();
    say("The model answers.");
    this.keep(conversation);
    const error = await fill(answer, path, body, running.signal, (text) => (changed(text), this.keepSoon(conversation)));
    if (this.running === running) this.running = null;
    this.showRunning();
    this.last = answer;
    this.keep(conversation);
    this.showContext();
    say(error ? `Error: ${error.message}` : `The answer is complete: ${figures(answer)}`);
    return error;
  }

  stop() {
    this.running?.abort();
    this.running = null;
  }

  keepSoon(conversation) {
    if (this.pending !== conversation) this.keepNow();
    this.pending = conversation;
    this.timer ??= setTimeout(() => this.keepNow(), 2000);
  }

  /** Keeps what waits to be kept. */
  keepNow() {
    clearTimeout(this.timer);
    const { pending } = this;
    [this.timer, this.pending] = [null, null];
    if (pending) this.keep(pending);
  }

  showRunning() {
    byId("send").textContent = this.running ? "Stop" : "Send";
  }

  showContext() {
    const { conversation } = this;
    const answer = conversation.mode === "chat" ? kept.branch(conversation).findLast((node) => node.usage) : this.last;
    const [used, most] = [tokensInContext(answer), this.model?.context_length];
    byId("context").hidden = !used || !most;
    Object.assign(byId("meter"), { max: most || 1, high: 0.85 * most || 1, value: used });
    byId("context").querySelector("span").textContent = `${number(used)} of ${number(most ?? 0)} tokens`;
  }

  askKey(error, then) {
    byId("key-reason").textContent = error.message;
    byId("use-key").onclick = () => {
      keepKey(byId("key-text").value);
      byId("key-text").value = "";
      byId("key").close();
      then();
    };
    byId("key").showModal();
  }

  resize() {
    byId("question").rows = Math.min(byId("question").value.split("\n").length, 8);
  }

  setTheme(isDark) {
    byId("theme").setAttribute("aria-pressed", String(isDark));
    byId("theme").textContent = isDark ? "Light" : "Dark";
  }

  listen() {
    byId("ask").onsubmit = (event) => (event.preventDefault(), this.send());
    byId("send").onclick = (event) => this.running && (event.preventDefault(), this.stop());
    byId("question").oninput = () => this.resize();
    byId("question").onkeydown = (event) => this.questionKey(event);
    byId("key-text").onkeydown = (event) => event.key === "Enter" && byId("use-key").click();
    byId("model").onchange = (event) => this.modelChosen(event.target.value);
    for (const radio of document.getElementsByName("mode")) radio.onchange = () => (this.setMode(radio.value), this.focus());
    document.addEventListener("keydown", (event) => this.pageKey(event));
    addEventListener("pagehide", () => this.keepNow());
    addEventListener("storage", () => this.side.show(this.conversation));
    this.listenTheme();
  }

  modelChosen(id) {
    localStorage.setItem("elm-mlx.model", id);
    this.chooseModel(id);
  }

  listenTheme() {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
    const show = () => this.setTheme(isDark());
    system.onchange = show;
    byId("theme").onclick = () => {
      localStorage.setItem("elm-mlx.theme", (document.documentElement.dataset.theme = isDark() ? "light" : "dark"));
      show();
    };
    show();
  }

  questionKey(event) {
    if (isSend(event)) event.preventDefault(), this.send();
    if (event.key !== "ArrowUp" || byId("question").value) return;
    [...byId("turns").querySelectorAll(".user .actions button:first-child")].at(-1)?.click();
  }

  pageKey(event) {
    const isTyping = event.target.matches("input, textarea, select");
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) this.stop(), this.side.fold();
    if (event.key === "/" && !isTyping) event.preventDefault(), this.focus();
  }
}

new App().start();
