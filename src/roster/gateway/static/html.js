// Templates: html`<p>${text}</p>` makes elements; what is put in is text or a property, never markup.
import { Component, Fragment, createRef, h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export const html = htm.bind(h);
export { Component, Fragment, createRef, render };
