import { button, element } from "./dom.js";
import { appendInline } from "./inline.js";

const FENCE = /^ {0,12}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s{0,40})([-*+]|\d{1,9}[.)])\s+(?=\S)/;
const MOST = 4000; // characters that are rendered again when one is added
const DEEPEST = 6; // lists and quotes inside of each other
const COLUMNS = 40;

const isBlank = (line) => !line.trim();
const beginsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((form) => form.test(line));

/** Lines of running text, rendered when somebody looks, not at every line. */
class Text {
  constructor(node, line) {
    this.node = node;
    this.text = line;
    this.shown = null;
  }

  get isFull() {
    return this.text.length >= MOST;
  }

  add(line) {
    this.text += "\n" + line;
  }

  show(tail = "") {
    const text = isBlank(tail) ? this.text : `${this.text}\n${tail}`;
    if (text === this.shown) return;
    this.node.replaceChildren();
    appendInline(this.node, text);
    this.shown = text;
  }
}

class Paragraph {
  constructor(blocks, line) {
    this.blocks = blocks;
    this.lines = 1;
    this.text = new Text(element("p"), line);
    blocks.done.append(this.text.node);
  }

  takes(line) {
    if (this.lines === 1 && this.text.text.includes("|") && cells(line).every((cell) => /^:?-+:?$/.test(cell))) {
      this.text.node.remove();
      this.blocks.open = new Table(this.blocks, this.text.text, line);
      return true;
    }
    if (isBlank(line) || beginsBlock(line) || this.text.isFull) return false;
    this.text.add(line);
    this.lines += 1;
    return true;
  }

  previews(tail) {
    if (beginsBlock(tail)) return false;
    this.text.show(/^[\s|:-]*$/.test(tail) ? "" : tail); // that may become a table
    return true;
  }

  show() {
    this.text.show();
  }
}

class Fence {
  constructor(blocks, line) {
    const [, marks, info] = FENCE.exec(line);
    const language = info.trim().split(/\s/, 1)[0].slice(0, 40) || "text";
    this.end = new RegExp(`^\\s{0,12}${marks[0]}{${marks.length},}\\s*$`);
    this.mark = marks[0].repeat(3);
    this.indent = /^ */.exec(line)[0].length;
    [this.code, this.tail] = [document.createTextNode(""), document.createTextNode("")];
    this.lines = []; // that are not shown yet
    const code = element("code", {}, this.code, this.tail);
    const copy = button("Copy", () => navigator.clipboard.writeText(code.textContent), { title: "Copy this code" });
    const bar = element("div", { className: "bar" }, element("span", {}, language));
    if (navigator.clipboard) bar.append(copy);
    const frame = { tabIndex: 0, role: "region", "aria-label": `Code, ${language}` };
    blocks.done.append(element("div", { className: "fence" }, bar, element("pre", frame, code)));
  }

  takes(line) {
    if (this.isEnded) return false;
    if (this.end.test(line)) this.isEnded = true;
    else this.lines.push(this.unindented(line) + "\n");
    return true;
  }

  takesPart(text) {
    if (!this.isEnded) this.lines.push(text);
    return !this.isEnded;
  }

  unindented(line) {
    return this.indent && isBlank(line.slice(0, this.indent)) ? line.slice(this.indent) : line;
  }

  previews(tail) {
    if (this.isEnded) return false;
    this.show();
    this.tail.data = tail.trimStart().startsWith(this.mark) ? "" : this.unindented(tail);
    return true;
  }

  show() {
    if (this.lines.length) this.code.appendData(this.lines.join(""));
    this.lines = [];
    this.tail.data = "";
  }
}

/** The texts of a row's cells: what lies between "|", but not "\|". */
function cells(line) {
  const inside = line.trim().replace(/^\|/, "").replace(/\|$/, "");
  return inside.split(/(?<!\\)\|/, COLUMNS).map((text) => text.trim().replaceAll("\\|", "|"));
}

class Table {
  constructor(blocks, header, separator) {
    this.aligns = cells(separator).map((cell) => (cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "end") : ""));
    this.body = element("tbody");
    const table = element("table", {}, element("thead", {}, this.row(header, "th")), this.body);
    blocks.done.append(element("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Table" }, table));
  }

  row(line, kind) {
    const row = element("tr");
    const texts = cells(line);
    this.aligns.forEach((align, column) => {
      const cell = element(kind, { className: align });
      appendInline(cell, texts[column] ?? "");
      row.append(cell);
    });
    return row;
  }

  takes(line) {
    if (!line.includes("|")) return false;
    this.body.append(this.row(line, "td"));
    return true;
  }

  previews(tail) {
    return isBlank(tail) || tail.includes("|"); // a row is shown when it is whole
  }

  show() {}
}

class List {
  constructor(blocks, line) {
    this.parent = blocks.done;
    this.levels = []; // {indent, list}, the outermost first
    this.isOrdered = /^\s*\d/.test(line);
    this.takes(line);
  }

  takes(line) {
    this.forget();
    const [wasBlank, item] = [this.isBlank, ITEM.exec(line)];
    this.isBlank = isBlank(line);
    if (this.isBlank) return true;
    if (item && !RULE.test(line)) return this.takesItem(line, item);
    if (beginsBlock(line) || (wasBlank && !/^\s{2}/.test(line)) || this.text.isFull) return false;
    this.text.add(line.trim());
    return true;
  }

  takesItem(line, item) {
    if (this.levels.length && item[1].length < 2 && /^\d/.test(item[2]) !== this.isOrdered) return false;
    this.text?.show();
    ({ text: this.text, levels: this.levels } = this.place(line, item));
    return true;
  }

  /** Puts an item into the list of its indent. Returns its text, the levels that are open then, and the topmost node that
   * is new. */
  place(line, item) {
    const levels = [...this.levels];
    while (levels.length > 1 && item[1].length < levels.at(-1).indent) levels.pop();
    const text = new Text(element("div"), line.slice(item[0].length));
    const made = element("li", {}, text.node);
    const isInner = levels.length && item[1].length > levels.at(-1).indent + 1 && levels.length < DEEPEST;
    if (levels.length && !isInner) {
      levels.at(-1).list.append(made);
      return { text, levels, made };
    }
    const list = /^\d/.test(item[2]) ? element("ol", { start: parseInt(item[2]) }, made) : element("ul", {}, made);
    (levels.at(-1)?.list.lastElementChild ?? this.parent).append(list);
    levels.push({ indent: item[1].length, list });
    return { text, levels, made: list };
  }

  previews(tail) {
    this.forget();
    const item = ITEM.exec(tail);
    if (item) {
      const placed = this.place(tail, item);
      placed.text.show();
      this.provisional = placed.made;
    }
    this.text.show(item || this.isBlank ? "" : tail.trim());
    return Boolean(item) || isBlank(tail) || (!this.isBlank && !beginsBlock(tail));
  }

  forget() {
    this.provisional?.remove();
    this.provisional = null;
  }

  show() {
    this.forget();
    this.text.show();
  }
}

class Quote {
  constructor(blocks, line) {
    const node = element("blockquote");
    blocks.done.append(node);
    this.inner = new Blocks(node, blocks.depth + 1);
    this.takes(line);
  }

  takes(line) {
    if (!QUOTE.test(line)) return false;
    this.inner.line(line.replace(QUOTE, ""));
    return true;
  }

  previews(tail) {
    if (QUOTE.test(tail)) this.inner.preview(tail.replace(QUOTE, ""));
    return isBlank(tail) || QUOTE.test(tail);
  }

  show() {
    this.inner.close();
  }
}

/** The blocks of a text that comes line by line. Finished ones are never touched again; `coming` shows the beginning of a
 * line that opens another block. */
class Blocks {
  constructor(parent, depth = 0) {
    this.depth = depth;
    this.open = null;
    [this.done, this.coming] = [element("div"), element("div")];
    parent.append(this.done, this.coming);
  }

  line(line) {
    this.coming.replaceChildren();
    if (this.open?.takes(line)) return;
    this.close();
    this.open = this.begun(line);
  }

  begun(line) {
    if (isBlank(line)) return null;
    if (FENCE.test(line)) return new Fence(this, line);
    if (HEADING.test(line)) return this.heading(line);
    if (RULE.test(line)) return this.done.append(element("hr")), null;
    if (QUOTE.test(line) && this.depth < DEEPEST) return new Quote(this, line);
    return ITEM.test(line) ? new List(this, line) : new Paragraph(this, line);
  }

  heading(line) {
    const marks = HEADING.exec(line);
    const node = element(`h${Math.min(marks[1].length + 2, 6)}`);
    appendInline(node, line.slice(marks[0].length).trim());
    this.done.append(node);
    return null;
  }

  preview(tail) {
    this.coming.replaceChildren();
    if (this.open?.previews(tail)) return;
    this.open?.show();
    const beginning = new Blocks(this.coming, this.depth);
    beginning.line(tail);
    beginning.close();
  }

  close() {
    this.open?.show();
    this.open = null;
    this.coming.replaceChildren();
  }
}

/** Shows a text in Markdown while it arrives, in time that is linear in its length: what is finished stays, and of the
 * rest at most MOST characters are rendered again. */
export class Markdown {
  constructor(parent) {
    this.blocks = new Blocks(parent);
    this.tail = "";
  }

  add(text) {
    const lines = (this.tail + text).split("\n");
    const tail = lines.pop();
    lines.forEach((line) => this.line(line));
    this.tail = this.cut(tail);
    this.blocks.preview(this.tail);
  }

  line(line) {
    this.blocks.line(this.cut(line));
  }

  /** Takes what is too much of a line, and returns the rest: it is broken at a space if there is one, but never in code. */
  cut(line) {
    let rest = line;
    while (rest.length > MOST) {
      if (this.blocks.open?.takesPart?.(rest)) return "";
      const space = rest.lastIndexOf(" ", MOST);
      const end = space > 0 ? space : MOST;
      this.blocks.line(rest.slice(0, end));
      rest = rest.slice(end).trimStart();
    }
    return rest;
  }

  end() {
    if (this.tail) this.line(this.tail);
    this.tail = "";
    this.blocks.close();
  }
}
