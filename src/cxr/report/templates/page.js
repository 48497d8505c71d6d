// Open the part that a link leads to, and all parts to print them.
const openPart = () => {
  const part = location.hash && document.getElementById(location.hash.slice(1));
  if (part && part.matches("details")) {
    part.open = true;
    part.scrollIntoView();
  }
};
addEventListener("hashchange", openPart);
openPart();
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.part")) part.open = true;
});

// Show the maps of the chosen finding only.
const meanings = {{ report.findings | tojson }};
const choices = document.getElementById("label-switch");
if (choices) {
  choices.addEventListener("change", (event) => {
    const chosen = event.target.value;
    for (const map of document.querySelectorAll("[data-finding]")) {
      map.hidden = map.dataset.finding !== chosen;
    }
    document.getElementById("label-meaning").textContent =
      Object.hasOwn(meanings, chosen) ? `${chosen}: ${meanings[chosen]}` : chosen;
  });
}
