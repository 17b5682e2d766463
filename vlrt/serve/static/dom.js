// Elements. Text is only ever text: what a model says is never read as markup.

/** An element with properties, and children that are nodes or text. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A picture in small; its kind where the browser cannot show it. */
export function preview(picture, alt) {
  if (picture.width) return element("img", { src: picture.preview, alt });
  return element("span", { className: "kind" }, picture.name.split(".").pop().slice(0, 4));
}

export function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);
