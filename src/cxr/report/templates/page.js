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
