// Where pictures come from: files that are picked, dropped or pasted.

import { byId } from "./dom.js";

/** Calls `take(files)` for each of them. */
export function listen(take) {
  const input = byId("files");
  for (const button of document.querySelectorAll("[data-pick]")) button.onclick = () => input.click();
  input.onchange = () => {
    take([...input.files]);
    input.value = ""; // the same file may be picked again
  };
  document.addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return; // text goes where the cursor is
    event.preventDefault();
    take([...event.clipboardData.files]);
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("drop").hidden = ![...event.dataTransfer.types].includes("Files");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) byId("drop").hidden = true;
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").hidden = true;
    take([...event.dataTransfer.files]);
  });
}
