/** A new element. A key with a hyphen, and "role", is an attribute; every other key is a property. Children are nodes or
 * texts: the page makes all of its elements here, and no text ever becomes markup. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "role" || key.includes("-")) made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** A button that calls `action` when it is pressed. */
export function button(label, action, properties = {}) {
  return element("button", { type: "button", onclick: action, ...properties }, label);
}

export const byId = (id) => document.getElementById(id);

/** A whole number as people read it: 1,204. */
export const number = (value) => Math.round(value).toLocaleString("en");

/** Says something to screen readers. */
export function say(text) {
  byId("status").textContent = text;
}

/** Shows a sentence above the page's end until another one comes or ten seconds are over, with an action to take. */
export function notify(text, label, action) {
  const note = byId("notice");
  const close = () => note.replaceChildren();
  clearTimeout(notify.timer);
  note.replaceChildren(element("span", {}, text));
  if (label) note.append(button(label, () => (close(), action())));
  note.append(button("Close", close));
  notify.timer = setTimeout(close, 10_000);
}

/** Has the browser save `value` as a file of JSON. */
export function saveFile(name, value) {
  const url = URL.createObjectURL(new Blob([JSON.stringify(value, null, 2)], { type: "application/json" }));
  element("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
