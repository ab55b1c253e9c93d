// Small comforts; every page works without them.

// The system's preference, unless the visitor chose light or dark. Runs in the head, before anything is painted.
const root = document.documentElement;
if (root.dataset.theme === "auto") {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = () => { root.dataset.bsTheme = dark.matches ? "dark" : "light"; };
  dark.addEventListener("change", apply);
  apply();
}

addEventListener("DOMContentLoaded", () => {
  // A choice in a filter shows its result at once.
  for (const form of document.querySelectorAll("form[data-submit-on-change]")) {
    form.addEventListener("change", (event) => {
      if (event.target.type !== "search") form.requestSubmit();
    });
  }

  // The colour field shows its colour while it is typed, and a picker stands beside it.
  const hex = document.querySelector("input[data-hex]");
  if (!hex) return;
  const preview = document.querySelector("[data-hex-preview]");
  const picker = document.querySelector("input[data-hex-picker]");
  picker.hidden = false;
  const show = () => {
    const found = /^#?([0-9a-f]{6})$/i.exec(hex.value.trim());
    if (!found) return;
    picker.value = `#${found[1]}`.toLowerCase();
    preview.style.backgroundColor = picker.value;
  };
  hex.addEventListener("input", show);
  picker.addEventListener("input", () => { hex.value = picker.value.toUpperCase(); show(); });
  show();
});
